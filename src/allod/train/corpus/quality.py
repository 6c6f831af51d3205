"""Rules that tell text worth learning from what is not, each with the reason it gives when a document is dropped."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LINE_CHARS = 20_000  # a paragraph is shorter by far; minified code and exported tables are longer
LEAST_TEXT_PERCENT = 60  # of what is not white space must be letters; programs and tables pass, dumps do not
LEAST_DISTINCT_PERCENT = 30  # of the runs of five words must be different
_RUN = 5


def fault_of(text: str, words: Sequence[str], *, min_bytes: int) -> str | None:
    """The rule that drops a document (`too_short`, `huge_line`, `not_text`, `repetitive`), or None. `words` are its
    words in order."""
    if len(text.encode("utf-8")) < min_bytes:
        return "too_short"
    if max(map(len, text.split("\n"))) > MAX_LINE_CHARS:
        return "huge_line"
    letters = sum(map(len, words))
    if 100 * letters < LEAST_TEXT_PERCENT * len("".join(text.split())):
        return "not_text"
    runs = len(words) - _RUN + 1
    if runs > 0 and 100 * len(set(_runs(words))) < LEAST_DISTINCT_PERCENT * runs:
        return "repetitive"
    return None


def _runs(words: Sequence[str]) -> zip[tuple[str, ...]]:
    return zip(*(words[first:] for first in range(_RUN)), strict=False)
