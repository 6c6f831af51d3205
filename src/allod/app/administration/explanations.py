"""Why a request would be decided as it would, in the one JSON form of all interfaces."""

from __future__ import annotations

from typing import Any

from allod.govern.policy.decision import Policy
from allod.govern.policy.explain import Explanation
from allod.govern.policy.request import PolicyRequest, sentence_of
from allod.govern.policy.rules import Rule

Json = dict[str, Any]


def describe_explanation(policy: Policy, asked: PolicyRequest, explanation: Explanation) -> Json:
    """What was asked of the policy, what it decided, and what would change that."""
    return {
        "object": "governance.explanation",
        "asked": sentence_of(asked),
        "label": asked.label.as_json(),
        "policy": policy.digest,
        "decision": "permit" if explanation.decision.permitted else "forbid",
        "reason": explanation.decision.reason,
        "rules": [describe_rule(rule) for rule in explanation.rules],
        "fault": explanation.decision.fault,
        "changes": explanation.changes,
        "advice": explanation.advice,
    }


def describe_rule(rule: Rule) -> Json:
    """A rule of a policy."""
    return {"name": rule.name, "effect": rule.effect, "reason": rule.reason, "source": rule.source}
