"""A small run on this project's own pages: its recipe, its documents, and how a test starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY, run_allod

STAGES = ["source", "clean", "dedupe", "tokenizer", "pack", "pretrain", "tune", "evaluate", "export"]
RECIPE = """
name = "pages"
size = "1m"
steps = 12
minutes = 0
seed = 3

[[source]]
name = "docs"
kind = "text"
path = "docs"
licence = "Apache-2.0"
jurisdiction = "GB"
origin = "the pages of this project"
date = "2026-11"
held_out = ["concepts.md"]

[[source]]
name = "spec"
kind = "text"
path = "spec"
licence = "Apache-2.0"
jurisdiction = "GB"
origin = "the specifications of this project"
date = "2026-11"

[tokenizer]
vocab = 512

[pretrain]
context = 64
checkpoint_every_s = 1

[tune]
steps = 3
"""


def lay_out(folder: Path) -> Path:
    """A recipe and its documents in `folder`."""
    folder.mkdir(parents=True)
    for name in ("docs", "spec"):
        (folder / name).mkdir()
        for page in (REPOSITORY / name).glob("*.md"):
            shutil.copy(page, folder / name)
    (folder / "pages.toml").write_text(RECIPE)
    return folder / "pages.toml"


def train(home: Path, recipe: Path, *words: str) -> dict[str, Any]:
    done = run_allod(home, "train", str(recipe), "--json", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    trained: dict[str, Any] = json.loads(done.stdout)
    return trained


def derivations(trained: dict[str, Any]) -> dict[str, str]:
    return {row["stage"]: row["derivation"] for row in trained["stages"]}
