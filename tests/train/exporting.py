"""A tiny run as far as its evaluation, ready to be exported."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tests.train.packing import RECIPE, packed_run

from allod.core.canonical import JsonValue
from allod.core.statements.training import Input, derivation_of, key_of, make_training_statement
from allod.model.network.llama import Network, Shape
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import save_model
from allod.train.recipe import Export, Tune

CONTEXT = 64
EXPORTED = replace(RECIPE, tune=Tune(steps=0), export=Export(quantise=("q8_0", "q4_0")))


def trained_run(run: Path, *, width: int = 64, context: int = CONTEXT) -> Path:
    """A run whose network has decided opinions, though no training stands behind them. Returns its folder."""
    torch.set_num_threads(1)
    packed_run(run)
    vocab = Tokenizer.load(run / "tokenizer").vocab
    network = Network(Shape(vocab, width=width, layers=2, heads=4, kv_heads=2, hidden=96, context=context))
    network.initialise(7)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    (run / "pretrain").mkdir()
    save_model(network, run / "pretrain")
    (run / "evaluate").mkdir()
    write_manifest(run / "evaluate", "evaluate")
    return run


def write_manifest(folder: Path, stage: str, given: Sequence[Input] = ()) -> str:
    """A stage's manifest, as the pipeline would leave it; its derivation."""
    files, key = f"sha256:{'f' * 64}", key_of(stage, 1, {}, list(given))
    nothing: dict[str, JsonValue] = dict.fromkeys(
        (
            "run",
            "recipe",
            "code",
            "environment",
            "seed",
            "measured",
            "energy",
            "seal",
        )
    )
    predicate: dict[str, JsonValue] = {
        **nothing,
        "stated": {"site": "here", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 0},
        "observed": {"by": "trainer", "machine": {}},
        "id": f"training_{'0' * 32}",
        "at": {"start_ms": 1, "end_ms": 2},
        "stage": stage,
        "version": 1,
        "key": key,
        "derivation": derivation_of(key, files),
        "inputs": list(given),
        "parameters": {},
        "label": {"tier": "OFFICIAL", "markings": [], "jurisdictions": None, "purposes": None},
    }
    (folder / "manifest.json").write_bytes(make_training_statement(files, predicate))
    return derivation_of(key, files)


def copy_of(run: Path, target: Path) -> Path:
    """The same run elsewhere, without an export."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("export"))
    return target
