"""A released model in the store: one folder by the digest of what is served, put there whole or not at all.

weights.gguf, or adapter.gguf   what is served
model/                          what other engines read: safetensors, configuration, tokenizer (models)
passport.json, bom.cdx.json, summary.json, summary.md
lineage/<stage>/                each stage's manifest and list of files, and its records
model.sig                       the signature over all of it
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from allod.core.canonical import sha256_hex
from allod.core.errors import Invalid
from allod.core.whole_files import sync

WEIGHTS_FILES = {"model": "weights.gguf", "adapter": "adapter.gguf"}
MODEL_SET = "model"
LINEAGE = "lineage"
RECORDS: Mapping[str, tuple[str, ...]] = {
    "source": ("sources.json", "index.jsonl"),
    "clean": ("report.json",),
    "dedupe": ("report.json",),
    "pack": ("documents.jsonl", "pack.json"),
    "pretrain": ("losses.jsonl",),
    "tune": ("losses.jsonl", "examples.json"),
    "adapt": ("documents.jsonl", "evaluation.json", "losses.jsonl"),
    "evaluate": ("evaluation.json",),
    "export": ("export.json",),
    "export_adapter": ("export.json",),
}


def is_of_model_set(name: str) -> bool:
    """Whether an output of the export is one of those that other engines read together: all but GGUF and its report."""
    return not name.endswith(".gguf") and name not in RECORDS["export"]


def copy_in(source: Path, target: Path) -> None:
    """Copy a plain file into a release. Raises Invalid (`bad_folder`) for a link, or where there is none."""
    if source.is_symlink() or not source.is_file():
        raise Invalid(f"{source.parent.name}/{source.name} is no plain file", code="bad_folder")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(source, target, follow_symlinks=False)


def write_in(target: Path, data: bytes) -> str:
    """Write a file of a release; its digest."""
    target.write_bytes(data)
    return f"sha256:{sha256_hex(data)}"


def place(staged: Path, target: Path) -> None:
    """Move a finished release to its place: everything in it durable and read-only first, then one rename.

    Where a release is there already it stays, and `staged` too. Raises OSError.
    """
    for folder, _, files in os.walk(staged, topdown=False):
        for name in files:
            path = Path(folder, name)
            path.chmod(0o400)
            sync(path)
        sync(Path(folder))
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    sync(target.parent)
