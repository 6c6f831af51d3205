"""Training documents that hold passages of what a model is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

LEAST_STREAK = 9  # runs of five words one after another: thirteen words, as Brown et al. 2020 (appendix C) compare
LEAST_COPIED = 100  # runs in such streaks: a quotation of about a hundred words is let pass, a page is not


class Passages:
    """The runs of words of documents that are held out. A run counts as theirs where its neighbours are, too: phrases
    that everybody uses come alone."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def add(self, document_id: str, runs: Sequence[str]) -> None:
        """Hold the runs of a held-out document."""
        for run in runs:
            self._owners.setdefault(run, document_id)

    def owner_of(self, runs: Sequence[str]) -> str | None:
        """The held-out document that the first copied passage is from, if `runs` copy more than a quotation."""
        if not self._owners:
            return None
        copied, index, owner = 0, 0, None
        for is_held_out, group in groupby(map(self._owners.__contains__, runs)):
            length = sum(1 for _ in group)
            if is_held_out and length >= LEAST_STREAK:
                copied += length
                owner = owner or self._owners[runs[index]]
            index += length
        return owner if copied >= LEAST_COPIED else None
