"""What is minimised: the mean surprise at the next token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GOLDFISH_SPAN = 13
"""Tokens that decide whether the next one is left out: h in Hans et al. (arXiv:2406.10209), section 3.1."""
LEFT_OUT = -100
_MULTIPLIER = 6364136223846793005  # Knuth's, for a linear congruential step over 64 bits


def next_token_loss(logits: Tensor, targets: Tensor, *, goldfish_k: int = 0) -> Tensor:
    """Mean cross-entropy in nats of `logits` [batch, time, vocab] at `targets` [batch, time].

    With `goldfish_k`, every k-th target on average is left out, the same ones wherever the same words stand
    before them: what is never learned cannot be recited (arXiv:2406.10209).
    """
    if goldfish_k:
        targets = targets.masked_fill(goldfish_left_out(targets, goldfish_k), LEFT_OUT)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=LEFT_OUT)


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
