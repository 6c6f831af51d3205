"""The text that nobody trained on, as tokens: what bits per byte are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from allod.core.errors import Invalid
from allod.model.network.llama import Network
from allod.train.corpus.shards import Shards
from allod.train.evaluation.bits import bits_per_byte
from allod.train.evaluation.likelihoods import device_of


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """`tokens`, int64 [n], of whole documents, which as text are `num_bytes` long."""

    tokens: Tensor
    num_bytes: int
    num_documents: int

    def bits_per_byte(self, network: Network) -> float:
        """How well `network` predicts it, in windows of its whole context."""
        tokens = self.tokens.to(device_of(network))
        return bits_per_byte(network, tokens, self.num_bytes, context=network.shape.context)


def read_held_out_text(pack: Path, *, max_tokens: int) -> HeldOutText:
    """The first held-out documents, as many as fit into `max_tokens`, and one at least.

    Raises Invalid (`nothing_held_out`) where the recipe held out no document.
    """
    shards = Shards(pack, "validation")
    num_tokens = num_bytes = num_documents = 0
    for document in shards.documents():
        if num_documents and num_tokens + document.num_tokens > max_tokens:
            break
        num_tokens += document.num_tokens
        num_bytes += document.num_bytes
        num_documents += 1
    if not num_bytes:
        raise Invalid(
            "no document is held out, so nothing can be measured",
            code="nothing_held_out",
            hint="name documents of a source in its `held_out`; they are not trained on",
        )
    return HeldOutText(torch.from_numpy(shards.window(0, num_tokens)), num_bytes, num_documents)
