"""How likely a network finds given continuations: what questions and canaries are scored by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_TOKENS = 8_192  # positions at once, padding included


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens whose probability after `prompt` is asked. Neither may be empty."""

    prompt: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """`nats` is the log-probability of all tokens. `num_greedy` of `num_tokens` are the network's first choice.

    If all are, greedy decoding after the prompt gives exactly these tokens.
    """

    nats: float
    num_greedy: int
    num_tokens: int


def likelihoods(network: nn.Module, asked: Sequence[Continuation], *, context: int) -> list[Likelihood]:
    """One for each continuation, in order. What is too long for `context` loses its beginning.

    Continuations of like length are worked out together, padded at the end, which a causal network does not see.
    """
    found: dict[int, Likelihood] = {}
    order = sorted(range(len(asked)), key=lambda index: len(asked[index].prompt) + len(asked[index].tokens))
    rows: list[int] = []
    for index in reversed(order):  # longest first, so that a batch's width is that of its first row
        rows.append(index)
        width = min(context, len(asked[rows[0]].prompt) + len(asked[rows[0]].tokens))
        if (len(rows) + 1) * width > BATCH_TOKENS:
            found.update(zip(rows, _batch(network, [asked[row] for row in rows], context), strict=True))
            rows = []
    if rows:
        found.update(zip(rows, _batch(network, [asked[row] for row in rows], context), strict=True))
    return [found[index] for index in range(len(asked))]


def device_of(network: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(network.parameters()).device


def _batch(network: nn.Module, asked: Sequence[Continuation], context: int) -> list[Likelihood]:
    rows = [[*question.prompt, *question.tokens][-(context + 1) :] for question in asked]
    inputs = torch.zeros(len(rows), max(map(len, rows)) - 1, dtype=torch.int64)
    for index, row in enumerate(rows):
        inputs[index, : len(row) - 1] = torch.tensor(row[:-1])
    with torch.inference_mode():
        logits: Tensor = network(inputs.to(device_of(network)))
        return [
            _likelihood(logits[index, : len(row) - 1], one.tokens)
            for index, (row, one) in enumerate(zip(rows, asked, strict=True))
        ]


def _likelihood(logits: Tensor, tokens: Sequence[int]) -> Likelihood:
    """The last rows of `logits` [time, vocab] predict `tokens`; those that do not fit in lose their beginning."""
    kept = tokens[-len(logits) :]
    targets = torch.tensor(kept, device=logits.device)
    logits = logits[-len(kept) :].float()
    nats = -float(functional.cross_entropy(logits, targets, reduction="sum"))
    return Likelihood(nats, int((logits.argmax(-1) == targets).sum()), len(kept))
