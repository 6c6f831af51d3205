"""What is minimised: the mean surprise at the next token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

GOLDFISH_SPAN = 13
"""Tokens that decide whether the next one is left out: h in Hans et al. (arXiv:2406.10209), section 3.1."""
LEFT_OUT = -100
CHUNK_ROWS = 256
_MULTIPLIER = 6364136223846793005  # Knuth's, for a linear congruential step over 64 bits


def next_token_loss(logits: Tensor, targets: Tensor, *, goldfish_k: int = 0) -> Tensor:
    """Mean cross-entropy in nats of `logits` [batch, time, vocab] at `targets` [batch, time].

    With `goldfish_k`, every k-th target on average is left out, the same ones wherever the same words stand
    before them: what is never learnt cannot be recited (arXiv:2406.10209).
    """
    targets = leave_out(targets, goldfish_k)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=LEFT_OUT)


def next_token_loss_in_chunks(values: Tensor, table: Tensor, targets: Tensor, *, goldfish_k: int = 0) -> Tensor:
    """`next_token_loss` of the logits `values` [batch, time, width] × `table` [vocab, width], which are never whole.

    A few rows of logits at a time stay in a CPU's cache: a sixth of a step's time less (docs/log.md). On a GPU a
    compiler does better.
    """
    targets = leave_out(targets, goldfish_k).flatten()
    loss: Tensor = _ChunkedLoss.apply(values.flatten(0, 1), table, targets)  # type: ignore[no-untyped-call]
    return loss


def leave_out(targets: Tensor, goldfish_k: int) -> Tensor:
    """The targets, with those that the Goldfish loss leaves out marked."""
    return targets.masked_fill(goldfish_left_out(targets, goldfish_k), LEFT_OUT) if goldfish_k else targets


def goldfish_left_out(targets: Tensor, k: int) -> Tensor:
    """True, [batch, time], where a target is left out: a hash of the tokens before it is a multiple of `k`.

    The first targets of a window, with fewer than `GOLDFISH_SPAN` tokens before them in it, all count.
    """
    hashed = torch.zeros_like(targets)
    for back in range(GOLDFISH_SPAN, 0, -1):
        hashed = (hashed + torch.roll(targets, back, dims=-1) + 1) * _MULTIPLIER  # wraps around at 64 bits
    chosen = (hashed >> 33) % k == 0  # the upper bits are the well mixed ones
    chosen[..., :GOLDFISH_SPAN] = False
    return chosen


class _ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy whose gradient is made together with its value."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        counted = targets != LEFT_OUT
        share = 1.0 / max(1, int(counted.sum()))
        by_values, by_table, total = torch.empty_like(values), torch.zeros_like(table), values.new_zeros(())
        for begin in range(0, len(values), CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            wanted = targets[rows].clamp_min(0)[:, None]
            logits = values[rows] @ table.T
            logits -= logits.amax(-1, keepdim=True)
            right = logits.gather(1, wanted)
            sums = logits.exp_().sum(-1, keepdim=True)
            weight = counted[rows, None] * share
            total += ((sums.log() - right) * weight).sum()
            logits *= weight / sums  # from here on, the gradient by the logits
            logits.scatter_add_(1, wanted, -weight)
            torch.mm(logits, table, out=by_values[rows])
            by_table.addmm_(logits.T, values[rows])
        ctx.save_for_backward(by_values, by_table)
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:
        by_values, by_table = ctx.saved_tensors
        return by_values * outer, by_table * outer, None
