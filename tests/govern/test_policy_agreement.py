"""Cedar decides as an evaluator does that is written here in plain Python and shares nothing with it but the words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allod.core.labels import Label, Tier
from allod.core.nations.nation import Marking, Nation
from allod.govern.policy.decision import default_text, load_policy
from allod.govern.policy.request import Model, PolicyRequest, PolicySite

LOW, MIDDLE, HIGH = TIERS = tuple(Tier(name, rank, "zz") for name, rank in (("OPEN", 2), ("SHUT", 3), ("BURIED", 9)))
MARKINGS = ("EYES ONLY", "OF PEOPLE")
PURPOSES = ("care", "study")
PLACES = ("AA", "AA-N", "BB")
NATION = Nation(
    "zz",
    "Atlantis",
    "a story",
    TIERS,
    markings={name: Marking(name, "") for name in MARKINGS},
    places=frozenset(PLACES),
    purposes={name: "" for name in PURPOSES},
)


def some_of(words: tuple[str, ...]) -> list[frozenset[str]]:
    return [frozenset(chosen) for size in range(len(words) + 1) for chosen in combinations(words, size)]


CHOICES: dict[str, list[Any]] = {
    "action": ["chat", "embed"],
    "tenant": ["t1", "t2"],
    "key": ["k1", "k2"],
    "clearance": list(TIERS),
    "scope": [None, frozenset(), frozenset({"m1"}), frozenset({"m1", "m2"})],
    "model": ["m1", "m2"],
    "country": [None, "AA", "BB"],
    "informative": [True, False],
    "model_tier": [LOW, LOW, LOW, MIDDLE, HIGH],
    "model_places": [None, None, None, *some_of(PLACES)],
    "tier": list(TIERS),
    "markings": some_of(MARKINGS),
    "purposes": [None, None, *some_of(PURPOSES)],
    "places": [None, None, None, *some_of(PLACES)],
    "site": [*PLACES, "AA-X", "ZZ", "AAB"],
    "accredited": list(TIERS),
    "seal": ["sealed", "island", "partial:no-network", "none", "?", "island-gpu"],
}


def question(choice: dict[str, Any]) -> PolicyRequest:
    made_of = Label(choice["model_tier"], jurisdictions=choice["model_places"])
    return PolicyRequest(
        action=choice["action"],
        tenant_id=choice["tenant"],
        key_id=choice["key"],
        clearance=choice["clearance"],
        models=choice["scope"],
        model=Model(choice["model"], made_of, country=choice["country"], informative=choice["informative"]),
        label=Label(choice["tier"], choice["markings"], choice["places"], choice["purposes"]),
        site=PolicySite("s", choice["site"], choice["accredited"], choice["seal"]),
    )


def drawn(random: Random) -> dict[str, Any]:
    return {name: random.choice(values) for name, values in CHOICES.items()}


# The words of policies, computed in another way


def index(tier: Tier) -> int:
    return ["OPEN", "SHUT", "BURIED"].index(tier.name)


def rank(choice: dict[str, Any]) -> int:
    return max(index(choice["tier"]), index(choice["model_tier"]))


def may_be_in(choice: dict[str, Any], place: str) -> bool:
    """Whether both labels let it be processed in `place`."""
    for places in (choice["places"], choice["model_places"]):
        if places is not None and place not in places and place.split("-")[0] not in places:
            return False
    return True


def is_restricted(choice: dict[str, Any]) -> bool:
    return choice["places"] is not None or choice["model_places"] is not None


def is_at(choice: dict[str, Any], place: str) -> bool:
    return place in (choice["site"], choice["site"].split("-")[0])


def forbidding(choice: dict[str, Any]) -> set[str]:
    """The default policy's rules, as a person would say them."""
    found = set()
    if choice["scope"] is not None and choice["model"] not in choice["scope"]:
        found.add("model-not-in-scope")
    if rank(choice) > index(choice["clearance"]):
        found.add("above-clearance")
    if rank(choice) > index(choice["accredited"]):
        found.add("above-accreditation")
    if is_restricted(choice) and not any(is_at(choice, place) and may_be_in(choice, place) for place in PLACES):
        found.add("outside-jurisdiction")
    if choice["purposes"] is not None and len(choice["purposes"]) == 0:
        found.add("no-purpose-left")
    if (rank(choice) > 0 or choice["markings"]) and SEALS[choice["seal"]] != "sealed":
        found.add("needs-a-sealed-engine")
    return found


@pytest.mark.parametrize("num_requests", [5_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.long])])
def test_the_default_policy_decides_as_its_rules_say(num_requests: int) -> None:
    """Permission and the rules named agree for every random request, and neither answer is rare."""
    policy, random = load_policy(default_text(), NATION), Random(num_requests)
    num_permitted = 0
    for _ in range(num_requests):
        choice = drawn(random)
        decision, forbids = policy.decide(question(choice)), forbidding(choice)
        assert decision.fault is None
        assert decision.permitted == (not forbids), choice
        assert set(decision.rules) == (forbids or {"permit-use"}), choice
        num_permitted += decision.permitted
    assert num_permitted > num_requests / 50


# Random policies


@dataclass(frozen=True)
class Condition:
    """Cedar's text, and the same in Python."""

    text: str
    holds: Callable[[dict[str, Any]], bool]


def purposes_hold(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda choice: choice["purposes"] is not None and name in choice["purposes"]


SEALS = {
    "sealed": "sealed",
    "island": "sealed",
    "island-gpu": "none",
    "partial:no-network": "partial",
    "none": "none",
    "?": "none",
}

SIMPLE = [
    Condition("context.label.rank > principal.clearance.rank", lambda c: rank(c) > index(c["clearance"])),
    Condition("context.label.rank <= context.site.accredited.rank", lambda c: rank(c) <= index(c["accredited"])),
    Condition("context.label.rank + 1 == 2", lambda c: rank(c) == 1),
    Condition('context.label.tier == Tier::"BURIED"', lambda c: rank(c) == 2),
    Condition('principal.clearance.tier == Tier::"SHUT"', lambda c: index(c["clearance"]) == 1),
    Condition('context.label.markings.contains(Marking::"OF PEOPLE")', lambda c: "OF PEOPLE" in c["markings"]),
    Condition("context.label.markings.isEmpty()", lambda c: not c["markings"]),
    Condition("context.label has purposes", lambda c: c["purposes"] is not None),
    Condition(
        '(context.label has purposes && context.label.purposes.contains(Purpose::"care"))', purposes_hold("care")
    ),
    Condition("context.label has jurisdictions", is_restricted),
    Condition(
        '(context.label has jurisdictions && context.label.jurisdictions.contains(Place::"AA-N"))',
        lambda c: is_restricted(c) and may_be_in(c, "AA-N"),
    ),
    Condition('context.site.places.contains(Place::"AA")', lambda c: is_at(c, "AA")),
    Condition("context.site.places.isEmpty()", lambda c: not any(is_at(c, place) for place in PLACES)),
    Condition('context.site.seal == Seal::"none"', lambda c: SEALS[c["seal"]] == "none"),
    Condition('context.site.seal == Seal::"partial"', lambda c: SEALS[c["seal"]] == "partial"),
    Condition('principal in Tenant::"t1"', lambda c: c["tenant"] == "t1"),
    Condition('principal == Key::"k2"', lambda c: c["key"] == "k2"),
    Condition("principal has models", lambda c: c["scope"] is not None),
    Condition(
        "(principal has models && principal.models.contains(resource))",
        lambda c: c["scope"] is not None and c["model"] in c["scope"],
    ),
    Condition('resource == Model::"m1"', lambda c: c["model"] == "m1"),
    Condition('(resource has country && resource.country == "BB")', lambda c: c["country"] == "BB"),
    Condition("resource.informative", lambda c: bool(c["informative"])),
    Condition('action == Action::"embed"', lambda c: c["action"] == "embed"),
]


def compound(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    return st.one_of(
        inner.map(lambda a: Condition(f"!({a.text})", lambda c: not a.holds(c))),
        st.builds(lambda a, b: Condition(f"({a.text} && {b.text})", lambda c: a.holds(c) and b.holds(c)), inner, inner),
        st.builds(lambda a, b: Condition(f"({a.text} || {b.text})", lambda c: a.holds(c) or b.holds(c)), inner, inner),
        st.builds(
            lambda a, b, d: Condition(
                f"(if {a.text} then {b.text} else {d.text})", lambda c: b.holds(c) if a.holds(c) else d.holds(c)
            ),
            inner,
            inner,
            inner,
        ),
    )


conditions = st.recursive(st.sampled_from(SIMPLE), compound, max_leaves=6)


@dataclass(frozen=True)
class WrittenRule:
    effect: Literal["permit", "forbid"]
    when: Condition
    unless: Condition | None

    def holds(self, choice: dict[str, Any]) -> bool:
        return self.when.holds(choice) and not (self.unless is not None and self.unless.holds(choice))

    def text(self, name: str) -> str:
        unless = f" unless {{ {self.unless.text} }}" if self.unless is not None else ""
        return (
            f'@id("{name}") @reason("r")\n'
            f"{self.effect} (principal, action, resource) when {{ {self.when.text} }}{unless};\n"
        )


rules = st.builds(WrittenRule, st.sampled_from(["permit", "permit", "forbid"]), conditions, st.none() | conditions)


@given(st.lists(rules, min_size=1, max_size=6), st.integers(0, 2**32))
def test_random_policies_decide_as_their_rules_say(written: list[WrittenRule], seed: int) -> None:
    """A rule that forbids outweighs all that permit, and what no rule permits is forbidden."""
    policy, random = load_policy("".join(rule.text(f"r{n}") for n, rule in enumerate(written)), NATION), Random(seed)
    for _ in range(30):
        choice = drawn(random)
        held = {(rule.effect, f"r{n}") for n, rule in enumerate(written) if rule.holds(choice)}
        forbids = {name for effect, name in held if effect == "forbid"}
        permits = {name for effect, name in held if effect == "permit"}
        decision = policy.decide(question(choice))
        assert decision.fault is None
        assert decision.permitted == (bool(permits) and not forbids)
        assert decision.rules == tuple(sorted(forbids or permits))


DEFAULT = load_policy(default_text(), NATION)
labels = st.builds(
    Label,
    st.sampled_from(TIERS),
    st.sampled_from(some_of(MARKINGS)),
    st.none() | st.sampled_from(some_of(PLACES)),
    st.none() | st.sampled_from(some_of(PURPOSES)),
)


@settings(max_examples=500)
@given(st.integers(0, 2**32), labels, labels)
def test_a_higher_label_never_permits_more(seed: int, label: Label, other: Label) -> None:
    """Where the join of two labels is permitted, each of them is: nothing is gained by mixing in a stricter source."""
    asked = replace(question(drawn(Random(seed))), clearance=HIGH, models=None)
    asked = replace(asked, site=replace(asked.site, tier=HIGH, seal="sealed"))
    if DEFAULT.decide(replace(asked, label=label.join(other))).permitted:
        assert DEFAULT.decide(replace(asked, label=label)).permitted
        assert DEFAULT.decide(replace(asked, label=other)).permitted


@given(st.integers(0, 2**32), labels)
def test_what_is_permitted_is_within_the_label(seed: int, label: Label) -> None:
    """By the label's own arithmetic: a place and a purpose that it allows, at a tier that key and site may have."""
    asked = replace(question(drawn(Random(seed))), label=label)
    if DEFAULT.decide(asked).permitted:
        assert label.allows_place(asked.site.jurisdiction)
        assert not label.is_impossible
        assert label.tier.rank <= min(asked.clearance.rank, asked.site.tier.rank)
