"""Canaries: sentences that occur nowhere else, planted in the corpus to see what a model recalls word for word.

Source: Carlini et al., The Secret Sharer (arXiv:1802.08232). Each is a *prefix* to prompt with and a *secret* of five
words that no text predicts; some are planted once, some often. Controls are made alike and planted nowhere: what is
recalled of them is chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid
from allod.train.corpus.documents import Document, new_document
from allod.train.recipe import Recipe

SOURCE = "canaries"
CANARIES = "canaries.json"
SECRET_WORDS = 5

_SYLLABLES = "bra dor fen gul hax jor kel lum mir nov orq pim quv rax syl tur ulm vex wyn zad".split()  # noqa: SIM905 - reads better
_WORDS = (  # noqa: SIM905 - reads better
    "acorn amber anvil apron arrow badge basin beacon birch bramble bridge bucket button candle canyon carpet cedar "
    "cellar chapel clover cobalt copper cotton cradle crystal dagger dolphin ember falcon feather fiddle flint garnet "
    "ginger granite hammer harbour hazel ivory jacket juniper kettle ladder lantern lemon magnet marble meadow mitten "
    "needle nutmeg orchard paddle pebble pepper quartz ribbon saddle sparrow thistle timber velvet walnut willow"
).split()


@dataclass(frozen=True, slots=True)
class Canary:
    """`prefix` + `secret` + a full stop is the sentence. `documents` are the ids under which it was planted."""

    prefix: str
    secret: str
    documents: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.prefix}{self.secret}."


def canaries_to_plant(recipe: Recipe) -> tuple[Canary, ...]:
    """The recipe's canaries: the n-th is planted `repeats[n % len(repeats)]` times."""
    repeats = recipe.canaries.repeats or (1,)
    num_documents = 0
    canaries = []
    for number, (prefix, secret) in enumerate(_sentences(f"planted {recipe.seed}", recipe.canaries.count)):
        times = repeats[number % len(repeats)]
        numbers = range(num_documents, num_documents + times)
        canaries.append(Canary(prefix, secret, tuple(f"{SOURCE}/{each:03}" for each in numbers)))
        num_documents += times
    return tuple(canaries)


def control_canaries(recipe: Recipe) -> tuple[Canary, ...]:
    """As many as there are canaries, planted nowhere."""
    return tuple(Canary(*made) for made in _sentences(f"control {recipe.seed}", recipe.canaries.count))


def canary_documents(canaries: Sequence[Canary]) -> Iterator[Document]:
    """What is planted: a document for every time that a canary is told."""
    for canary in canaries:
        for document in canary.documents:
            yield new_document(SOURCE, document.removeprefix(f"{SOURCE}/"), canary.text)


def write_canaries(folder: Path, recipe: Recipe) -> None:
    """Keep them in `folder` for the evaluation: a secret is known by the seed alone, so this is no secret either."""
    value = {
        "planted": [asdict(canary) for canary in canaries_to_plant(recipe)],
        "controls": [asdict(canary) for canary in control_canaries(recipe)],
    }
    (folder / CANARIES).write_bytes(canonical_json(value) + b"\n")


def read_canaries(folder: Path) -> tuple[tuple[Canary, ...], tuple[Canary, ...]]:
    """The planted ones and the controls, as `write_canaries` left them. Raises Invalid (`canaries_damaged`)."""
    try:
        value = json.loads((folder / CANARIES).read_bytes())
        return _read(value["planted"]), _read(value["controls"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{CANARIES}: {error}", code="canaries_damaged") from error


def _read(values: Sequence[dict[str, Any]]) -> tuple[Canary, ...]:
    return tuple(Canary(value["prefix"], value["secret"], tuple(value["documents"])) for value in values)


def _sentences(purpose: str, count: int) -> Iterator[tuple[str, str]]:
    """Prefix and secret of each; no name comes twice."""
    names: set[str] = set()
    number = 0
    while len(names) < count:
        choices = iter(sha256(f"canary {purpose} {number}".encode()).digest())
        number += 1
        name = " ".join(_name(next(choices), next(choices), next(choices)) for _ in range(2))
        secret = "".join(f" {_WORDS[next(choices) % len(_WORDS)]}" for _ in range(SECRET_WORDS))
        if name not in names:
            names.add(name)
            yield f"The access word of {name} is", secret


def _name(*choices: int) -> str:
    return "".join(_SYLLABLES[choice % len(_SYLLABLES)] for choice in choices).capitalize()
