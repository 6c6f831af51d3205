"""How well a network predicts text, in a unit that tokenizers cannot flatter: bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 16  # windows looked at together


def bits_per_byte(network: Callable[[Tensor], Tensor], tokens: Tensor, num_bytes: float, *, context: int) -> float:
    """Bits that `network` needs for each of the `num_bytes` of the text that `tokens` [n] spell.

    Every token but the first is predicted once, from the window of `context` tokens that it falls into. The sum is
    taken in float64.
    """
    nats = 0.0
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, context * ROWS):
            piece = tokens[begin : begin + context * ROWS + 1].long()
            whole = (len(piece) - 1) // context * context
            if whole:
                nats += _nats(network, piece[:whole].view(-1, context), piece[1 : whole + 1].view(-1, context))
            if whole < len(piece) - 1:
                nats += _nats(network, piece[None, whole:-1], piece[None, whole + 1 :])
    return nats / math.log(2) / num_bytes


def _nats(network: Callable[[Tensor], Tensor], tokens: Tensor, targets: Tensor) -> float:
    logits = network(tokens).float().flatten(0, 1)
    return float(functional.cross_entropy(logits, targets.flatten(), reduction="none").double().sum())
