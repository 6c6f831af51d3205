"""What must hold of an exported file: the engine reads the same text, and thinks of it what the network thought."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from allod.core.errors import Invalid
from allod.model.network.llama import Network
from allod.model.network.tokenizer import Tokenizer
from allod.train.corpus.shards import SPLITS, Shards, Split
from allod.train.exporting.engine import TrialEngine
from allod.train.exporting.round_trip import lines_of, strings

NUM_TOKENS = 2048  # that losses are measured on
NUM_LINES = 800  # of the corpus, that both tokenizers must read alike
_TOKENS_TO_READ = 1 << 17
PROMPT_TOKENS, SAID_TOKENS = 16, 16
_NUM_PROMPTS = 4
_MAX_APART = 0.1  # bits that f16 may differ from f32 at a token, on the mean: more is no rounding


@dataclass(frozen=True, slots=True)
class Sample:
    """Windows of the packed corpus that losses are measured on."""

    split: Split
    windows: tuple[tuple[int, ...], ...]

    @property
    def num_predicted(self) -> int:
        """Tokens that are predicted: all but the first of each window."""
        return sum(len(window) - 1 for window in self.windows)


def sample_of(pack: Path, *, context: int) -> Sample:
    """About NUM_TOKENS of the validation split, in windows of `context`, evenly spread; of `train` if none is held
    out. Raises Invalid (`corpus_too_small`) where not even two tokens are there."""
    splits = {split: Shards(pack, split) for split in SPLITS}
    split: Split = "validation" if splits["validation"].num_tokens > 1 else "train"
    shards = splits[split]
    length = min(context, shards.num_tokens)
    if length < 2:
        raise Invalid("there are no two tokens to measure on", code="corpus_too_small")
    count = max(1, min(NUM_TOKENS // length, shards.num_tokens // length))
    stride = (shards.num_tokens - length) // max(1, count - 1)
    return Sample(split, tuple(tuple(shards.window(index * stride, length).tolist()) for index in range(count)))


def texts_to_read(pack: Path, tokenizer: Tokenizer) -> list[str]:
    """Lines of the corpus and the strings made to tell tokenizers apart."""
    decoded = (_first_text(Shards(pack, split), tokenizer) for split in SPLITS)
    return list(
        dict.fromkeys(chain(chain.from_iterable(lines_of(text, NUM_LINES // 2) for text in decoded), strings()))
    )


def check_tokens(engine: TrialEngine, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Raise Invalid (`tokenizer_mismatch`) for the first text of which the engine makes other tokens."""
    for text, ours in zip(texts, tokenizer.encode_batch(texts), strict=True):
        theirs = engine.tokens(text)
        if theirs != ours:
            raise Invalid(
                f"of one text the engine makes the tokens {theirs[:40]}, the tokenizer {ours[:40]}",
                code="tokenizer_mismatch",
                hint="the engine would mangle text in silence; its tokenizer.ggml.pre must stand for the same split",
            )


def engine_surprises(engine: TrialEngine, sample: Sample) -> list[float]:
    """Bits of every predicted token of the sample, by the engine."""
    nats = chain.from_iterable(engine.surprises(window) for window in sample.windows)
    return [each / math.log(2) for each in nats]


def network_surprises(network: Network, sample: Sample) -> list[float]:
    """Bits of every predicted token of the sample, by the network in f32."""
    found: list[float] = []
    with torch.inference_mode():
        for window in sample.windows:
            tokens = torch.tensor(window)
            nats = functional.cross_entropy(network(tokens[None, :-1])[0], tokens[1:], reduction="none")
            found += (nats.double() / math.log(2)).tolist()
    return found


def check_surprises(engine: Sequence[float], network: Sequence[float]) -> None:
    """Raise Invalid (`weights_mismatch`) where an f16 file thinks of each token something other than the network.

    A network with its rows in a wrong order may be as good on the whole: so token is compared with token.
    """
    apart = statistics.fmean(abs(one - other) for one, other in zip(engine, network, strict=True))
    if not apart <= _MAX_APART:
        raise Invalid(
            f"of held-out tokens the engine thinks {apart:.4f} bits otherwise than the network, on the mean",
            code="weights_mismatch",
            hint="rounding to f16 does not explain that: the file holds another network",
        )


def num_same_answers(engine: TrialEngine, network: Network, sample: Sample, ends: Iterable[int]) -> tuple[int, int]:
    """How many prompts the engine and the network go on from with the same likeliest tokens, and of how many."""
    half = network.shape.context // 2
    prompts = [window[: min(half, PROMPT_TOKENS)] for window in sample.windows[:_NUM_PROMPTS]]
    count, stops = min(half, SAID_TOKENS), set(ends)
    same = [engine.greedy(prompt, count) == _greedy(network, prompt, count, stops) for prompt in prompts]
    return sum(same), len(prompts)


def _greedy(network: Network, prompt: Sequence[int], count: int, ends: set[int]) -> list[int]:
    said: list[int] = []
    with torch.inference_mode():
        while len(said) < count and not (said and said[-1] in ends):
            logits: Tensor = network(torch.tensor([[*prompt, *said]]))
            said.append(int(logits[0, -1].argmax()))
    return said


def _first_text(shards: Shards, tokenizer: Tokenizer) -> str:
    """The text of a split's first documents."""
    tokens = shards.window(0, min(shards.num_tokens, _TOKENS_TO_READ))
    return tokenizer.decode(tokens[tokens != tokenizer.end_of_text].tolist())
