"""What is served, as clients are told of it."""

from __future__ import annotations

from dataclasses import dataclass


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
