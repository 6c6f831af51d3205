"""The public summary is read in browsers: what a recipe says of a source is text there, and nothing else."""

from __future__ import annotations

import pytest

from allod.model.releases import summary


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("![x](https://example.org/seen.png)", "!\\[x](https://example.org/seen.png)"),
        ("a | b", "a \\| b"),
        ("a \\| b", "a \\\\\\| b"),
        ("<script>", "&lt;script>"),
        ("`code`", "\\`code\\`"),
        ("two\nlines", "two lines"),
    ],
)
def test_words_of_a_source_are_text(said: str, shown: str) -> None:
    """No image that tells a stranger who reads, no cell that begins another."""
    assert summary._plain(said) == shown
