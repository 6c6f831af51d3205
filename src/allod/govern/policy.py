"""The decision on a request: one built-in rule until policies are the operator's own.

Pure: `decide(label)` and nothing else; what is not permitted is forbidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.canonical import digest_of
from allod.core.labels import Label

RULE = "permit-official: whoever holds a key may ask for OFFICIAL work that no jurisdiction or purpose forbids"
POLICY_DIGEST = digest_of(RULE)


@dataclass(frozen=True, slots=True)
class Decision:
    """`rules` are those that said so; none means that nothing permitted it."""

    permitted: bool
    rules: tuple[str, ...]
    reason: str


def decide(label: Label) -> Decision:
    """Permit or forbid a request with this label."""
    if label.tier != "OFFICIAL":
        return Decision(False, (), f"no rule permits {label.tier}; the built-in rule is `{RULE}`")
    if label.jurisdictions == frozenset() or label.purposes == frozenset():
        return Decision(False, (), "its labels leave no place or no purpose for it")
    return Decision(True, ("permit-official",), "permit-official")
