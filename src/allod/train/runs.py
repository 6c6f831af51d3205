"""A run's folder: one folder a finished stage, each with `files.json` and `manifest.json`, and nothing half-done.

    <run>/clean/…                   a finished stage: its outputs, files.json, manifest.json
    <run>/.partial-pretrain-1a2b…/  a stage under way, or one that was interrupted; the name ends in its key
    <run>/pack.changed-1/           a finished stage that was found changed, set aside

A stage is finished when its folder has its name, which it gets by one rename after everything in it is durable.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from allod.core.canonical import JsonValue, canonical_json, sha256_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.training_statements import (
    TrainingStatement,
    check_training_statement,
    derivation_of,
    training_statement,
)
from allod.core.whole_files import sync

FILES, MANIFEST = "files.json", "manifest.json"
CHECKPOINTS = "checkpoints"
MAX_LIST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Finished:
    """A stage that is done: its folder, its manifest's bytes and what they say."""

    folder: Path
    manifest: bytes
    statement: TrainingStatement


class RunFolder:
    """The folder of one run. Only one process at a time may hold it: see `opened`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, name: str) -> Path:
        """Where a finished stage of this name is, or would be."""
        return self.path / name

    def find(self, stage: str, key: str) -> Finished | None:
        """The stage, if it was finished with this key; every file of it is read and compared with its manifest.

        None where it is not there, or was made of something else. Raises Invalid (`stage_changed`) where what is on
        disk is not what its manifest says: it is set aside, so that the next start makes it again.
        """
        self._adopt(stage, key)
        folder = self.stage(stage)
        if not folder.exists():
            return None
        try:
            manifest = _read(folder / MANIFEST)
            statement = check_training_statement(manifest)
            if statement.stage != stage:
                raise Invalid(f"its manifest is of the stage {statement.stage}")
            if statement.key != key:
                return None
            check_files(folder, statement.files)
        except (Invalid, OSError) as error:
            reason = error.message if isinstance(error, Invalid) else f"{error.filename}: {error.strerror}"
            aside = self._set_aside(folder)
            raise Invalid(
                f"the stage {stage} is not what its manifest says: {reason}",
                code="stage_changed",
                hint=f"it was set aside as {aside.name}; the next start makes it again",
            ) from error
        return Finished(folder, manifest, statement)

    def partial(self, stage: str, key: str, *, resumes: bool) -> Path:
        """The folder in which a stage is made. Empty, unless it `resumes` and was begun with the same key."""
        folder = self._partial_name(stage, key)
        for other in self.path.glob(f".partial-{stage}-*"):
            if other != folder or not resumes:
                shutil.rmtree(other)
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def finish(self, stage: str, predicate: Mapping[str, JsonValue]) -> Finished:
        """Make the partial folder of `stage` the finished one. `predicate` is the statement's but for `derivation`.

        Raises Invalid for a stage that left nothing, or left something else than files.
        """
        key = str(predicate["key"])
        folder = self._partial_name(stage, key)
        files = list_files(folder)
        (folder / FILES).write_bytes(files)
        digest = f"sha256:{sha256_hex(files)}"
        manifest = training_statement(digest, {**predicate, "derivation": derivation_of(key, digest)})
        (folder / MANIFEST).write_bytes(manifest)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                sync(path)
        sync(folder)
        self._replace(stage, folder)
        return Finished(self.stage(stage), manifest, check_training_statement(manifest))

    def _adopt(self, stage: str, key: str) -> None:
        """Take over a stage that was killed between its manifest and its rename."""
        folder = self._partial_name(stage, key)
        if (folder / MANIFEST).is_file():
            try:
                check_files(folder, check_training_statement(_read(folder / MANIFEST)).files)
            except (Invalid, OSError):  # torn: it is made again
                shutil.rmtree(folder)
            else:
                self._replace(stage, folder)

    def _replace(self, stage: str, folder: Path) -> None:
        old = self.path / f".old-{stage}"
        shutil.rmtree(old, ignore_errors=True)
        if self.stage(stage).exists():
            self.stage(stage).rename(old)
        folder.rename(self.stage(stage))
        sync(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def _set_aside(self, folder: Path) -> Path:
        number = 1
        while (aside := self.path / f"{folder.name}.changed-{number}").exists():
            number += 1
        folder.rename(aside)
        return aside

    def _partial_name(self, stage: str, key: str) -> Path:
        return self.path / f".partial-{stage}-{key.removeprefix('sha256:')[:16]}"


@contextmanager
def opened(path: Path) -> Iterator[RunFolder]:
    """The run's folder, made if need be and held for this process alone. Raises Unavailable (`run_in_use`)."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(
                f"another process is training in {path}",
                code="run_in_use",
                hint="wait for it, or give this run a folder of its own with --dir",
            ) from error
        yield RunFolder(path)
    finally:
        os.close(handle)


def list_files(folder: Path) -> bytes:
    """The list of a stage's outputs, as canonical JSON: name, SHA-256 and length of each, sorted by name.

    Raises Invalid (`stage_empty`) where there is none, and for links and other things that are not plain files.
    """
    rows: list[JsonValue] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not _is_output(name) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file():
            raise Invalid(f"{name} is no plain file", code="stage_output")
        rows.append({"name": name, "sha256": digest_of_path(path), "bytes": path.stat().st_size})
    if not rows:
        raise Invalid("the stage left nothing", code="stage_empty")
    return canonical_json(rows)


def check_files(folder: Path, digest: str) -> None:
    """Raise Invalid, naming the file, unless `folder` holds what its files.json lists, and that has this digest."""
    listed = _read(folder / FILES)
    if f"sha256:{sha256_hex(listed)}" != digest:
        raise Invalid(f"{FILES} is not the list that the manifest names")
    found = list_files(folder)
    if found == listed:
        return
    before = {row["name"]: row for row in json.loads(listed)}
    now = {row["name"]: row for row in json.loads(found)}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise Invalid(f"{name} is {'missing' if name not in now else 'new' if name not in before else 'changed'}")
    raise Invalid(f"{FILES} is not in its canonical form")


def digest_of_path(path: Path) -> str:
    """SHA-256 (hex) of a file of any size."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_folder(folder: Path, pattern: str) -> str:
    """SHA-256 (hex) over the names and digests of its files. Raises Invalid (`folder_empty`) where there are none."""
    files = {path.name: digest_of_path(path) for path in sorted(folder.glob(pattern)) if path.is_file()}
    if not files:
        raise Invalid(f"{folder} holds no {pattern}", code="folder_empty")
    return sha256_hex(canonical_json(files))


def _is_output(name: str) -> bool:
    parts = name.split("/")
    return not any(part.startswith(".") for part in parts) and parts[0] not in (CHECKPOINTS, FILES, MANIFEST)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise Invalid(f"{path.name} is longer than {MAX_LIST_BYTES} bytes")
    return data
