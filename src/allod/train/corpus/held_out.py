"""Which documents are held out: never trained on, kept to measure with."""

from __future__ import annotations

from allod.train.corpus.documents import Document
from allod.train.recipe import Recipe


class HeldOut:
    """What a recipe holds out. A name stands for the document of that name and for all below it:
    `persuasion` holds out `austen/persuasion/chapter-01` and every other chapter."""

    def __init__(self, recipe: Recipe) -> None:
        self._names = {source: frozenset(names) for source, names in recipe.held_out.items()}

    def __contains__(self, document: Document) -> bool:
        names = self._names.get(document.source)
        if not names:
            return False
        parts = document.id.removeprefix(f"{document.source}/").split("/")
        return any("/".join(parts[:length]) in names for length in range(1, len(parts) + 1))
