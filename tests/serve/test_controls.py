"""Controls: a label that only grows, a decision on what is so now, and nothing at all while a control is in doubt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.conftest import CALLER, NATION, POLICY

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.labels import Label, Tier
from allod.govern.identifiers import markings_in
from allod.govern.policy.decision import Decision
from allod.govern.policy.request import Model, PolicyRequest, PolicySite
from allod.govern.tenancy.tenants import Scope
from allod.serve import controls as controls_module
from allod.serve.controls import OVERLAP_CHARS, SLICE_CHARS, Controls

PERSON = "943 476 5919"  # an NHS number, reserved for tests
PERSONAL = frozenset({"PERSONAL DATA"})
SITE = PolicySite("north", "GB", NATION.tiers[0], "sealed")


def controls(model: Label = NATION.lowest, site: PolicySite = SITE) -> Controls:
    return Controls(policy=POLICY, nation=NATION, models=[Model("m", model)], site=lambda name: site)


def labelled(text: str, declared: Label = NATION.lowest, model: Label = NATION.lowest) -> Label:
    return asyncio.run(controls(model).label(declared, [text], "m"))


labels = st.builds(
    NATION.label,
    st.sampled_from([*(tier.name for tier in NATION.tiers), *NATION.aliases]),
    markings=st.sets(st.sampled_from(sorted(NATION.markings)), max_size=3),
    purposes=st.none() | st.sets(st.sampled_from(sorted(NATION.purposes)), max_size=2),
    jurisdictions=st.none() | st.sets(st.sampled_from(sorted(NATION.places)), max_size=3),
)


# Step 3


@given(labels, labels, st.sampled_from(["", "Why?", f"It is about {PERSON}."]))
def test_a_label_is_never_less_than_what_goes_into_it(declared: Label, model: Label, text: str) -> None:
    """What was declared, what the model was made from and what the text calls for: each is covered, and no more."""
    found = labelled(text, declared, model)
    assert found == declared.join(model).join(NATION.label(markings=markings_in(text, NATION)))
    assert found.covers(declared)
    assert found.covers(model)
    assert declared.markings | model.markings | (PERSONAL if text.endswith(".") else set()) == found.markings


def test_a_text_without_identifiers_changes_nothing() -> None:
    """Numbers that name nobody are numbers."""
    assert labelled("In 2024 it cost 1,234,567.89, and 943 476 5918 is nobody.") == NATION.lowest


@pytest.mark.parametrize("border", [SLICE_CHARS, 2 * SLICE_CHARS])
@pytest.mark.parametrize("before", range(len(PERSON) + 2))
def test_an_identifier_is_found_wherever_slices_meet(border: int, before: int) -> None:
    """With so many of its characters before the border; one that is not valid is not found there either."""
    start = "w " * (border // 2)
    for number, expected in ((PERSON, PERSONAL), (PERSON[:-1] + "8", frozenset())):
        text = f"{start[: border - before - 1]} {number} and so on"
        assert labelled(text).markings == expected, (border, before)


def test_an_identifier_at_the_very_end_is_found() -> None:
    """Whatever length the text has: shorter than a slice, exactly one, a little more."""
    for length in (len(PERSON), SLICE_CHARS - 1, SLICE_CHARS, SLICE_CHARS + 1, SLICE_CHARS + OVERLAP_CHARS + 1):
        assert labelled(PERSON.rjust(length)).markings == PERSONAL, length


pieces = st.sampled_from(
    [PERSON, "QQ 12 34 56 C", "AB123456C", "4111 1111 1111 1111", "x", " ", "1", "99", "w " * 70, "\n"]
)


@settings(max_examples=200)
@given(st.lists(pieces, max_size=30).map(" ".join), st.integers(1, 40))
def test_slices_find_all_that_the_whole_text_holds(text: str, slice_chars: int) -> None:
    """However small they are cut: a long text is not less marked than a short one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls_module, "SLICE_CHARS", slice_chars)
        assert labelled(text).markings >= markings_in(text, NATION)


async def test_others_have_their_turn_while_a_long_text_is_read() -> None:
    """Once for each slice, so that no request holds the others up for longer than a slice takes."""
    turns, num_slices = 0, 6

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    before = turns
    await controls().label(NATION.lowest, ["w " * (num_slices * SLICE_CHARS // 2)], "m")
    assert turns - before >= num_slices - 1
    counting.cancel()


async def test_a_label_of_another_nation_is_refused() -> None:
    """There is no order between them, so no label for what is made of both."""
    with pytest.raises(Invalid) as caught:
        await controls().label(Label(Tier("OFFICIAL", 0, "xz")), ["Why?"], "m")
    assert caught.value.code == "nations_differ"


# Step 4


@pytest.mark.parametrize("action", ["chat", "embed"])
def test_the_policy_is_asked_about_this_caller_and_this_place(action: str) -> None:
    """Every part of the question is what it is, and none stands for another."""
    scope = Scope(models=frozenset({"m", "n"}))
    caller = replace(CALLER, scope=scope, clearance=NATION.tiers[1])
    label = NATION.label("SECRET", markings=["SENSITIVE"])
    made = controls(NATION.label(markings=["LEGAL"]))
    assert made.request_for(caller, action, label, "m") == PolicyRequest(  # type: ignore[arg-type]
        action=action,  # type: ignore[arg-type]
        tenant_id="local",
        key_id="key_local",
        clearance=NATION.tiers[1],
        models=scope.models,
        model=Model("m", NATION.label(markings=["LEGAL"])),
        label=label,
        site=SITE,
    )


def test_decisions_are_the_policys_own() -> None:
    """Permitted where it permits, forbidden by the rule that says so, under the digest of the policy in force."""
    made = controls()
    permitted = made.decide(CALLER, "chat", NATION.lowest, "m")
    assert (permitted.permitted, permitted.rules, permitted.policy) == (True, ("permit-use",), POLICY.digest)
    forbidden = made.decide(CALLER, "chat", NATION.label("SECRET"), "m")
    assert (forbidden.permitted, forbidden.rules) == (False, ("above-accreditation",))


def test_the_site_is_looked_at_for_each_decision() -> None:
    """An engine that was started again without its seal answers nothing that needs one."""
    seals = ["sealed", "none"]
    made = Controls(
        policy=POLICY,
        nation=NATION,
        models=[Model("m", NATION.lowest)],
        site=lambda model: replace(SITE, seal=seals.pop(0)),
    )
    sensitive = NATION.label(markings=["SENSITIVE"])
    assert [made.decide(CALLER, "chat", sensitive, "m").permitted for _ in range(2)] == [True, False]


@pytest.mark.parametrize("what", ["policy", "caller", "label", "model", "site"])
def test_a_decision_is_remembered_for_the_very_same_question(what: str) -> None:
    """Whatever is another value than in the last question of the key is decided anew, by the policy in force."""
    questions: list[PolicyRequest] = []

    class Noting:
        def decide(self, asked: PolicyRequest) -> Decision:
            questions.append(asked)
            return Decision(True, (), "")

    asked: dict[str, Any] = {"caller": CALLER, "label": NATION.lowest, "model": "m"}
    sites = [SITE]
    other = Model("other", NATION.lowest)
    made = Controls(
        policy=POLICY, nation=NATION, models=[other, Model("m", NATION.lowest)], site=lambda model: sites[0]
    )
    made.policy = Noting()  # type: ignore[assignment]
    for _ in range(3):
        made.decide(action="chat", **asked)
    assert len(questions) == 1
    if what == "policy":
        made.policy = Noting()  # type: ignore[assignment]
    elif what == "site":
        sites[0] = replace(SITE, seal="none")
    else:
        asked[what] = {"caller": replace(CALLER), "label": NATION.label("SECRET"), "model": "other"}[what]
    made.decide(action="chat", **asked)
    assert len(questions) == 2
    assert questions[1] == made.request_for(action="chat", **asked)


def test_what_could_not_be_evaluated_is_asked_again() -> None:
    decisions = [Decision(False, (), "", fault="an error"), Decision(True, (), "")]

    class Failing:
        def decide(self, asked: PolicyRequest) -> Decision:
            return decisions.pop(0)

    made, label = controls(), NATION.lowest
    made.policy = Failing()  # type: ignore[assignment]
    assert [made.decide(CALLER, "chat", label, "m").permitted for _ in range(3)] == [False, True, True]


# Faults


def test_nothing_is_decided_while_a_control_is_in_doubt() -> None:
    """The reason and what to do about it are told, and when to come back; what is forbidden anyway is no exception."""
    made = controls()
    made.report(
        "policy", Unavailable("the log does not verify", code="policy_unavailable", hint="allod policy history")
    )
    for label in (NATION.lowest, NATION.label("TOP SECRET")):
        with pytest.raises(Unavailable) as caught:
            made.decide(CALLER, "chat", label, "m")
        error = caught.value
        assert (error.message, error.code, error.hint) == (
            "the log does not verify",
            "policy_unavailable",
            "allod policy history",
        )
        assert error.retry_after_s


def test_a_fault_of_any_kind_is_not_the_clients() -> None:
    """Also where what failed calls itself invalid: a client that is told 400 would not come back."""
    made = controls()
    made.report("ledger", Invalid("a gap", code="ledger_gap"))
    with pytest.raises(Unavailable, match="a gap"):
        made.check()


def test_every_control_must_work_again() -> None:
    """One that recovered does not speak for another."""
    made = controls()
    made.check()
    for control in ("policy", "ledger"):
        made.report(control, Unavailable(control, code="x"))
    made.report("policy", None)
    with pytest.raises(Unavailable, match="ledger"):
        made.check()
    made.report("ledger", None)
    made.check()
    assert made.decide(CALLER, "chat", NATION.lowest, "m").permitted


def test_a_fault_is_news_once_and_so_is_its_end() -> None:
    """The operator's log has two lines for an hour without a database, not fifteen thousand."""
    made = controls()
    gone: AllodError = Unavailable("gone", code="x")
    assert [made.report("keys", error) for error in (None, gone, gone, None, None, gone)] == [
        *(False, True, False, True, False, True),
    ]


def test_the_latest_of_a_controls_faults_is_told() -> None:
    """What is wrong now, not what was wrong first."""
    made = controls()
    made.report("keys", Unavailable("it is locked", code="a"))
    made.report("keys", Unavailable("it is gone", code="b"))
    with pytest.raises(Unavailable) as caught:
        made.check()
    assert caught.value.code == "b"
