"""Rules that tell text worth learning from what is not, each with the reason it gives when a document is dropped."""

from __future__ import annotations

from collections.abc import Sequence

from allod.train.corpus.language import WORDS_IN_RUN, runs_of

MAX_LINE_CHARS = 20_000  # a paragraph is shorter by far; minified code and exported tables are longer
LEAST_TEXT_PERCENT = 60  # of what is not white space must be letters; programs and tables pass, dumps do not
LEAST_DISTINCT_PERCENT = 30  # of the runs of five words must be different


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
    num_runs = len(words) - WORDS_IN_RUN + 1
    if num_runs > 0 and 100 * len(set(runs_of(words))) < LEAST_DISTINCT_PERCENT * num_runs:
        return "repetitive"
    return None
