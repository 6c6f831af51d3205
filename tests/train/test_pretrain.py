"""Pretraining as a stage: what it leaves, that it learns, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")


from tests.train.pretraining import TINY, new_work, write_corpus

from allod.core.errors import Invalid
from allod.model.network.llama import Network
from allod.model.network.weights import load_model
from allod.train.stages import pretrain


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "pack")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pack: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "facts.json").write_text(json.dumps(pretrain.run(new_work(folder / "pretrain", pack))))
    return folder


def test_it_leaves_what_the_next_stages_read(trained: Path) -> None:
    """Weights, configuration, the curve as data and as a picture, and no checkpoint."""
    names = sorted(path.name for path in (trained / "pretrain").iterdir())
    assert names == ["config.json", "curve.png", "losses.jsonl", "weights.safetensors"]
    assert load_model(trained / "pretrain").shape.vocab == 128


def test_it_learns(trained: Path) -> None:
    """The loss falls from that of a guess to well below it, and held-out text is predicted better than by chance."""
    losses = [json.loads(line) for line in (trained / "pretrain" / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses] == list(range(1, TINY.steps + 1))
    assert float(losses[0]["loss"]) == pytest.approx(math.log(128), abs=0.3)
    assert float(losses[-1]["loss"]) < 2.5
    assert json.loads((trained / "facts.json").read_text())["bits_per_byte"] < math.log2(128) / 3 * 0.6


def test_facts_say_what_was_done(trained: Path) -> None:
    """Tokens are the product of steps, rows and context, and operations those of the shape's own count."""
    facts = json.loads((trained / "facts.json").read_text())
    shape = load_model(trained / "pretrain").shape
    assert facts["tokens"] % (TINY.steps * shape.context) == 0
    assert facts["flops"] == facts["tokens"] * shape.flops_per_token
    assert facts["parameters"] == shape.num_parameters
    assert facts["mfu_milli"] > 0
    assert facts["dtype"] == "float32"


def test_the_same_recipe_gives_the_same_bytes(trained: Path, pack: Path, tmp_path: Path) -> None:
    """Again, in another directory: every file is the same."""
    pretrain.run(new_work(tmp_path / "elsewhere", pack))
    for path in (trained / "pretrain").iterdir():
        assert (tmp_path / "elsewhere" / path.name).read_bytes() == path.read_bytes()


def test_another_seed_gives_other_weights(trained: Path, pack: Path, tmp_path: Path) -> None:
    """The seed is part of the recipe that counts."""
    pretrain.run(new_work(tmp_path, pack, seed=4))
    name = "weights.safetensors"
    assert (tmp_path / name).read_bytes() != (trained / "pretrain" / name).read_bytes()


def test_a_loss_that_is_no_number_ends_the_run(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is named, nothing is written as done, and what was saved before stays."""
    initialise = Network.initialise

    def broken(network: Network, seed: int) -> None:
        initialise(network, seed)
        network.model.norm.weight.data[0] = math.nan

    monkeypatch.setattr(Network, "initialise", broken)
    with pytest.raises(Invalid, match="step 1 ") as refused:
        pretrain.run(new_work(tmp_path, pack))
    assert refused.value.code == "loss_not_finite"
    assert refused.value.hint
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_corpus_of_a_few_tokens_is_refused(tmp_path: Path) -> None:
    """There must be more than one window to learn from."""
    with pytest.raises(Invalid) as refused:
        pretrain.run(new_work(tmp_path, write_corpus(tmp_path / "pack", num_tokens=100)))
    assert refused.value.code == "corpus_too_small"
