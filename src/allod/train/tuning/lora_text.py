"""The documents that an adapter learns from, in the base model's tokens: one run of them to learn, one to measure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.train.corpus.documents import Document
from allod.train.learning.losses import next_token_loss

AT_ONCE = 64  # documents that are encoded together

MAX_SAMPLE_TOKENS = 2048  # of held-out text that are looked at

Encode = Callable[[list[str]], list[list[int]]]
Logits = Callable[[Tensor], Tensor]


@dataclass
class Split:
    """Documents one after another. `num_bytes` is of their text as UTF-8."""

    name: str
    tokens: array[int] = field(default_factory=lambda: array("q"))
    lines: list[bytes] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, document: Document, tokens: list[int]) -> None:
        """Append a document that is these tokens."""
        num_bytes = len(document.text.encode())
        line: dict[str, JsonValue] = {
            "first_token": len(self.tokens),
            "id": document.id,
            "num_bytes": num_bytes,
            "num_tokens": len(tokens),
            "sha256": document.sha256,
            "split": self.name,
        }
        self.lines.append(canonical_json(line))
        self.tokens.extend(tokens)
        self.num_bytes += num_bytes

    def windows(self, context: int) -> Tensor:
        """int64 [windows, context + 1]: each begins with the last token of the one before, what is left over is out.

        Raises Invalid (`corpus_too_small`) where there is not one.
        """
        if len(self.tokens) <= context:
            raise Invalid(
                f"the {self.name} documents have {len(self.tokens)} tokens; a window has {context + 1}",
                code="corpus_too_small",
                hint="add documents, or hold out others",
            )
        return torch.frombuffer(self.tokens, dtype=torch.int64).unfold(0, context + 1, context)


@dataclass
class Texts:
    """What is learnt, and what never is."""

    train: Split = field(default_factory=lambda: Split("train"))
    validation: Split = field(default_factory=lambda: Split("validation"))

    def add_all(self, documents: Iterable[Document], encode: Encode, is_held_out: Callable[[Document], bool]) -> None:
        """Encode the documents, each to its side."""
        waiting: list[Document] = []
        for document in documents:
            waiting.append(document)
            if len(waiting) == AT_ONCE:
                self._add(waiting, encode, is_held_out)
                waiting = []
        self._add(waiting, encode, is_held_out)

    def _add(self, documents: list[Document], encode: Encode, is_held_out: Callable[[Document], bool]) -> None:
        for document, tokens in zip(documents, encode([each.text for each in documents]), strict=True):
            (self.validation if is_held_out(document) else self.train).add(document, tokens)

    def write(self, path: Path) -> None:
        """A line for every document, those that were learnt from first, in the order of their tokens."""
        path.write_bytes(b"".join(line + b"\n" for line in (*self.train.lines, *self.validation.lines)))


class HeldOutSample:
    """Windows of what is never learnt from, evenly spread over it. Raises Invalid (`corpus_too_small`)."""

    def __init__(self, split: Split, context: int) -> None:
        windows = split.windows(context)
        count = min(len(windows), max(1, MAX_SAMPLE_TOKENS // context))
        self.windows = windows[[number * len(windows) // count for number in range(count)]]
        self.num_tokens = count * context
        self._bytes_per_token = split.num_bytes / len(split.tokens)

    def loss(self, logits: Logits, report: Callable[[int], None]) -> float:
        """Mean surprise in nats a token. `report` is told how many windows are done."""
        total = 0.0
        with torch.no_grad():
            for number, window in enumerate(self.windows):
                report(number)
                total += float(next_token_loss(logits(window[None, :-1]), window[None, 1:]))
        return total / len(self.windows)

    def bits_per_byte(self, loss: float) -> float:
        """`loss` in a unit that does not depend on the tokenizer, at the bytes that a token of these documents has."""
        return loss / math.log(2) / self._bytes_per_token
