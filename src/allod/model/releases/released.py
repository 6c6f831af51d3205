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
from collections.abc import Iterable
from pathlib import Path

from allod.core.digests import digest_of_bytes
from allod.core.errors import Invalid
from allod.core.files.whole import sync
from allod.core.stages import EXPORT_FILE
from allod.model.gguf.header import GgufHeader
from allod.model.network.tokenizer_files import CHAT_TEMPLATE
from allod.model.releases.records import read_json

MODEL_SET = "model"
MODEL_FILES = frozenset(
    {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
)


def is_of_model_set(name: str) -> bool:
    """Whether an output of the export is one of those that other engines read together: all but GGUF and its report."""
    return not name.endswith(".gguf") and name != EXPORT_FILE


def check_model_set(folder: Path, names: Iterable[str]) -> None:
    """Raise Invalid (`bad_model_set`) unless these are weights and settings alone, for the process that made them read
    the corpus: no code, no pickle, nothing that has code fetched or run, no chat template but Allod's own."""
    for name in names:
        if name not in MODEL_FILES:
            raise Invalid(f"{name!r} is no part of a model's safetensors set", code="bad_model_set")
        if name.endswith(".json"):
            settings = read_json(folder / name)
            if not isinstance(settings, dict) or "auto_map" in settings:
                raise Invalid(f"{name} is no object, or names code to run", code="bad_model_set")
            if settings.get("chat_template", CHAT_TEMPLATE) != CHAT_TEMPLATE:
                raise Invalid(f"{name} has a chat template that is not Allod's", code="bad_model_set")


def check_template(header: GgufHeader) -> None:
    """Raise Invalid (`bad_template`) for a chat template that is not the one that Allod writes: it is a program."""
    if header.has_template and header.template_digest != digest_of_bytes(CHAT_TEMPLATE.encode()):
        raise Invalid("the chat template is not the one that Allod writes", code="bad_template")


def copy_in(source: Path, target: Path) -> None:
    """Copy a plain file into a release. Raises Invalid (`bad_folder`) for a link, or where there is none."""
    if source.is_symlink() or not source.is_file():
        raise Invalid(f"{source.parent.name}/{source.name} is no plain file", code="bad_folder")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(source, target, follow_symlinks=False)


def write_in(target: Path, data: bytes) -> str:
    """Write a file of a release; its digest."""
    target.write_bytes(data)
    return digest_of_bytes(data)


def install_release(staged: Path, target: Path) -> None:
    """Move a finished release to where it stays: everything in it durable and read-only first, then one rename.

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
