"""Labels: how sensitive something is, how it must be handled, where and for what it may be processed.

Labels form a lattice. `join` is the label of a thing derived from two others, never lower than either: the higher
tier, both sets of markings, and only the places and purposes that both allow. An empty set of places or purposes
allows none, so an impossible combination forbids by itself; `ANY` stands for "not restricted".

A value whose label matters travels as `Labelled`. What tiers and markings there are is a nation's to say
(`nations/nation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid

ANY: frozenset[str] | None = None

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Tier:
    """A step of one nation's classification; a higher `rank` is more sensitive."""

    name: str
    rank: int
    nation: str


@dataclass(frozen=True, slots=True)
class Label:
    """`jurisdictions` are ISO 3166 codes, a country's standing for all its parts; None (`ANY`) means not restricted."""

    tier: Tier
    markings: frozenset[str] = frozenset()
    jurisdictions: frozenset[str] | None = ANY
    purposes: frozenset[str] | None = ANY
    _hash: int | None = field(
        default=None, init=False, repr=False, compare=False
    )  # whatever is remembered by labels asks for it

    def __post_init__(self) -> None:
        if self.jurisdictions is not None:
            object.__setattr__(self, "jurisdictions", _widest(self.jurisdictions))

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash((self.tier, self.markings, self.jurisdictions, self.purposes)))
        return self._hash  # type: ignore[return-value]  # by now it is there

    def join(self, other: Label) -> Label:
        """The label of what is made from both. Raises Invalid for labels of two nations: neither ranks the other's."""
        if self.tier.nation != other.tier.nation:
            raise Invalid(
                f"labels of {self.tier.nation} and {other.tier.nation} have no common order", code="nations_differ"
            )
        restricts = other.jurisdictions is not None or other.purposes is not None
        if not restricts and other.tier.rank <= self.tier.rank and other.markings <= self.markings:
            return self  # as nearly always
        return Label(
            tier=max(self.tier, other.tier, key=lambda tier: tier.rank),
            markings=self.markings | other.markings,
            jurisdictions=_common_places(self.jurisdictions, other.jurisdictions),
            purposes=_common(self.purposes, other.purposes),
        )

    def covers(self, other: Label) -> bool:
        """Whether this label is at least as high as `other` in every part, so that nothing is lost by it."""
        return self.join(other) == self

    def allows_place(self, jurisdiction: str) -> bool:
        """Whether it may be processed there: `GB` allows `GB-SCT`, not the other way round."""
        return self.jurisdictions is None or any(is_within(jurisdiction, place) for place in self.jurisdictions)

    @property
    def is_impossible(self) -> bool:
        """Whether it leaves no place or no purpose at all."""
        return self.jurisdictions == frozenset() or self.purposes == frozenset()

    def as_json(self) -> dict[str, JsonValue]:
        """The form that receipts carry; null stands for "not restricted"."""
        return {
            "tier": self.tier.name,
            "markings": sorted(self.markings),
            "jurisdictions": None if self.jurisdictions is None else sorted(self.jurisdictions),
            "purposes": None if self.purposes is None else sorted(self.purposes),
        }


@dataclass(frozen=True, slots=True)
class Labelled(Generic[_Value]):
    """A value and its label. Raises TypeError where there is no label: none is assumed."""

    value: _Value
    label: Label

    def __post_init__(self) -> None:
        if not isinstance(self.label, Label):
            raise TypeError(f"a value without a label: {type(self.label).__name__}")


def is_within(place: str, other: str) -> bool:
    """Whether the ISO 3166 code `place` names `other` or a part of it."""
    return place == other or place.startswith(f"{other}-")


def _common(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    if left is None:
        return right
    if right is None:
        return left
    return left & right


def _common_places(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    """Of two sets of places, those within both: a country and its part have the part in common."""
    if left is None or right is None:
        return _common(left, right)
    return frozenset(
        [place for place in left if any(is_within(place, other) for other in right)]
        + [place for place in right if any(is_within(place, other) for other in left)]
    )


def _widest(places: frozenset[str]) -> frozenset[str]:
    """The same area without what another of its places holds, so that equal areas are equal sets."""
    return frozenset(
        place for place in places if not any(place != other and is_within(place, other) for other in places)
    )
