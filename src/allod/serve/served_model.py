"""What is served, as clients are told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.core.shown_text import fold


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients are told of a model. `informative` is False where its answers are not information.

    `digest` is of its own file. For an adapter `base` names the model that it is served over; `tier` and `markings` are
    of what it was made from, in the nation's words: an empty tier is the lowest.
    """

    name: str
    owner: str
    digest: str
    licence: str
    country: str
    informative: bool
    base: str = ""
    tier: str = ""
    markings: tuple[str, ...] = ()


def check_names(names: Sequence[str]) -> None:
    """Raise Invalid (`model_name`) for two names that look the same: clients and receipts would mean one of the two
    models and name the other."""
    looks = [fold(name) for name in names]
    if twice := [name for name, look in zip(names, looks, strict=True) if looks.count(look) > 1]:
        raise Invalid(
            f"the model {twice[0]!r} is named twice, or another looks like it by name",
            code="model_name",
            hint="each is served once; give one of them another name",
        )
