"""Why a request was decided as it was, and what would have to be different for it to be permitted.

The changes are found by trying, each alone and then in pairs: the policy itself has decided on what is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Any

from allod.core.labels import Label, is_within
from allod.core.nations.nation import Nation
from allod.govern.policy.decision import Decision, Policy
from allod.govern.policy.request import Model, PolicyRequest
from allod.govern.policy.rules import Rule
from allod.govern.policy.schema import WHOLE_SEALS, vocabulary_of

MAX_TRIES = 4_000
NUM_ALTERNATIVES = 3  # reported of one kind: so many places, so many models
NUM_WORDS = 12  # tried of one kind


@dataclass(frozen=True, slots=True)
class Explanation:
    """`rules` decided. `changes` are sets of changes, in words, each of which would make it permitted: the smallest
    that leave the label as high as it is, then the smallest of all."""

    decision: Decision
    rules: tuple[Rule, ...]
    changes: tuple[tuple[str, ...], ...] = ()

    @property
    def advice(self) -> str:
        """What would have to change, in one sentence."""
        if self.decision.permitted:
            return "It is permitted as it is."
        if self.decision.fault is not None:
            return f"The policy could not be evaluated: {self.decision.fault}"
        if not self.changes:
            return "No one change and no two changes would make it permitted."
        return f"It would be permitted with {'; or with '.join(' and '.join(changes) for changes in self.changes)}."


@dataclass(frozen=True, slots=True)
class _Change:
    part: str
    to: Any
    text: str

    @property
    def is_step(self) -> bool:
        """Whether the nearest one that suffices makes the further ones pointless."""
        return self.part in ("tier", "clearance", "accreditation")

    @property
    def lowers_the_label(self) -> bool:
        """Whether it is right only if the request was labelled higher than it is."""
        return self.part in ("tier", "marking")


_Changes = tuple[_Change, ...]


def explain(policy: Policy, asked: PolicyRequest, models: Iterable[Model] = ()) -> Explanation:
    """`models` are those that the realm has besides. Tries at most twice MAX_TRIES pairs: two seconds, mostly less."""
    decision = policy.decide(asked)
    rules = tuple(policy.rules[name] for name in decision.rules)
    if decision.permitted or decision.fault is not None:
        return Explanation(decision, rules)
    every = list(_single_changes(policy, asked, models))
    honest = [change for change in every if not change.lowers_the_label]
    found = dict.fromkeys([*_smallest(policy, asked, honest), *_smallest(policy, asked, every)])
    return Explanation(decision, rules, tuple(tuple(change.text for change in changes) for changes in found))


def _smallest(policy: Policy, asked: PolicyRequest, singles: list[_Change]) -> list[_Changes]:
    pairs = (pair for pair in combinations(singles, 2) if pair[0].part != pair[1].part or pair[0].part == "marking")
    alone = list(_sufficient(policy, asked, [(single,) for single in singles]))
    return alone or list(_sufficient(policy, asked, islice(pairs, MAX_TRIES)))


def _sufficient(policy: Policy, asked: PolicyRequest, sets: Iterable[_Changes]) -> Iterator[_Changes]:
    num_found: Counter[tuple[str, ...]] = Counter()
    settled: set[tuple[str, ...]] = set()
    for changes in sets:
        parts = tuple(change.part for change in changes)
        without_steps = tuple(change.part if change.is_step else change.text for change in changes)
        if num_found[parts] == NUM_ALTERNATIVES or without_steps in settled:
            continue
        if policy.decide(_apply_changes(asked, changes, policy.nation)).permitted:
            num_found[parts] += 1
            settled.add(without_steps)
            yield changes


def _single_changes(policy: Policy, asked: PolicyRequest, models: Iterable[Model]) -> Iterator[_Change]:
    """Every change worth trying, the nearest of a kind first; to label it lower comes last."""
    label, site, tiers = asked.label, asked.site, policy.nation.tiers
    for purpose in _sort_named_first(policy, "Purpose", policy.nation.purposes):
        if label.purposes != frozenset({purpose}):
            yield _Change("purpose", frozenset({purpose}), f"the purpose {purpose}")
    for place in _sort_named_first(policy, "Place", filter(label.allows_place, vocabulary_of(policy.nation).places)):
        if place != site.jurisdiction:
            yield _Change("place", place, f"a site in {place}")
    if site.seal not in WHOLE_SEALS:
        yield _Change("seal", "sealed", "a sealed engine")
    for tier in tiers:
        if tier.rank > asked.clearance.rank:
            yield _Change("clearance", tier, f"a key cleared for {tier.name}")
    for tier in tiers:
        if tier.rank > site.tier.rank:
            yield _Change("accreditation", tier, f"a site accredited for {tier.name}")
    if asked.models is not None and asked.model.name not in asked.models:
        yield _Change("scope", None, f"a key that may use {asked.model.name}")
    for model in islice((model for model in models if model != asked.model), NUM_WORDS):
        yield _Change("model", model, f"another model, {model.name}")
    for tier in reversed(tiers):
        if tier.rank < label.tier.rank:
            yield _Change("tier", tier.name, f"the tier {tier.name}, if it is no more sensitive than that")
    for marking in sorted(label.markings):
        yield _Change("marking", marking, f"no marking {marking}, if it needs none")


def _sort_named_first(policy: Policy, kind: str, words: Iterable[str]) -> list[str]:
    """Those that the policy's own rules speak of are the likeliest to matter, and the nation itself is the nearest."""
    named = {name for rule in policy.rules.values() for named, name in rule.mentions if named == kind}
    home = policy.nation.code.upper()
    return sorted(words, key=lambda word: (word not in named, not is_within(word, home), word))[:NUM_WORDS]


def _apply_changes(asked: PolicyRequest, changes: _Changes, nation: Nation) -> PolicyRequest:
    for change in changes:
        match change.part:
            case "tier" | "marking" | "purpose":
                asked = replace(asked, label=_relabel(asked.label, change, nation))
            case "place":
                asked = replace(asked, site=replace(asked.site, jurisdiction=change.to))
            case "seal":
                asked = replace(asked, site=replace(asked.site, seal=change.to))
            case "accreditation":
                asked = replace(asked, site=replace(asked.site, tier=change.to))
            case "scope":
                asked = replace(asked, models=None)
            case part:
                asked = replace(asked, **{part: change.to})
    return asked


def _relabel(label: Label, change: _Change, nation: Nation) -> Label:
    """A tier or marking that restricts places takes that restriction along when it goes; what the label adds stays."""
    tier = change.to if change.part == "tier" else label.tier.name
    markings = label.markings - {change.to} if change.part == "marking" else label.markings
    purposes = change.to if change.part == "purpose" else label.purposes
    implied = nation.label(label.tier.name, markings=label.markings).jurisdictions
    changed = nation.label(tier, markings=markings, purposes=purposes)
    if label.jurisdictions == implied:
        return changed
    return changed.join(Label(nation.tiers[0], jurisdictions=label.jurisdictions))
