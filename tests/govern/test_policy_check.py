"""A check tells what a policy does, and finds the mistakes that parse."""

from __future__ import annotations

import time
import tomllib
from dataclasses import replace
from importlib import resources

import pytest

from allod.core.errors import Invalid
from allod.core.labels import Tier
from allod.core.nations.nation import Nation
from allod.core.nations.profile import read_nation
from allod.govern.policy.check import PolicyReport, check_policy
from allod.govern.policy.decision import default_text, load_policy
from allod.govern.policy.sampling import MAX_CASES, cases

GB = read_nation(tomllib.loads((resources.files("allod") / "nations" / "gb.toml").read_text()), where="gb.toml")
ATLANTIS = Nation("zz", "Atlantis", "a story", (Tier("DRY", 3, "zz"), Tier("SUNK", 40, "zz")))


def rule(text: str, name: str = "a") -> str:
    return f'@id("{name}") @reason("Because of {name}.") {text}\n'


def codes(report: PolicyReport, severity: str) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity == severity}


def test_nothing_is_wrong_with_the_default_policy() -> None:
    """Every rule of it decides something, every request is covered, and some are permitted."""
    report = check_policy(default_text(), GB)
    assert report.is_sound
    assert report.findings == ()
    assert (report.idle, dict(report.overridden), report.num_uncovered) == ((), {}, 0)
    assert all(report.forbidden_by.values())
    assert 0 < report.num_permitted < report.num_asked <= MAX_CASES
    assert report.digest == load_policy(default_text(), GB).digest


def test_nothing_is_wrong_with_it_in_another_nation() -> None:
    """One with two tiers and not a word more."""
    assert check_policy(default_text(), ATLANTIS).is_sound


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "context.label.rank > principal.clearance.rank",
            "context.label.rank < principal.clearance.rank",
            "top_for_lowest",
        ),
        ("!context.label.jurisdictions.containsAny", "context.label.jurisdictions.containsAny", "elsewhere"),
        ("context.label.purposes.isEmpty()", "!context.label.purposes.isEmpty()", "purposeless"),
    ],
)
def test_one_wrong_character_is_found(old: str, new: str, error: str) -> None:
    """It parses and fits the schema; only asking shows what it permits, and the example says to whom."""
    assert old in default_text()
    report = check_policy(default_text().replace(old, new), GB)
    assert not report.is_sound
    assert error in codes(report, "error")
    assert all(finding.example for finding in report.findings if finding.code == error)


@pytest.mark.parametrize("name", ["above-clearance", "outside-jurisdiction", "no-purpose-left"])
def test_a_rule_left_out_is_found(name: str) -> None:
    """Each of these rules keeps an error away."""
    rules = load_policy(default_text(), GB).rules
    report = check_policy("\n".join(rule.source for rule in rules.values() if rule.name != name), GB)
    assert codes(report, "error")


@pytest.mark.parametrize("name", ["model-not-in-scope", "above-accreditation", "needs-a-sealed-engine"])
def test_a_rule_left_out_that_a_realm_may_do_without_is_a_warning(name: str) -> None:
    """The operator may mean it, and is told what it permits."""
    rules = load_policy(default_text(), GB).rules
    report = check_policy("\n".join(rule.source for rule in rules.values() if rule.name != name), GB)
    assert report.is_sound
    assert codes(report, "warning")


def test_a_policy_that_permits_everything_is_an_error() -> None:
    """However it is written."""
    report = check_policy(rule("permit (principal, action, resource) unless { 1 == 2 };"), GB)
    assert {"permits_everything", "top_for_lowest"} <= codes(report, "error")


def test_a_policy_that_forbids_everything_is_an_error_and_the_conflict_is_named() -> None:
    """A permit that is always overruled never decides; the report says by which rule."""
    text = rule("permit (principal, action, resource);", "yes") + rule("forbid (principal, action, resource);", "no")
    report = check_policy(text, GB)
    assert codes(report, "error") == {"forbids_everything"}
    assert dict(report.overridden) == {"yes": ("no",)}
    assert report.forbidden_by == {"no": report.num_asked}


def test_what_no_rule_covers_is_counted_with_the_plainest_examples() -> None:
    """The first example differs from the plainest question in nothing but what the rule wants."""
    text = rule('permit (principal, action == Action::"embed", resource);')
    report = check_policy(text, GB)
    assert report.num_uncovered == report.num_asked - report.num_permitted > 0
    assert report.uncovered[0].startswith("chat with a-model: OFFICIAL; key a-key of a-tenant")


def test_a_rule_that_never_holds_is_named() -> None:
    """A rank that no tier has is not a typo that the schema could find."""
    report = check_policy(
        default_text() + rule("forbid (principal, action, resource) when { context.label.rank > 7 };"), GB
    )
    assert report.idle == ("a",)
    assert codes(report, "warning") == {"idle"}
    assert report.is_sound


@pytest.mark.parametrize(
    "condition",
    [
        'resource == Model::"llama" && principal in Tenant::"proj_1" && context.label.rank == 1',
        'principal == Key::"key_9" && resource has licence && resource.licence == "AGPL"',
        'context.site.id == "cellar" && context.site.places.contains(Place::"NO") && action == Action::"embed"',
        'context.label.markings.containsAll([Marking::"LEGAL", Marking::"PERSONAL DATA", Marking::"COMMERCIAL"])',
        'context.label has purposes && context.label.purposes.contains(Purpose::"training") && !resource.informative',
        'context.label has jurisdictions && context.label.jurisdictions.contains(Place::"IT")',
    ],
)
def test_a_rule_about_few_things_is_asked_about_them(condition: str) -> None:
    """Names that only the policy knows are among the questions, so that it is not taken for an idle rule."""
    report = check_policy(rule(f"permit (principal, action, resource) when {{ {condition} }};"), GB)
    assert report.idle == ()
    assert report.num_permitted > 0


def test_every_rule_among_many_is_asked_about_what_it_names() -> None:
    """Each wants a key, a tenant and a model of its own at once: too rare to be met by chance."""
    rules = (
        f'permit (principal == Key::"k{n}", action, resource == Model::"m{n}") when {{ principal in Tenant::"t{n}" }};'
        for n in range(30)
    )
    assert check_policy("".join(rule(text, f"r{n}") for n, text in enumerate(rules)), GB).idle == ()


def test_the_extremes_are_always_asked_about() -> None:
    """In a nation of thirty tiers, the highest for the lowest is one pair of nine hundred."""
    nation = replace(ATLANTIS, tiers=tuple(Tier(f"T{n}", n, "zz") for n in range(30)))
    hole = "context.label.rank == 29 && principal.clearance.rank == 0"
    clearance = "context.label.rank > principal.clearance.rank"
    assert clearance in default_text()
    report = check_policy(default_text().replace(clearance, f"{clearance} && !({hole})"), nation)
    assert codes(report, "error") == {"top_for_lowest"}


def test_a_rule_that_cannot_be_evaluated_is_an_error() -> None:
    """A number too large for Cedar is found before a request meets it."""
    overflow = "forbid (principal, action, resource) when { context.label.rank + 9223372036854775807 < 0 };"
    assert "fault" in codes(check_policy(default_text() + rule(overflow), GB), "error")


def test_what_is_no_policy_is_refused_as_when_it_is_loaded() -> None:
    """There is nothing to ask."""
    with pytest.raises(Invalid) as refusal:
        check_policy("permit", GB)
    assert refusal.value.code == "policy_syntax"


def test_the_questions_are_the_same_every_time_and_bounded() -> None:
    """A policy that names hundreds of things and a nation of many words are asked no more, and a check ends soon."""
    names = ", ".join(f'Model::"m{n}"' for n in range(80))
    text = default_text() + "".join(
        rule(f"forbid (principal, action, resource) when {{ [{names}].contains(resource) }};", f"r{n}")
        for n in range(30)
    )
    crowded = replace(
        GB,
        tiers=tuple(Tier(f"T{n}", n, "gb") for n in range(30)),
        aliases={},
        places=GB.places | {f"X{chr(65 + n)}" for n in range(26)},
    )
    policy = load_policy(text, crowded)
    assert cases(policy) == cases(policy)
    assert len(set(cases(policy))) == MAX_CASES
    started = time.process_time()
    check_policy(text, crowded)
    assert time.process_time() - started < 30
