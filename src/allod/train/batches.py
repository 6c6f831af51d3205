"""What a step learns from: a pure function of seed and step, so that a run may stop and go on anywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from allod.core.errors import Invalid


class Tokens(Protocol):
    """A long row of tokens, read in windows (train/shards.py)."""

    @property
    def num_tokens(self) -> int: ...

    def window(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Batches:
    """Windows of `context` tokens in an order drawn from `seed`: every one once before any comes again.

    Each time through, the windows begin at other places. Nothing is stored: where the n-th window lies is computed.
    """

    tokens: Tokens
    context: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise Invalid(
                f"{self.tokens.num_tokens} tokens are too few to learn from in windows of {self.context}",
                code="corpus_too_small",
                hint="add documents, or make pretrain.context smaller",
            )

    @property
    def num_windows(self) -> int:
        """Windows in one time through; one is lost to the place where the first begins."""
        return (self.tokens.num_tokens - 1) // self.context - 1

    def batch(self, step: int, *, part: int = 0, parts: int = 1) -> Tensor:
        """Rows of a step, int64 [rows / parts, context + 1]: tokens and, one further, what they are to predict.

        With `parts`, the rows are cut into that many equal pieces and this is piece `part`.
        """
        share = self.rows // parts
        first = step * self.rows + part * share
        windows = [self.tokens.window(self.start(number), self.context + 1) for number in range(first, first + share)]
        return torch.from_numpy(np.stack(windows).astype(np.int64))

    def start(self, number: int) -> int:
        """Where the window lies that is `number`-th to be learned from."""
        time, place = divmod(number, self.num_windows)
        offset = _draw(f"{self.seed}/{time}/offset", self.context)
        return shuffled(place, self.num_windows, key=f"{self.seed}/{time}") * self.context + offset


def shuffled(place: int, count: int, *, key: str) -> int:
    """The `place`-th of the numbers below `count` in an order drawn from `key`, without making the order.

    A Feistel network of four rounds permutes the next power of four; numbers beyond `count` are walked through again
    (Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    while True:
        left, right = place >> half, place & ((1 << half) - 1)
        for turn in range(4):
            left, right = right, left ^ _draw(f"{key}/{turn}/{right}", 1 << half)
        place = left << half | right
        if place < count:
            return place


def _draw(text: str, below: int) -> int:
    """A number below `below` that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % below
