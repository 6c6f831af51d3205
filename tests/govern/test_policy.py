"""A policy's text is refused unless it means something, and its decisions are permissions or refusals, never errors."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from importlib import resources
from typing import Any

import cedarpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.labels import Label, Tier
from allod.core.nations.nation import Nation
from allod.core.nations.profile import read_nation
from allod.govern.policy.decision import Policy, default_text, load_policy
from allod.govern.policy.request import Model, PolicyRequest, PolicySite, sentence_of
from allod.govern.policy.rules import MAX_DEPTH, MAX_RULES, MAX_TEXT_BYTES, MAX_TOKENS

GB = read_nation(tomllib.loads((resources.files("allod") / "nations" / "gb.toml").read_text()), where="gb.toml")
OFFICIAL, SECRET, TOP_SECRET = GB.tiers
DEFAULT = load_policy(default_text(), GB)


def asked(tier: str = "OFFICIAL", *, place: str = "GB", seal: str = "sealed", **words: Any) -> PolicyRequest:
    """A question on the realm as it is on first start: cleared and accredited for OFFICIAL."""
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


def rule(text: str, name: str = "a") -> str:
    return f'@id("{name}") @reason("Because of {name}.") {text}\n'


EVERYTHING = rule("permit (principal, action, resource);")


def when(condition: str) -> str:
    return rule(f"permit (principal, action, resource) when {{ {condition} }};")


# What the default policy says


def test_official_work_is_permitted_by_a_named_rule() -> None:
    """The realm answers on first start, sealed or not, wherever it is."""
    for question in (asked(), asked(seal="none"), asked(place="ZZ"), replace(asked(), action="embed")):
        decision = DEFAULT.decide(question)
        assert decision.permitted
        assert decision.rules == ("permit-use",)


@pytest.mark.parametrize(
    ("question", "rules"),
    [
        (asked("TOP SECRET"), {"above-clearance", "above-accreditation"}),
        (replace(asked("SECRET"), clearance=SECRET), {"above-accreditation"}),
        (replace(asked("SECRET"), site=PolicySite("here", "GB", SECRET, "sealed")), {"above-clearance"}),
        (asked(markings=["UK EYES ONLY"], place="US"), {"outside-jurisdiction"}),
        (asked(markings=["UK EYES ONLY"], place="ZZ"), {"outside-jurisdiction"}),
        (asked(jurisdictions=["GB-SCT"]), {"outside-jurisdiction"}),
        (asked(jurisdictions=[]), {"outside-jurisdiction"}),
        (replace(asked(place="XX"), label=Label(OFFICIAL, jurisdictions=frozenset({"XX"}))), {"outside-jurisdiction"}),
        (asked(purposes=[]), {"no-purpose-left"}),
        (asked(markings=["PERSONAL DATA"], seal="none"), {"needs-a-sealed-engine"}),
        (asked(markings=["PERSONAL DATA"], seal="partial:no-landlock"), {"needs-a-sealed-engine"}),
        (asked(markings=["PERSONAL DATA"], seal="a seal nobody knows"), {"needs-a-sealed-engine"}),
        (replace(asked(), models=frozenset({"another"})), {"model-not-in-scope"}),
        (replace(asked(), models=frozenset()), {"model-not-in-scope"}),
        (replace(asked(), model=Model("wise", Label(SECRET))), {"above-clearance", "above-accreditation"}),
    ],
    ids=lambda value: sentence_of(value) if isinstance(value, PolicyRequest) else "",
)
def test_each_refusal_names_its_rules_and_says_why(question: PolicyRequest, rules: set[str]) -> None:
    """A person who is refused reads a sentence, and a receipt can name the rules, in order."""
    decision = DEFAULT.decide(question)
    assert not decision.permitted
    assert decision.rules == tuple(sorted(rules))
    assert decision.reason == " ".join(DEFAULT.rules[name].reason for name in decision.rules)
    assert decision.fault is None


@pytest.mark.parametrize(
    "question",
    [
        asked(markings=["UK EYES ONLY"], place="GB-SCT"),
        asked(markings=["UK EYES ONLY", "FIVE EYES ONLY"]),
        asked(markings=["PERSONAL DATA"], purposes=["casework"]),
        replace(asked("SECRET"), clearance=TOP_SECRET, site=PolicySite("here", "GB", SECRET, "sealed")),
        replace(asked(), models=frozenset({"tiny", "another"})),
    ],
    ids=sentence_of,
)
def test_what_meets_every_condition_is_permitted(question: PolicyRequest) -> None:
    """A part of a country is in it, clearance above the label is enough, and so on."""
    assert DEFAULT.decide(question).permitted


# A text that is no policy


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "policy_empty"),
        ("// permit everything", "policy_empty"),
        (EVERYTHING[:-3], "policy_syntax"),
        (EVERYTHING + '"', "policy_syntax"),
        (EVERYTHING + ";", "policy_syntax"),
        ("permit (principal, action, resource);", "policy_no_id"),
        ('@id("Not A Name") @reason("x") permit (principal, action, resource);', "policy_no_id"),
        ('@id @reason("x") permit (principal, action, resource);', "policy_no_id"),
        ('@id("a") permit (principal, action, resource);', "policy_no_reason"),
        ('@id("a") @reason("' + "x" * 257 + '") permit (principal, action, resource);', "policy_no_reason"),
        ('@id("a") @reason("x") @reasno("y") permit (principal, action, resource);', "policy_annotation"),
        (EVERYTHING + EVERYTHING, "policy_duplicate_id"),
        (rule("permit (principal == ?principal, action, resource);"), "policy_template"),
        (when('context.label.tier == Tier::"SECRETT"'), "policy_schema"),
        (when('context.label.markings.contains(Marking::"SENSITVE")'), "policy_schema"),
        (when('context.site.places.contains(Place::"UK")'), "policy_schema"),
        (when('context.site.seal == Seal::"seald"'), "policy_schema"),
        (when("context.label.rnk < 1"), "policy_schema"),
        (when('context.label.rank < "1"'), "policy_schema"),
        (when("context.label.purposes.isEmpty()"), "policy_schema"),
        (when("principal is User"), "policy_schema"),
        (rule('permit (principal, action == Action::"chatt", resource);'), "policy_schema"),
        (rule('permit (principal == Tenant::"x", action, resource);'), "policy_schema"),
        (
            "".join(rule("permit (principal, action, resource);", f"r{n}") for n in range(MAX_RULES + 1)),
            "policy_too_long",
        ),
        (EVERYTHING + "/" * MAX_TEXT_BYTES, "policy_too_long"),
        (EVERYTHING + "// \u202e not what it looks like", "policy_characters"),
        (EVERYTHING + "// \u2028 forbid", "policy_characters"),
        (EVERYTHING + "\ud800", "policy_characters"),
    ],
)
def test_a_text_that_is_no_policy_is_refused(text: str, code: str) -> None:
    """Each with a code of its own: a typo is an error, not a rule that never holds."""
    with pytest.raises(Invalid) as refusal:
        load_policy(text, GB)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 20_000 + "true" + ")" * 20_000,
        "[" * 2_000,
        "1 + " * 5_000 + "1 == 1",
        "if true then true else " * 2_000 + "true",
        "context" + ".label" * 5_000 + " == 1",
        '"' + "(" * 20_000,
        "(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1),
        "1 + " * (MAX_TOKENS // 2) + "1 == 1",
    ],
    ids=lambda condition: condition[:12],
)
def test_a_text_that_nests_without_end_is_refused_before_it_is_parsed(condition: str) -> None:
    """Cedar's parser recurses: without the bounds the process would end with a fault of its stack."""
    with pytest.raises(Invalid):
        load_policy(when(condition), GB)


def test_what_is_inside_the_bounds_is_a_policy() -> None:
    """Deep enough for any rule that a person can read; a semicolon or bracket in a text or comment is none."""
    deep = when("(" * (MAX_DEPTH - 2) + "true" + ")" * (MAX_DEPTH - 2))
    strange = '// ; ((( "\n' + rule('permit (principal, action, resource) when { context.site.id == ";(((//" };', "b")
    assert list(load_policy(deep + strange, GB).rules) == ["a", "b"]
    assert not load_policy(strange, GB).decide(asked()).permitted


def test_the_source_of_a_rule_is_its_own() -> None:
    """What is shown for a rule is its text, without the comments around it."""
    text = "// first\n" + EVERYTHING + "// second\n" + rule("forbid (principal, action, resource);", "b") + "// last"
    first, second = load_policy(text, GB).rules.values()
    assert (first.source, first.effect) == (EVERYTHING.strip(), "permit")
    assert (second.source, second.effect) == (rule("forbid (principal, action, resource);", "b").strip(), "forbid")


def test_a_comment_ends_where_cedar_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a carriage return too; were it read otherwise here, a rule could be hidden from explanations."""
    text = EVERYTHING + "// a comment \r" + rule("forbid (principal, action, resource);", "b")
    assert list(load_policy(text, GB).rules) == ["a", "b"]
    monkeypatch.setattr("allod.govern.policy.rules._TOKEN", re.compile(r'"[^"]*"|//[^\n]*|\w+|\S'))
    with pytest.raises(Invalid) as refusal:
        load_policy(text, GB)
    assert refusal.value.code == "policy_syntax"


def test_the_digest_names_the_text_and_the_words() -> None:
    """Either one changed is another policy; a receipt that names the digest leaves no doubt which it was."""
    digests = {
        load_policy(text, nation).digest
        for text in (default_text(), EVERYTHING)
        for nation in (GB, replace(GB, places=frozenset({"GB", "US", "AU", "CA", "NZ"})))
    }
    assert len(digests) == 4
    assert load_policy(default_text(), GB).digest == DEFAULT.digest
    assert DEFAULT.digest.startswith("sha256:")


# Whatever goes wrong forbids


def test_what_no_rule_permits_is_forbidden() -> None:
    """And the reason says just that."""
    decision = load_policy(rule("forbid (principal, action, resource) when { 1 == 2 };"), GB).decide(asked())
    assert (decision.permitted, decision.rules, decision.reason) == (False, (), "no rule permits this")


def test_a_rule_that_cannot_be_evaluated_forbids() -> None:
    """Cedar leaves such a rule out, which would permit what it forbids."""
    overflow = rule("forbid (principal, action, resource) when { context.label.rank + 9223372036854775807 > 0 };", "b")
    policy = load_policy(EVERYTHING + overflow, GB)
    assert policy.decide(asked()).rules == ("b",)
    decision = policy.decide(asked("SECRET"))
    assert not decision.permitted
    assert decision.fault is not None
    assert "overflow" in decision.fault


ELSEWHERE = Tier("OFFICIAL", 0, "zz")


@pytest.mark.parametrize(
    "question",
    [
        replace(asked(), label=Label(OFFICIAL, frozenset({"NO SUCH MARKING"}))),
        replace(asked(), label=Label(OFFICIAL, purposes=frozenset({"no-such-purpose"}))),
        replace(asked(), label=Label(ELSEWHERE)),
        replace(asked(), clearance=ELSEWHERE),
        replace(asked(), clearance=Tier("SECRET", 9, "gb")),
        replace(asked(), label=Label(OFFICIAL, ["SENSITIVE"])),  # type: ignore[arg-type]
        replace(asked(), action="sing"),  # type: ignore[arg-type]
        replace(asked(), model=Model("\ud800", GB.lowest)),
        replace(asked(), clearance=None),  # type: ignore[arg-type]
        None,
    ],
)
def test_a_question_that_makes_no_sense_is_forbidden(question: Any) -> None:
    """Even where everything is permitted: what is not of this realm's words is not understood."""
    decision = load_policy(EVERYTHING, GB).decide(question)
    assert not decision.permitted
    assert decision.rules == ()
    assert decision.fault


def test_an_evaluator_that_fails_forbids_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is not remembered as a decision."""

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    policy = load_policy(EVERYTHING, GB)
    with monkeypatch.context() as broken:
        broken.setattr(cedarpy, "is_authorized", fail)
        decision = policy.decide(asked())
    assert (decision.permitted, decision.rules, decision.fault) == (False, (), "out of order")
    assert "out of order" not in decision.reason
    assert policy.decide(asked()).permitted


def test_a_question_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal questions have one answer, and so have those of tenants whom no rule names."""
    policy = load_policy(EVERYTHING, GB)
    first = policy.decide(asked())
    monkeypatch.delattr(cedarpy, "is_authorized")
    assert policy.decide(asked()) is first
    assert policy.decide(replace(asked(), tenant_id="proj_2", key_id="key_2")) is first
    assert not policy.decide(asked(place="US")).permitted


@example("t", "another", "m")
@example("t", "k", "m")
@given(*[st.sampled_from(["", "-", "-t", "-k", "t", "k", "m", "T"]) | st.text(max_size=40)] * 3)
def test_names_from_outside_are_only_names(tenant: str, key: str, model: str) -> None:
    """Whatever a tenant, key or model is called, it cannot be taken for another."""
    named = 'permit (principal in Tenant::"t", action, resource == Model::"m") unless { principal == Key::"k" };'
    policy = load_policy(rule(named), GB)
    question = replace(asked(), tenant_id=tenant, key_id=key, model=Model(model, GB.lowest))
    assert policy.decide(question).permitted == ((tenant, model) == ("t", "m") and key != "k")


# Any nation


ATLANTIS = Nation(
    "zz", "Atlantis", "a story", (Tier("DRY", 3, "zz"), Tier('DAMP "EH"', 7, "zz"), Tier("SUNK", 40, "zz"))
)


def test_the_default_policy_holds_for_every_nation() -> None:
    """One that has no markings, purposes or places either, and ranks of its own."""
    policy = load_policy(default_text(), ATLANTIS)
    low, middle, high = ATLANTIS.tiers

    def ask(tier: Tier, clearance: Tier) -> PolicyRequest:
        model = Model("m", ATLANTIS.lowest)
        return PolicyRequest(
            "chat", "t", "k", clearance, None, model, Label(tier), PolicySite("s", "ZZ", high, "sealed")
        )

    assert policy.decide(ask(low, low)).permitted
    assert policy.decide(ask(middle, middle)).permitted
    assert policy.decide(ask(high, middle)).rules == ("above-clearance",)
    assert not policy.decide(replace(ask(low, low), label=Label(low, jurisdictions=frozenset({"AT"})))).permitted


def test_a_nation_whose_words_cannot_stand_in_a_policy_is_refused() -> None:
    """A line end in a tier's name would end up in the schema."""
    with pytest.raises(Invalid) as refusal:
        load_policy(default_text(), replace(ATLANTIS, tiers=(Tier("A\nB", 0, "zz"),)))
    assert refusal.value.code == "nation_words"


def test_the_default_policy_names_no_word_of_a_nation() -> None:
    """What it mentions is the schema's own."""
    assert isinstance(DEFAULT, Policy)
    mentions = {kind for rule in DEFAULT.rules.values() for kind, _ in rule.mentions}
    assert mentions <= {"Action", "Seal"}
