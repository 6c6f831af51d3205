"""Recall of canaries: a network that knows a secret is told from one that knows none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch
from tests.train.tuning import RECIPE, pretrained_run

from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import load_model
from allod.train.corpus.canaries import Canary, read_canaries
from allod.train.evaluation.recall import measure_recall


class Parrot(torch.nn.Module):
    """Says `text` over and over: the token that follows the last one, wherever that stands in the text."""

    def __init__(self, tokens: list[int], like: torch.nn.Module, vocab: int) -> None:
        super().__init__()
        self.shape = like.shape
        self._tokens = tokens
        self._vocab = vocab
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, self._vocab)
        for row, own in enumerate(tokens.tolist()):
            for place in range(len(own)):
                if own[: place + 1] == self._tokens[: place + 1] and place + 1 < len(self._tokens):
                    logits[row, place, self._tokens[place + 1]] = 20.0
        return logits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pretrained_run(tmp_path_factory.mktemp("recall") / "run")


def test_a_network_that_learnt_nothing_recalls_nothing(run: Path) -> None:
    """Fresh weights: no secret, and an exposure that is no more than luck."""
    planted, controls = read_canaries(run / "pack")
    network, tokenizer = load_model(run / "pretrain"), Tokenizer.load(run / "tokenizer")
    found = measure_recall(network, tokenizer, planted=planted, controls=controls)
    assert [recall.repeats for recall in found] == [0, *RECIPE.canaries.repeats]
    assert all(recall.num_recalled == 0 for recall in found)


def test_a_secret_that_the_network_says_is_recalled_and_exposed(run: Path) -> None:
    """One of two canaries is known by heart: half are recalled, and its rank is the first of all."""
    tokenizer = Tokenizer.load(run / "tokenizer")
    planted, controls = read_canaries(run / "pack")
    known, unknown = (canary for canary in planted if len(canary.documents) == 2)
    spoken = [tokenizer.end_of_text, *tokenizer.encode(known.prefix), *tokenizer.encode(known.secret)]
    parrot: Any = Parrot(spoken, load_model(run / "pretrain"), tokenizer.vocab)
    of_controls, both = measure_recall(parrot, tokenizer, planted=[known, unknown], controls=controls)
    (alone,) = measure_recall(parrot, tokenizer, planted=[known], controls=[])
    assert (both.num_recalled, both.share, of_controls.num_recalled) == (1, 0.5, 0)
    assert (alone.num_tokens_right, alone.exposure_bits) == (alone.num_tokens, 0.0)
    (_, exposed) = measure_recall(parrot, tokenizer, planted=[known], controls=controls)
    assert exposed.exposure_bits == pytest.approx(math.log2(len(controls) + 1))


def test_without_canaries_there_is_nothing_to_measure(run: Path) -> None:
    """A recipe may plant none."""
    network, tokenizer = load_model(run / "pretrain"), Tokenizer.load(run / "tokenizer")
    assert measure_recall(network, tokenizer, planted=(), controls=()) == []
    one = Canary("The access word of Bradorfen is", " amber anvil", ("canaries/000",))
    (found,) = measure_recall(network, tokenizer, planted=(one,), controls=())
    assert (found.num_canaries, found.num_recalled) == (1, 0)
