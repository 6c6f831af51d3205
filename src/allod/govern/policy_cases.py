"""Representative questions for a policy: a finite sample of what its realm's words and its own rules can tell apart.

The first is the plainest question there is. Then every question that differs from it in one or two parts, then some in
the neighbourhood of each rule, then some at random: by a fixed seed, so that a check can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from random import Random
from typing import Any

from allod.core.labels import Tier
from allod.core.nations import Nation
from allod.govern.policy import Policy
from allod.govern.policy_asked import Asked, Model, Site
from allod.govern.policy_schema import vocabulary_of
from allod.govern.policy_text import Rule

MAX_CASES = 6_000

_Parts = Mapping[str, Sequence[Any]]  # part of a question → what it may be, the plainest first


def cases(policy: Policy) -> list[Asked]:
    """At most MAX_CASES different questions, simple ones first."""
    parts = _parts(policy)
    found: dict[Asked, None] = {}
    for choice in _choices(parts, list(policy.rules.values())):
        found[_asked(policy.nation, choice)] = None
        if len(found) == MAX_CASES:
            break
    return list(found)


def _parts(policy: Policy) -> _Parts:
    nation = policy.nation
    mentioned = sorted(frozenset[tuple[str, str]]().union(*(rule.mentions for rule in policy.rules.values())))
    names = {
        kind: [name for named, name in mentioned if named == kind] for kind in ("Tenant", "Key", "Model", "String")
    }
    places = _most_allowed_first(nation)
    highest_first = nation.tiers[::-1]
    return {
        "tier": nation.tiers,
        "clearance": highest_first,
        "accredited": highest_first,
        "seal": ("sealed", "partial:no-landlock", "none"),
        "markings": [(), *((name,) for name in nation.markings)],
        "purposes": [None, *((name,) for name in nation.purposes), ()],
        "jurisdictions": [None, *((place,) for place in places), ()],
        "place": [*places, "ZZ"],
        "action": ("chat", "embed"),
        "model": ["a-model", *names["Model"]],
        "scope": ("any", "this", "another"),
        "informative": (True, False),
        "tenant": ["a-tenant", *names["Tenant"]],
        "key": ["a-key", *names["Key"]],
        "country": [None, *names["String"]],
        "licence": [None, *names["String"]],
        "site": ["a-site", *names["String"]],
    }


def _most_allowed_first(nation: Nation) -> list[str]:
    """The plainest place is the one that the fewest tiers and markings exclude."""
    labels = [nation.label(tier.name) for tier in nation.tiers]
    labels += [nation.label(markings=[name]) for name in nation.markings]
    return sorted(
        vocabulary_of(nation).places, key=lambda place: (-sum(label.allows_place(place) for label in labels), place)
    )


def _choices(parts: _Parts, rules: Sequence[Rule]) -> Iterator[dict[str, Any]]:
    plain = {name: values[0] for name, values in parts.items()}
    yield plain
    for name, values in parts.items():
        yield from ({**plain, name: value} for value in values[1:])
    random = Random(0)  # noqa: S311 - a sample that can be repeated, not a secret
    pairs = [
        {**plain, left: one, right: other}
        for left, right in combinations(parts, 2)
        for one, other in product(parts[left][1:], parts[right][1:])
    ]
    yield from pairs if len(pairs) <= MAX_CASES // 2 else random.sample(pairs, MAX_CASES // 2)
    for rule in rules:
        near = _near(rule, parts, plain)
        yield from islice(_drawn(near, random), MAX_CASES // 4 // len(rules))
    yield from islice(_drawn(parts, random), MAX_CASES)


def _near(rule: Rule, parts: _Parts, plain: Mapping[str, Any]) -> _Parts:
    """Where the rule names something, half of the time that; and half of the time the plainest."""
    named = {name for _, name in rule.mentions}
    near: dict[str, Sequence[Any]] = {}
    for part, values in parts.items():
        meant = [value for value in values if not named.isdisjoint(_names(value))]
        near[part] = [*meant, *[plain[part]] * len(meant)] or [*values, *[plain[part]] * len(values)]
    return near


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, Tier):
        return (value.name,)
    return value if isinstance(value, tuple) else (str(value),)


def _drawn(parts: _Parts, random: Random) -> Iterator[dict[str, Any]]:
    while True:
        yield {name: random.choice(values) for name, values in parts.items()}


def _asked(nation: Nation, choice: Mapping[str, Any]) -> Asked:
    name = choice["model"]
    return Asked(
        action=choice["action"],
        tenant_id=choice["tenant"],
        key_id=choice["key"],
        clearance=choice["clearance"],
        models={"any": None, "this": frozenset({name}), "another": frozenset({"another-model"})}[choice["scope"]],
        model=Model(name, nation.lowest, choice["licence"], choice["country"], choice["informative"]),
        label=nation.label(
            choice["tier"].name,
            markings=choice["markings"],
            purposes=choice["purposes"],
            jurisdictions=choice["jurisdictions"],
        ),
        site=Site(choice["site"], choice["place"], choice["accredited"], choice["seal"]),
    )
