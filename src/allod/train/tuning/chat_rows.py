"""Examples as rows of tokens: several exchanges to a row, with a mark on what the model is to learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allod.core.errors import Invalid
from allod.model.network.tokenizer import Tokenizer
from allod.train.learning.losses import LEFT_OUT
from allod.train.tuning.examples import Example


@dataclass(frozen=True, slots=True)
class ChatRows:
    """`tokens` and `targets`, int64 [rows, context]: what the network sees, and what it is to say next.

    A target is `LEFT_OUT` unless it belongs to an assistant's answer or is the end of one. `num_learnt` counts the
    targets that are learnt, `num_examples` the exchanges that fit into a row, `num_too_long` those that did not.
    """

    tokens: Tensor
    targets: Tensor
    num_learnt: int
    num_examples: int
    num_too_long: int


def chat_rows(examples: Sequence[Example], tokenizer: Tokenizer, *, context: int) -> ChatRows:
    """Fill rows in the order of `examples`; where the next exchange does not fit in, a row ends in ends of text.

    Raises Invalid where not one exchange fits.
    """
    rows: list[list[int]] = []
    marks: list[list[bool]] = []
    num_examples = 0
    for tokens, learnt in _encode(examples, tokenizer):
        if len(tokens) > context + 1:
            continue
        if not rows or len(rows[-1]) + len(tokens) > context + 1:
            rows.append([])
            marks.append([])
        rows[-1] += tokens
        marks[-1] += learnt
        num_examples += 1
    if not rows:
        raise Invalid(
            f"no example fits into a context of {context} tokens", code="no_examples", hint="raise pretrain.context"
        )
    wanted = torch.tensor([row + [tokenizer.end_of_text] * (context + 1 - len(row)) for row in rows])
    is_learnt = torch.tensor([row + [False] * (context + 1 - len(row)) for row in marks])[:, 1:]
    targets = torch.where(is_learnt, wanted[:, 1:], LEFT_OUT)
    return ChatRows(
        wanted[:, :-1], targets, int(is_learnt.sum()), num_examples, num_too_long=len(examples) - num_examples
    )


def _encode(examples: Sequence[Example], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool]]]:
    """Each exchange's tokens, and which of them are the assistant's: after its header, up to the end of its turn."""
    for example in examples:
        tokens = tokenizer.encode_chat(example.messages, add_generation_prompt=False)
        asked = tokenizer.encode_chat(example.messages[:1], add_generation_prompt=True)
        end = len(tokens) - tokens[::-1].index(tokenizer.im_end)
        yield tokens, [len(asked) <= index < end for index in range(len(tokens))]
