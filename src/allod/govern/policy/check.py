"""Is this a policy that anybody can have meant? Found out by asking it thousands of representative questions.

A sample shows what is there, not what is not: "no finding" is no proof. What it finds is real, with an example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from allod.core.nations.nation import Nation
from allod.govern.policy.decision import Decision, Policy, load_policy
from allod.govern.policy.request import PolicyRequest, sentence_of
from allod.govern.policy.sampling import cases
from allod.govern.policy.schema import WHOLE_SEALS

NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """An `error` is what no operator can want. `example` is a question that shows it, in words."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    example: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What was asked, and what came of it. Several rules may forbid one request, so `forbidden_by` may sum to more."""

    digest: str
    num_asked: int
    num_permitted: int
    forbidden_by: Mapping[str, int]  # every rule that forbids
    num_uncovered: int  # forbidden because no rule says anything
    uncovered: tuple[str, ...]  # the plainest of them, in words
    idle: tuple[str, ...]  # rules that never held
    overridden: Mapping[str, tuple[str, ...]]  # rules whose every permission is overruled → by which rules
    findings: tuple[RuleFinding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found that is an error."""
        return all(finding.severity != "error" for finding in self.findings)


_Answers = list[tuple[PolicyRequest, Decision]]


def check_policy(text: str, nation: Nation) -> PolicyReport:
    """Takes a second or two. Raises Invalid, as `load_policy` does, for what is no policy at all."""
    policy = load_policy(text, nation)
    answers = [(asked, policy.decide(asked)) for asked in cases(policy)]
    permitted = [(asked, decision) for asked, decision in answers if decision.permitted]
    forbidden = [(asked, decision) for asked, decision in answers if not decision.permitted]
    uncovered = [sentence_of(asked) for asked, decision in forbidden if not decision.rules and decision.fault is None]
    counts = Counter(name for _, decision in answers for name in decision.rules)
    opposed = _find_opposed(policy, forbidden)
    return PolicyReport(
        digest=policy.digest,
        num_asked=len(answers),
        num_permitted=len(permitted),
        forbidden_by={rule.name: counts[rule.name] for rule in policy.rules.values() if rule.effect == "forbid"},
        num_uncovered=len(uncovered),
        uncovered=tuple(uncovered[:NUM_EXAMPLES]),
        idle=tuple(name for name in policy.rules if name not in counts and name not in opposed),
        overridden={name: opposed[name] for name in policy.rules if name in opposed and name not in counts},
        findings=tuple(_findings(policy, answers, opposed)),
    )


def _find_opposed(policy: Policy, forbidden: _Answers) -> dict[str, tuple[str, ...]]:
    """Rules that would permit something that is forbidden, and what forbids it, the most frequent first."""
    permits = "\n".join(rule.source for rule in policy.rules.values() if rule.effect == "permit")
    if not permits:
        return {}
    alone = load_policy(permits, policy.nation)
    against: dict[str, Counter[str]] = {}
    for asked, decision in forbidden:
        for name in alone.decide(asked).rules:
            against.setdefault(name, Counter()).update(decision.rules)
    return {name: tuple(rule for rule, _ in counts.most_common()) for name, counts in against.items()}


def _findings(policy: Policy, answers: _Answers, opposed: Mapping[str, tuple[str, ...]]) -> Iterator[RuleFinding]:
    permitted = [asked for asked, decision in answers if decision.permitted]
    deciding = {name for _, decision in answers for name in decision.rules}
    if not permitted:
        yield RuleFinding("error", "forbids_everything", "it forbids everything")
    if len(permitted) == len(answers):
        yield RuleFinding("error", "permits_everything", "it permits everything")
    for asked, decision in answers:
        if decision.fault is not None:
            yield RuleFinding("error", "fault", f"it cannot be evaluated: {decision.fault}", sentence_of(asked))
            break
    for severity, code, message, is_so in _DANGERS:
        example = next((asked for asked in permitted if is_so(asked, policy.nation)), None)
        if example is not None:
            yield RuleFinding(severity, code, f"it permits {message}", sentence_of(example))
    for name in policy.rules:
        if name in deciding:
            continue
        if name in opposed:
            yield RuleFinding(
                "warning", "overridden", f"{name} permits only what is forbidden by {_list(opposed[name])}"
            )
        else:
            yield RuleFinding("warning", "idle", f"{name} held for no question that was asked")


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NUM_EXAMPLES])


def _is_top_for_lowest(asked: PolicyRequest, nation: Nation) -> bool:
    return len(nation.tiers) > 1 and asked.label.tier == nation.tiers[-1] and asked.clearance == nation.tiers[0]


def _is_elsewhere(asked: PolicyRequest, _: Nation) -> bool:
    return not asked.label.allows_place(asked.site.jurisdiction)


def _is_purposeless(asked: PolicyRequest, _: Nation) -> bool:
    return asked.label.purposes == frozenset()


def _is_above_clearance(asked: PolicyRequest, _: Nation) -> bool:
    return asked.label.tier.rank > asked.clearance.rank


def _is_above_accreditation(asked: PolicyRequest, _: Nation) -> bool:
    return asked.label.tier.rank > asked.site.tier.rank


def _is_out_of_scope(asked: PolicyRequest, _: Nation) -> bool:
    return asked.models is not None and asked.model.name not in asked.models


def _is_exposed(asked: PolicyRequest, nation: Nation) -> bool:
    return asked.site.seal not in WHOLE_SEALS and asked.label.tier != nation.tiers[0]


_DANGERS: tuple[tuple[Literal["error", "warning"], str, str, Callable[[PolicyRequest, Nation], bool]], ...] = (
    ("error", "top_for_lowest", "the highest tier to keys of the lowest clearance", _is_top_for_lowest),
    ("error", "elsewhere", "places that the request's label does not allow", _is_elsewhere),
    ("error", "purposeless", "requests whose labels leave no purpose", _is_purposeless),
    ("warning", "above_clearance", "requests above the key's clearance", _is_above_clearance),
    ("warning", "above_accreditation", "requests above the site's accreditation", _is_above_accreditation),
    ("warning", "out_of_scope", "models that the key is not scoped to", _is_out_of_scope),
    ("warning", "not_sealed", "more than the lowest tier without a whole seal", _is_exposed),
)
