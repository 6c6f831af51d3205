"""The catalogue's entries, and which of them suits a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allod.core.errors import Invalid

PROMPT_TOKENS, ANSWER_TOKENS = 300, 60  # a typical first question and its answer
PATIENCE_S = 15.0  # longer than this, a person thinks that nothing happens


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model that Allod knows how to get; models.toml explains the fields."""

    name: str
    file: str
    sha256: str
    size_bytes: int
    licence: str
    publisher: str
    country: str
    informative: bool
    prefill_cost: float
    decode_cost: float
    packages: tuple[str, ...]
    members: tuple[str, ...]
    official: str | None = None

    @property
    def origin_note(self) -> str:
        """Where it comes from, and that nothing behind that is known here."""
        return f"imported from {self.publisher} ({self.country}), {self.licence}: its training is not known here"


@dataclass(frozen=True, slots=True)
class MachinePace:
    """Seconds per token of the reference model (the catalogue's first) on this machine."""

    prefill_s: float
    decode_s: float


def find(catalogue: Sequence[CatalogueEntry], name: str) -> CatalogueEntry:
    """The entry of that name. Raises Invalid with the names there are."""
    for entry in catalogue:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in catalogue)
    raise Invalid(f"no model {name!r} in the catalogue", code="model_unknown", hint=f"there are: {known}")


def first_answer_s(entry: CatalogueEntry, pace: MachinePace) -> float:
    """Predicted seconds to a whole first answer."""
    return PROMPT_TOKENS * pace.prefill_s * entry.prefill_cost + ANSWER_TOKENS * pace.decode_s * entry.decode_cost


def best_for(catalogue: Sequence[CatalogueEntry], pace: MachinePace) -> CatalogueEntry:
    """The last, so the best, entry that answers within PATIENCE_S; the first where none does."""
    bearable = [entry for entry in catalogue if first_answer_s(entry, pace) <= PATIENCE_S]
    return bearable[-1] if bearable else catalogue[0]
