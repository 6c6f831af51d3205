"""What a model recalls word for word of canaries, beside controls that were planted nowhere.

*Recalled* means that greedy decoding after the prefix says the whole secret. *Exposure* is log2 of how many secrets
there are over the rank of the right one among them, likeliest first: what the model tells a guesser, in bits. Chance
is about 1.4, the most is log2 of how many are compared. Source: Carlini et al., The Secret Sharer (arXiv:1802.08232).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from allod.model.network.llama import Network
from allod.model.network.tokenizer import Tokenizer
from allod.train.corpus.canaries import Canary
from allod.train.evaluation.likelihoods import Continuation, Likelihood, likelihoods

MAX_COMPARED = 64  # secrets of controls that each secret is ranked among


@dataclass(frozen=True, slots=True)
class Recall:
    """Of all canaries that were planted `repeats` times; 0 are the controls."""

    repeats: int
    num_canaries: int
    num_recalled: int
    num_tokens: int
    num_tokens_right: int  # that are the model's first choice after the right ones before them
    exposure_bits: float  # mean

    @property
    def share(self) -> float:
        return self.num_recalled / self.num_canaries


def measure_recall(
    network: Network, tokenizer: Tokenizer, *, planted: Sequence[Canary], controls: Sequence[Canary]
) -> list[Recall]:
    """One `Recall` for each number of repeats, the controls first. Empty where there is no canary."""
    groups: dict[int, list[Canary]] = {}
    for canary in (*controls, *planted):
        groups.setdefault(len(canary.documents), []).append(canary)
    others = [control.secret for control in controls[:MAX_COMPARED]]
    asker = _Asker(network, tokenizer, others)
    return [asker.recall(repeats, groups[repeats]) for repeats in sorted(groups)]


class _Asker:
    """Asks one network for secrets."""

    def __init__(self, network: Network, tokenizer: Tokenizer, others: Sequence[str]) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._others = others

    def recall(self, repeats: int, canaries: Sequence[Canary]) -> Recall:
        said = self._likelihoods([(canary.prefix, canary.secret) for canary in canaries])
        return Recall(
            repeats,
            len(canaries),
            sum(part.num_greedy == part.num_tokens for part in said),
            sum(part.num_tokens for part in said),
            sum(part.num_greedy for part in said),
            sum(map(self._exposure, canaries, said)) / len(canaries),
        )

    def _exposure(self, canary: Canary, own: Likelihood) -> float:
        others = [secret for secret in self._others if secret != canary.secret]
        likelier = sum(
            likelihood.nats > own.nats for likelihood in self._likelihoods([(canary.prefix, other) for other in others])
        )
        return math.log2((len(others) + 1) / (likelier + 1))

    def _likelihoods(self, asked: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Of secrets after prefixes at the beginning of a document, where canaries stand."""
        start = self._tokenizer.end_of_text
        return likelihoods(
            self._network,
            [
                Continuation([start, *self._tokenizer.encode(prefix)], self._tokenizer.encode(secret))
                for prefix, secret in asked
            ],
            context=self._network.shape.context,
        )
