"""What a step learns from: a function of seed and step, fair to every window."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.train.learning.batches import Section, Spans, TokenBatches, shuffle_index


class Row:
    """Tokens that are their own places."""

    def __init__(self, num_tokens: int, begin: int = 0) -> None:
        self.num_tokens = num_tokens
        self._begin = begin

    def window(self, start: int, length: int) -> np.ndarray:
        assert 0 <= start <= start + length <= self.num_tokens
        return np.arange(self._begin + start, self._begin + start + length)


def batches(num_tokens: int = 1000, *, rows: int = 4, seed: int = 1) -> TokenBatches:
    return TokenBatches((Section("all", Row(num_tokens)),), context=10, rows=rows, seed=seed)


@settings(max_examples=60)
@given(count=st.integers(1, 300), key=st.text(max_size=5))
def test_shuffled_is_a_permutation(count: int, key: str) -> None:
    """Every number below the count comes exactly once."""
    assert sorted(shuffle_index(index, count, key=key) for index in range(count)) == list(range(count))


def test_every_window_comes_once_before_any_comes_again() -> None:
    """In one time through the corpus no two windows overlap but for the token that is only predicted."""
    some = batches()
    seen = Counter(token for row in range(98) for token in some.window(row)[:-1].tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == 980


def test_each_time_through_begins_elsewhere() -> None:
    """The second time, windows begin at other places and come in another order."""
    some = batches()
    first, second = ([int(some.window(row)[0]) for row in range(begin, begin + 98)] for begin in (0, 98))
    assert first != second
    assert first[0] % 10 != second[0] % 10


def test_a_row_is_one_token_longer_than_the_context() -> None:
    """What is to be predicted of the last token is there, too."""
    batch = batches().batch(3)
    assert batch.shape == (4, 11)
    assert batch.dtype == torch.int64
    assert torch.equal(batch[:, 1:] - batch[:, :-1], torch.ones(4, 10, dtype=torch.int64))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_make_up_the_batch(parts: int) -> None:
    """However many share a step, together they see its rows in their order."""
    pieces = [batches().batch(7, part=part, parts=parts) for part in range(parts)]
    assert torch.equal(torch.cat(pieces), batches().batch(7))


def test_seed_and_step_decide() -> None:
    """The same of both gives the same rows; another of either gives others."""
    assert torch.equal(batches().batch(5), batches().batch(5))
    assert not torch.equal(batches().batch(5), batches().batch(6))
    assert not torch.equal(batches().batch(5), batches(seed=2).batch(5))


def test_sections_take_turns() -> None:
    """A section that is named twice gives twice the rows, and its windows still come once before any comes again."""
    often, seldom = Section("often", Row(500)), Section("seldom", Row(500, begin=1000))
    some = TokenBatches((often, seldom, often), context=10, rows=3, seed=1)
    rows = [some.window(row) for row in range(72)]
    assert [int(row[0]) >= 1000 for row in rows] == [False, True, False] * 24
    starts = [int(row[0]) for row in rows if row[0] < 1000]
    assert len(set(starts)) == len(starts) == 48


def test_spans_read_as_one() -> None:
    """A window over the end of one piece goes on in the next."""
    spans = Spans(Row(100), [(50, 5), (10, 1), (90, 10)])
    assert spans.num_tokens == 16
    whole = [*range(50, 55), 10, *range(90, 100)]
    for start in range(16):
        for length in range(1, 17 - start):
            assert spans.window(start, length).tolist() == whole[start : start + length]


def test_too_few_tokens_are_refused() -> None:
    """A section of less than two windows is named."""
    with pytest.raises(Invalid, match="15 tokens of all") as refused:
        batches(15)
    assert refused.value.code == "corpus_too_small"
