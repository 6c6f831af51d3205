"""A tiny corpus and recipe, for everything that pretrains in the tests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from tests.train.tiny import source, tiny

from allod.train.corpus.shards import SPLITS, Pack, ShardWriter, write_pack
from allod.train.recipe import Pretrain, Recipe
from allod.train.stage_task import StageTask

VOCAB = 128
TINY = tiny(Recipe("tiny", (source("words"),), size="1m", minutes=0, steps=24, seed=3, pretrain=Pretrain(context=64)))


def write_corpus(folder: Path, *, num_tokens: int = 20_000) -> Path:
    """A packed corpus of a language with 24 words of three tokens each: there is something to learn in it."""
    folder.mkdir(parents=True)
    chance = random.Random(1)
    words = [[chance.randrange(1, VOCAB) for _ in range(3)] for _ in range(24)]
    for split, count in zip(SPLITS, (num_tokens, 2_000), strict=True):
        tokens = [token for _ in range(count // 3 + 1) for token in chance.choice(words)][:count]
        writer = ShardWriter(folder, split, dtype="uint16", tokens_per_shard=8_192)
        writer.append(np.array(tokens, dtype=np.int64))
        writer.close()
    write_pack(folder, Pack("uint16", VOCAB, 0, 8_192, 1, num_tokens, num_tokens * 3, 1, 2_000, 6_000))
    (folder / "documents.jsonl").write_bytes(b"")
    (folder / "files.json").write_bytes(b"[]")
    return folder


def new_work(folder: Path, pack: Path, *, recipe: Recipe = TINY, **changes: Any) -> StageTask:
    """Pretraining of `recipe` with `changes` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return StageTask(tiny(recipe, **changes), {"pack": pack}, folder, lambda *_: None, lambda: False)
