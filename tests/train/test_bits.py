"""Bits per byte."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch

from allod.train.evaluation.bits import ROWS, bits_per_byte


def guess(tokens: torch.Tensor) -> torch.Tensor:
    """A network that finds each of 16 tokens equally likely."""
    return torch.zeros(*tokens.shape, 16)


@pytest.mark.parametrize("num_tokens", [2, 9, 10, 11, 10 * ROWS + 1, 10 * ROWS + 7, 1000])
def test_every_token_but_the_first_is_predicted_once(num_tokens: int) -> None:
    """A guess among sixteen costs four bits a token, whatever the windows cut off at the end."""
    tokens = torch.arange(num_tokens) % 16
    assert bits_per_byte(guess, tokens, num_tokens - 1, context=10) == pytest.approx(4.0)


def test_bytes_are_what_counts() -> None:
    """The same tokens for twice the text are half the bits."""
    tokens = torch.arange(100) % 16
    assert bits_per_byte(guess, tokens, 300, context=10) == pytest.approx(99 * 4 / 300)


def test_a_network_sees_only_what_is_before() -> None:
    """One that repeats what it saw last is right where text repeats, and only there."""

    def repeats(tokens: torch.Tensor) -> torch.Tensor:
        return 10.0 * torch.nn.functional.one_hot(tokens, 16)

    same, different = torch.full((50,), 3), torch.arange(50) % 16
    assert bits_per_byte(repeats, same, 49, context=10) < 0.01
    assert bits_per_byte(repeats, different, 49, context=10) > 10 / math.log(2)
