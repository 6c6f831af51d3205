"""Step 3 at the edge: the label that a client declares in its headers, joined with its tenant's default."""

from __future__ import annotations

from allod.core.errors import Invalid
from allod.core.labels import Label

MARKINGS = frozenset({"SENSITIVE", "PERSONAL DATA", "UK EYES ONLY"})
_HEADERS = (b"x-allod-tier", b"x-allod-markings", b"x-allod-purpose")


def label_of(headers: dict[bytes, bytes], default: Label) -> Label:
    """The request's label. Raises Invalid for a word that is not known: a label is never dropped."""
    tier, markings, purpose = (headers.get(name, b"").decode("latin-1").strip() for name in _HEADERS)
    if not (tier or markings or purpose):
        return default
    if purpose:
        raise Invalid(
            f"unknown purpose {purpose!r}: this realm defines none", code="unknown_label", param="x-allod-purpose"
        )
    named = {marking.strip() for marking in markings.split(",")} - {""}
    if tier == "OFFICIAL-SENSITIVE":
        tier, named = "OFFICIAL", named | {"SENSITIVE"}
    if unknown := named - MARKINGS:
        raise Invalid(f"unknown marking {sorted(unknown)[0]!r}", code="unknown_label", param="x-allod-markings")
    return default.join(Label(tier=tier or default.tier, markings=frozenset(named)))
