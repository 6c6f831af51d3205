"""What is minimised."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch

from allod.train.learning.losses import (
    CHUNK_ROWS,
    GOLDFISH_SPAN,
    goldfish_left_out,
    next_token_loss,
    next_token_loss_in_chunks,
)


def drawn(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(1))


def tokens(*sizes: int, below: int = 50) -> torch.Tensor:
    return torch.randint(0, below, sizes, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("goldfish_k", [0, 4])
@pytest.mark.parametrize("time", [32, CHUNK_ROWS])
def test_the_chunked_loss_is_the_loss(goldfish_k: int, time: int) -> None:
    """Value and gradients are those of the loss over whole logits, whether or not the last chunk is full."""
    targets = tokens(3, time)
    results = []
    for chunked in (False, True):
        values, table = drawn(3, time, 16).requires_grad_(), drawn(50, 16).requires_grad_()
        if chunked:
            loss = next_token_loss_in_chunks(values, table, targets, goldfish_k=goldfish_k)
        else:
            loss = next_token_loss(values @ table.T, targets, goldfish_k=goldfish_k)
        (2 * loss).backward()  # type: ignore[no-untyped-call]
        results.append((loss, values.grad, table.grad))
    for whole, in_chunks in zip(*results, strict=True):
        torch.testing.assert_close(in_chunks, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [2, 4, 10])
def test_goldfish_leaves_out_one_in_k(k: int) -> None:
    """About every k-th target counts for nothing."""
    share = goldfish_left_out(tokens(64, 512), k).float().mean().item()
    assert share == pytest.approx(1 / k, rel=0.1)


def test_goldfish_leaves_out_the_same_wherever_the_words_stand() -> None:
    """A passage that comes again, elsewhere in a window, loses the same tokens: repeats do not give them away."""
    passage = tokens(60)
    before, after = tokens(1, 100), tokens(1, 37)
    first = goldfish_left_out(torch.cat((before[0], passage))[None], 3)[0, 100:]
    second = goldfish_left_out(torch.cat((after[0], passage))[None], 3)[0, 37:]
    assert torch.equal(first[GOLDFISH_SPAN:], second[GOLDFISH_SPAN:])
    assert first.any()


def test_nothing_is_learned_of_what_is_left_out() -> None:
    """The gradient at a target that is left out is nought."""
    targets = tokens(2, 64)
    logits = drawn(2, 64, 50).requires_grad_()
    next_token_loss(logits, targets, goldfish_k=3).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    left_out = goldfish_left_out(targets, 3)
    assert not logits.grad[left_out].any()
    assert logits.grad[~left_out].abs().sum(-1).min() > 0
