"""Tokens told by bytes: the same of texts that nobody joined."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from allod.engine.token_estimate import estimate_tokens, estimate_tokens_of


@given(st.lists(st.text(st.characters()), max_size=5), st.integers(0, 40))
def test_texts_are_estimated_as_their_lines_would_be(texts: list[str], max_bytes: int) -> None:
    """Cut within a character or at the end of a line, with what no UTF-8 can say, and where there are none."""
    lines = "\n".join(texts).encode("utf-8", "replace")
    assert estimate_tokens_of(texts, max_bytes=max_bytes) == estimate_tokens(lines[:max_bytes])


def test_no_more_is_read_than_counts() -> None:
    """A prompt that no context holds costs no more than one that fills it."""
    assert estimate_tokens_of(iter(["a" * 9, "b", ""]), max_bytes=9) == 3
