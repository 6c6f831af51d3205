"""A base model so small that an adapter over it is learnt in a second, and documents to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allod.model.gguf.writer import write_model
from allod.model.network.llama import Network, Shape
from allod.model.network.tokenizer_files import write_tokenizer
from allod.train.corpus.documents import DocumentWriter, new_document
from allod.train.recipe import Adapt, Recipe, Source
from allod.train.stage_task import StageTask

SHAPE = Shape(vocab=259, width=64, layers=2, heads=4, kv_heads=2, hidden=128, context=128)
TEXTS = {
    f"{topic}/page-{number}": f"To insert a {topic}, choose Insert, then {topic}; press Enter {number} times.\n" * 6
    for topic in ("row", "column", "chart")
    for number in range(8)
}
RECIPE = Recipe(
    name="tiny",
    sources=(
        Source("help", "text", "MIT", "GB", "written for tests", "2026", path="help", held_out=("chart/page-3",)),
    ),
    seed=7,
    adapt=Adapt(base="tiny-base", rank=4, steps=12, context=32, batch=2, rate_micro=20_000),
)


def write_base(folder: Path) -> Path:
    """`folder`/weights.gguf: a Llama of random weights that reads bytes."""
    folder.mkdir(parents=True)
    write_tokenizer(folder, [bytes([byte]) for byte in range(256)], [])
    torch.manual_seed(3)
    state = Network(SHAPE).state_dict()
    tensors: dict[str, Callable[[], Any]] = {
        name: partial(tensor.numpy().astype, np.float32) for name, tensor in state.items()
    }
    write_model(folder / "weights.gguf", SHAPE, tensors, folder, kind="f16", keys={})
    return folder


def write_texts(folder: Path, texts: dict[str, str] = TEXTS) -> Path:
    """A finished `dedupe`."""
    folder.mkdir(parents=True)
    with DocumentWriter(folder) as writer:
        for name, text in texts.items():
            writer.write(new_document("help", name, text))
    return folder


def new_work(output: Path, inputs: dict[str, Path], **changes: Any) -> StageTask:
    """Work with these options of adapting changed; nobody listens, and nobody wants it to stop."""
    output.mkdir(parents=True)
    recipe = replace(RECIPE, adapt=replace(RECIPE.adapt, **changes))
    return StageTask(recipe, inputs, output, lambda what, done, total: None, lambda: False)
