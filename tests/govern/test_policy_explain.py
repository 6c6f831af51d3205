"""An explanation says which rules decided, and what would have to be different: tried, not guessed."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest

from allod.core.labels import Label
from allod.core.nations.profile import read_nation
from allod.govern.policy.decision import default_text, load_policy
from allod.govern.policy.explain import explain
from allod.govern.policy.request import Model, PolicyRequest, PolicySite

GB = read_nation(tomllib.loads((resources.files("allod") / "nations" / "gb.toml").read_text()), where="gb.toml")
OFFICIAL, SECRET, TOP_SECRET = GB.tiers
POLICY = load_policy(default_text(), GB)
OTHER = Model("other", GB.lowest)


def asked(tier: str = "OFFICIAL", *, place: str = "GB", seal: str = "sealed", **words: Any) -> PolicyRequest:
    return PolicyRequest(
        action="chat",
        tenant_id="local",
        key_id="key_1",
        clearance=OFFICIAL,
        models=None,
        model=Model("tiny", GB.lowest),
        label=GB.label(tier, **words),
        site=PolicySite("here", place, OFFICIAL, seal),
    )


AT_SECRET = replace(asked("SECRET"), clearance=SECRET, site=PolicySite("here", "GB", SECRET, "sealed"))


def test_what_is_permitted_needs_no_change() -> None:
    """The rule that permitted it is shown with its reason and its text."""
    explanation = explain(POLICY, asked())
    assert explanation.decision.permitted
    assert [rule.name for rule in explanation.rules] == ["permit-use"]
    assert explanation.rules[0].source.startswith('@id("permit-use")')
    assert explanation.changes == ()
    assert explanation.advice == "It is permitted as it is."


@pytest.mark.parametrize(
    ("question", "changes"),
    [
        (asked("SECRET"), {
            ("a key cleared for SECRET", "a site accredited for SECRET"),
            ("the tier OFFICIAL, if it is no more sensitive than that",),
        }),
        (replace(AT_SECRET, clearance=OFFICIAL), {
            ("a key cleared for SECRET",),
            ("the tier OFFICIAL, if it is no more sensitive than that",),
        }),
        (replace(AT_SECRET, site=PolicySite("here", "GB", OFFICIAL, "sealed")), {
            ("a site accredited for SECRET",),
            ("the tier OFFICIAL, if it is no more sensitive than that",),
        }),
        (asked(markings=["SENSITIVE"], seal="none"), {
            ("a sealed engine",),
            ("no marking SENSITIVE, if it needs none",),
        }),
        (asked(markings=["UK EYES ONLY"], place="US"), {
            ("a site in GB",),
            ("a site in GB-ENG",),
            ("a site in GB-NIR",),
            ("no marking UK EYES ONLY, if it needs none",),
        }),
        (replace(asked(), models=frozenset({"other"})), {
            ("a key that may use tiny",),
            ("another model, other",),
        }),
        (replace(asked(), model=Model("wise", Label(SECRET))), {("another model, other",)}),
        (asked(purposes=[]), {
            ("the purpose administration",),
            ("the purpose casework",),
            ("the purpose evaluation",),
        }),
    ],
)  # fmt: skip
def test_every_change_that_suffices_is_found(question: PolicyRequest, changes: set[tuple[str, ...]]) -> None:
    """And none that does not: the nearest tier, at most three of the same kind."""
    explanation = explain(POLICY, question, [OTHER])
    assert set(explanation.changes) == changes
    assert {rule.name for rule in explanation.rules} == set(explanation.decision.rules)


def test_what_leaves_the_label_alone_comes_first_even_if_it_is_more() -> None:
    """A person is told how to do it rightly before being told what a lower label would do."""
    explanation = explain(POLICY, asked(markings=["UK EYES ONLY"], place="US", seal="none"))
    assert explanation.changes == (
        ("a site in GB", "a sealed engine"),
        ("a site in GB-ENG", "a sealed engine"),
        ("a site in GB-NIR", "a sealed engine"),
        ("no marking UK EYES ONLY, if it needs none",),
    )
    assert explanation.advice.startswith("It would be permitted with a site in GB and a sealed engine; or with ")


def test_two_markings_may_have_to_go() -> None:
    """Changes of one kind combine where they can."""
    question = asked(markings=["UK EYES ONLY", "SENSITIVE"], seal="none")
    gone = tuple(f"no marking {name}, if it needs none" for name in ("SENSITIVE", "UK EYES ONLY"))
    assert set(explain(POLICY, question).changes) == {("a sealed engine",)}
    without_seal = load_policy(default_text().replace('Seal::"sealed"', 'Seal::"partial"'), GB)
    assert gone in explain(without_seal, replace(question, site=PolicySite("here", "GB", OFFICIAL, "sealed"))).changes


def test_where_two_changes_do_not_help_it_says_so() -> None:
    """Nothing is made up."""
    question = asked("TOP SECRET", markings=["UK EYES ONLY"], purposes=[], place="ZZ", seal="none")
    explanation = explain(POLICY, question, [OTHER])
    assert explanation.changes == ()
    assert explanation.advice == "No one change and no two changes would make it permitted."


def test_a_tier_goes_no_lower_than_it_must() -> None:
    """SECRET suffices where the key and the site may have it; OFFICIAL beside it would be advice to mislabel."""
    explanation = explain(POLICY, replace(AT_SECRET, label=GB.label("TOP SECRET")))
    assert ("the tier SECRET, if it is no more sensitive than that",) in explanation.changes
    assert len(explanation.changes) == 2


def test_words_that_a_policy_speaks_of_are_tried_first() -> None:
    """A policy for one purpose and one place far down the alphabet."""
    text = (
        '@id("one") @reason("Only training, in Sweden.") permit (principal, action, resource) when {'
        ' context.label has purposes && context.label.purposes.contains(Purpose::"training")'
        ' && context.site.places.contains(Place::"SE") };'
    )
    assert explain(load_policy(text, GB), asked()).changes == (("the purpose training", "a site in SE"),)


def test_what_cannot_be_evaluated_is_said_and_not_searched() -> None:
    """No change to the request mends a policy or a label of another realm."""
    explanation = explain(POLICY, replace(asked(), label=Label(OFFICIAL, frozenset({"NO SUCH MARKING"}))))
    assert explanation.changes == ()
    assert explanation.advice.startswith("The policy could not be evaluated")
