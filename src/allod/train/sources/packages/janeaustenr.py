"""Jane Austen's six novels as the R package janeaustenr has them: a document a chapter.

The package's lines are those of a printed page. Paragraphs are put together again, since where a page was broken says
nothing; verses, letters' heads and lists, which were broken on purpose, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from allod.train.sources.packages.numerals import number_of
from allod.train.sources.packages.r_objects import texts

_FOLDER = "usr/lib/R/site-library/janeaustenr/data/"
_FILES = (f"{_FOLDER}Rdata.rdx", f"{_FOLDER}Rdata.rdb")

_CHAPTER = re.compile(r"chapter ([0-9]+|[IVXL]+)", re.IGNORECASE)
_VOLUME = re.compile(r"VOLUME ([IVX]+)")
_NOTE = "A NOTE ON THE TEXT"  # of a modern edition, and not Austen's
_FULL_LINE = 64  # columns; a line that stops before this, though the next word would have fit, was broken on purpose


def wants(member: str) -> bool:
    """Whether the reader needs this member of the package."""
    return member in _FILES


def read(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Name and text of every chapter, `persuasion/chapter-01` and so on. Raises Invalid (`r_object`)."""
    index, database = (members.get(name, b"") for name in _FILES)
    for novel, lines in texts(index, database).items():
        yield from _chapters(novel, lines)


def _chapters(novel: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    name, volume = "", ""
    chapter: list[str] = []
    for line in lines:
        if line.strip() == _NOTE:
            break
        if match := _VOLUME.fullmatch(line.strip()):
            if name:
                yield name, _text(chapter)
                name, chapter = "", []
            volume = f"volume-{number_of(match[1])}/"
        elif match := _CHAPTER.fullmatch(line.strip()):
            if name:
                yield name, _text(chapter)
                chapter = []
            name = f"{novel}/{volume}chapter-{number_of(match[1]):02}"
        chapter.append(line)
    if name:
        yield name, _text(chapter)


def _text(lines: list[str]) -> str:
    """Paragraphs with an empty line between them."""
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n"))
    return "\n\n".join(_paragraph(paragraph.split("\n")) for paragraph in paragraphs if paragraph.strip()) + "\n"


def _paragraph(lines: list[str]) -> str:
    whole = lines[0]
    for before, line in pairwise(lines):
        fits = len(before) + 1 + len(line.split(" ")[0]) <= _FULL_LINE
        whole += ("\n" if fits or line.startswith(" ") else " ") + line
    return re.sub(r"(?<=\S) {2,}", " ", whole)
