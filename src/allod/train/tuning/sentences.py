"""Sentences of prose: what instruction tuning continues, and what a cloze question takes the end of."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
_ENDS = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]?[A-Z])")
_TITLES = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Messrs|Esq|No|vol|Vol|[A-Z])\.$")


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of `text`, each as one line. Empty ones are left out."""
    for block in _PARAGRAPHS.split(text):
        if line := " ".join(block.split()):
            yield line


def sentences(paragraph: str) -> list[str]:
    """The sentences of one paragraph, in order.

    An end is a full stop, question or exclamation mark before a capital letter, except after a title or an initial
    ("Mr. Knightley"). It is a rule for making examples, not grammar: a wrong cut costs one example.
    """
    found: list[str] = []
    start = 0
    for end in _ENDS.finditer(paragraph):
        sentence = paragraph[start : end.end()].rstrip()
        if _TITLES.search(sentence):
            continue
        found.append(sentence)
        start = end.end()
    if rest := paragraph[start:].strip():
        found.append(rest)
    return found


def is_prose(sentence: str, *, min_bytes: int, max_bytes: int) -> bool:
    """Whether it reads as a sentence: of that length, ended, and not a heading in capitals or a table."""
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        min_bytes <= len(sentence.encode()) <= max_bytes
        and sentence.rstrip("\"'”’)")[-1:] in (".", "!", "?")
        and letters * 10 >= len(sentence) * 9
        and not any(word.isupper() and len(word) > 2 for word in sentence.split())
    )
