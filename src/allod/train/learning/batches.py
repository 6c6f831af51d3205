"""What a step learns from: a pure function of seed and step, so that a run may stop and go on anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allod.core.errors import Invalid


class Tokens(Protocol):
    """A long row of tokens, read in windows (train/corpus/shards.py)."""

    num_tokens: int

    def window(self, start: int, length: int) -> NDArray[np.int64]: ...


class Spans:
    """Pieces of a row of tokens, read as if they stood one after another: the documents of one source, say."""

    def __init__(self, tokens: Tokens, pieces: Sequence[tuple[int, int]]) -> None:
        """`pieces` are first token and length of each, in order."""
        self._tokens = tokens
        self._firsts = np.array([first for first, _ in pieces], dtype=np.int64)
        self._ends = np.cumsum([length for _, length in pieces], dtype=np.int64)
        self.num_tokens = int(self._ends[-1])

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` tokens from `start` on, counted within the pieces."""
        found: list[NDArray[np.int64]] = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while length:
            left = min(length, int(self._ends[number]) - start)
            begin = int(self._ends[number - 1]) if number else 0
            found.append(self._tokens.window(int(self._firsts[number]) + start - begin, left))
            start, length, number = start + left, length - left, number + 1
        return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Section:
    """Text that is learnt from as one: all there is, or a source's."""

    name: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class TokenBatches:
    """Windows of `context` tokens, in an order drawn from `seed`.

    Rows are taken from `sections` in turn; one may stand there several times. Of each, every window comes once before
    any comes again, and each time through, the windows begin at other places. Nothing is stored: where the n-th row
    lies is computed.
    """

    sections: tuple[Section, ...]
    context: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        for section in self.sections:
            if self._num_windows(section) < 1:
                raise Invalid(
                    f"{section.tokens.num_tokens} tokens of {section.name} are too few to learn from in windows of "
                    f"{self.context}",
                    code="corpus_too_small",
                    hint="add documents, or make pretrain.context smaller",
                )

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.context

    def batch(self, step: int, *, part: int = 0, parts: int = 1) -> Tensor:
        """Rows of a step, int64 [rows / parts, context + 1]: tokens and, one further, what they are to predict.

        With `parts`, the rows are cut into that many equal pieces and this is piece `part`.
        """
        share = self.rows // parts
        first = step * self.rows + part * share
        return torch.from_numpy(np.stack([self.window(row) for row in range(first, first + share)]))

    def window(self, row: int) -> NDArray[np.int64]:
        """Row `row`, counted over all steps, int64 [context + 1]."""
        turn, position = divmod(row, len(self.sections))
        section = self.sections[position]
        number = turn * self.sections.count(section) + self.sections[:position].count(section)
        time, number = divmod(number, self._num_windows(section))
        key = f"{self.seed}/{section.name}/{time}"
        window = shuffle_index(number, self._num_windows(section), key=key)
        start = window * self.context + _draw(f"{key}/offset", self.context)
        return section.tokens.window(start, self.context + 1)

    def _num_windows(self, section: Section) -> int:
        """Windows in one time through; one is lost to where the first begins."""
        return (section.tokens.num_tokens - 1) // self.context - 1


def shuffle_index(index: int, count: int, *, key: str) -> int:
    """The `index`-th of the numbers below `count` in an order drawn from `key`, without making the order.

    A Feistel network of four rounds permutes the next power of four; numbers beyond `count` are walked through again
    (Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for turn in range(4):
            left, right = right, left ^ _draw(f"{key}/{turn}/{right}", 1 << half)
        index = left << half | right
        if index < count:
            return index


def _draw(text: str, below: int) -> int:
    """A number below `below` that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % below
