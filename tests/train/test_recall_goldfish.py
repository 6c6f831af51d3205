"""Goldfish loss as the countermeasure to reciting: the same canaries, the same steps, with and without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch
from tests.train.packing import packed_run
from tests.train.tiny import source, tiny
from tests.train.tuning import RECIPE, novel

from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import load_model
from allod.train.corpus.canaries import read_canaries
from allod.train.evaluation.recall import Recall, measure_recall
from allod.train.recipe import Canaries, Pretrain, Recipe, TokenizerOptions
from allod.train.stage_task import StageTask
from allod.train.stages import pretrain

STEPS = 100
PLANTED = tiny(
    RECIPE,
    sources=(source("novels", held_out=("unread",)),),
    size="0.3m",
    steps=STEPS,
    tokenizer=TokenizerOptions(vocab=400),
    pretrain=Pretrain(context=256, checkpoint_every_s=86_400),
    canaries=Canaries(count=12, repeats=(1, 40)),
)
TEXTS = {("novels", name): novel(seed) for seed, name in enumerate(("first", "second", "unread"))}


def recall_of(run: Path, recipe: Recipe, name: str) -> dict[int, Recall]:
    """Pretrain as `recipe` says, and ask for the canaries: by number of repeats, 0 for the controls."""
    (run / name).mkdir()
    inputs = {"pack": run / "pack", "tokenizer": run / "tokenizer"}
    facts = pretrain.run(StageTask(recipe, inputs, run / name, lambda *_: None, lambda: False))
    planted, controls = read_canaries(run / "pack")
    network = load_model(run / name).eval()
    found = measure_recall(network, Tokenizer.load(run / "tokenizer"), planted=planted, controls=controls)
    for recall in found:
        print(name, recall, "bits per byte", facts["bits_per_byte"])
    return {recall.repeats: recall for recall in found}


@pytest.mark.slow
@pytest.mark.long
def test_goldfish_loss_keeps_what_is_repeated_from_being_recited(tmp_path: Path) -> None:
    """What was planted often is recited by a model that learnt every token, and by the other no more than a control.

    Exposure is not brought down: the other model, too, finds the right secret likelier than any other. What goldfish
    loss prevents is reciting, not that something was learnt.
    """
    torch.set_num_threads(1)
    run = packed_run(tmp_path / "run", PLANTED, TEXTS)
    (run / "pack" / "files.json").write_bytes(b"[]")
    learnt_all = recall_of(run, PLANTED, "all")
    goldfish = recall_of(run, tiny(PLANTED, "0.3m", pretrain=replace(PLANTED.pretrain, goldfish_k=3)), "goldfish")
    assert learnt_all[40].share >= 0.8
    assert learnt_all[0].share == goldfish[0].share == 0
    assert goldfish[40].share <= 0.2
