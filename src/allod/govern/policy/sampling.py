"""Representative questions for a policy: a finite sample of what its realm's words and its own rules can tell apart.

The first is the plainest question there is. Then every question that differs from it in one or two parts, then some in
the neighbourhood of each rule, then some at random: by a fixed seed, so that a check can be repeated. Words that
neither the rules nor the profile tell apart are represented by two of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from random import Random
from typing import Any

from allod.core.labels import Tier
from allod.core.nations.nation import Nation
from allod.govern.policy.decision import Policy
from allod.govern.policy.request import Model, PolicyRequest, PolicySite
from allod.govern.policy.rules import Rule
from allod.govern.policy.schema import vocabulary_of

MAX_CASES = 2_000
MAX_PAIRS = 20  # of the values of two parts
MAX_NAMED = 50  # of one kind

_Parts = Mapping[str, Sequence[Any]]  # part of a question → what it may be, the plainest first
_KINDS = ("Tenant", "Key", "Model", "Place", "Marking", "Purpose", "String")


def cases(policy: Policy) -> list[PolicyRequest]:
    """At most MAX_CASES different questions, simple ones first."""
    parts = _parts(policy)
    found: dict[PolicyRequest, None] = {}
    for choice in _choices(parts, list(policy.rules.values())):
        found[_request(policy.nation, choice)] = None
        if len(found) == MAX_CASES:
            break
    return list(found)


def _parts(policy: Policy) -> _Parts:
    nation = policy.nation
    names = _names_in(policy)
    places = _places(nation, named=names["Place"])
    markings = _keep_telling(nation.markings, [*names["Marking"], *_restrictions(nation)])
    purposes = _keep_telling(nation.purposes, names["Purpose"])
    highest_first = nation.tiers[::-1]
    return {
        "tier": nation.tiers,
        "clearance": highest_first,
        "accredited": highest_first,
        "seal": ("sealed", "partial:no-landlock", "none"),
        "markings": [(), *((name,) for name in markings), *_together(policy, "Marking")],
        "purposes": [None, *((name,) for name in purposes), *_together(policy, "Purpose"), ()],
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


def _names_in(policy: Policy) -> dict[str, list[str]]:
    """What the rules mention, by kind."""
    names: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for kind, name in sorted({mention for rule in policy.rules.values() for mention in rule.mentions}):
        if kind in names and len(names[kind]) < MAX_NAMED:
            names[kind].append(name)
    return names


def _together(policy: Policy, kind: str) -> list[tuple[str, ...]]:
    """Words of which one rule names several: it may want them all at once."""
    named = {tuple(sorted(name for named, name in rule.mentions if named == kind)) for rule in policy.rules.values()}
    return sorted(names for names in named if len(names) > 1)


def _places(nation: Nation, named: Iterable[str]) -> list[str]:
    """The plainest first: the one that the fewest tiers and markings exclude."""
    labels = [nation.label(tier.name) for tier in nation.tiers]
    labels += [nation.label(markings=[name]) for name in nation.markings]

    def num_excluding(place: str) -> int:
        return sum(not label.allows_place(place) for label in labels)

    places = sorted(vocabulary_of(nation).places, key=lambda place: (num_excluding(place), place))
    allowed = [place for label in labels for place in label.jurisdictions or ()]
    return _keep_telling(places, [*named, *allowed])


def _restrictions(nation: Nation) -> list[str]:
    return [marking.name for marking in nation.markings.values() if marking.jurisdictions is not None]


def _keep_telling(words: Iterable[str], telling: Collection[str]) -> list[str]:
    """In the order of `words`: those that tell, and of the others the first and the last."""
    words = list(words)
    others = [word for word in words if word not in telling]
    kept = {*telling, *others[:1], *others[-1:]}
    return [word for word in words if word in kept]


def _choices(parts: _Parts, rules: Sequence[Rule]) -> Iterator[dict[str, Any]]:
    plain = {name: values[0] for name, values in parts.items()}
    yield plain
    for name, values in parts.items():
        yield from ({**plain, name: value} for value in values[1:])
    random = Random(0)  # noqa: S311 - a sample that can be repeated, not a secret
    for left, right in combinations(parts, 2):
        pairs = list(product(parts[left][1:], parts[right][1:]))
        for value, other in [
            *pairs[-1:],
            *random.sample(pairs, min(len(pairs), MAX_PAIRS)),
        ]:  # the extremes for certain
            yield {**plain, left: value, right: other}
    for rule in rules:
        near = _near(rule, parts, plain)
        yield {name: values[0] for name, values in near.items()}
        yield from islice(_draw(near, random), MAX_CASES // 4 // len(rules))
    yield from islice(_draw(parts, random), MAX_CASES)


def _near(rule: Rule, parts: _Parts, plain: Mapping[str, Any]) -> _Parts:
    """What the rule names, first and half of the time; else the plainest."""
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


def _draw(parts: _Parts, random: Random) -> Iterator[dict[str, Any]]:
    while True:
        yield {name: random.choice(values) for name, values in parts.items()}


def _request(nation: Nation, choice: Mapping[str, Any]) -> PolicyRequest:
    name = choice["model"]
    return PolicyRequest(
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
        site=PolicySite(choice["site"], choice["place"], choice["accredited"], choice["seal"]),
    )
