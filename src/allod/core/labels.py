"""Labels: how sensitive something is, how it must be handled, where and for what it may be processed.

`join` is the label of a thing derived from two others: never lower than either. An empty set of jurisdictions or
purposes permits none, so an impossible combination forbids by itself; `ANY` stands for "not restricted".
"""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid

TIERS = ("OFFICIAL", "SECRET", "TOP SECRET")  # UK Government Security Classifications, August 2024
ANY: frozenset[str] | None = None


def _meet(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    if left is None:
        return right
    if right is None:
        return left
    return left & right


@dataclass(frozen=True, slots=True)
class Label:
    """`jurisdictions` are ISO 3166 codes; None (`ANY`) means not restricted."""

    tier: str = "OFFICIAL"
    markings: frozenset[str] = frozenset()
    jurisdictions: frozenset[str] | None = ANY
    purposes: frozenset[str] | None = ANY

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise Invalid(
                f"unknown tier {self.tier!r}",
                code="unknown_label",
                param="tier",
                hint=f"known tiers: {', '.join(TIERS)}",
            )

    def join(self, other: Label) -> Label:
        """The label of what is made from both."""
        return Label(
            tier=max(self.tier, other.tier, key=TIERS.index),
            markings=self.markings | other.markings,
            jurisdictions=_meet(self.jurisdictions, other.jurisdictions),
            purposes=_meet(self.purposes, other.purposes),
        )

    def as_json(self) -> dict[str, JsonValue]:
        """The form that receipts carry; null stands for "not restricted"."""
        return {
            "tier": self.tier,
            "markings": sorted(self.markings),
            "jurisdictions": None if self.jurisdictions is None else sorted(self.jurisdictions),
            "purposes": None if self.purposes is None else sorted(self.purposes),
        }
