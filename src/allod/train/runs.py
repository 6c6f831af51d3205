"""A run's folder: one folder a finished stage, each with `files.json` and `manifest.json`, and nothing half-done.

    <run>/clean/…                   a finished stage: its outputs, files.json, manifest.json
    <run>/.partial-pretrain-1a2b…/  a stage under way, or one that was interrupted; the name ends in its key
    <run>/.ended-pretrain-1a2b…/    one that has ended and gets its manifest: here the stage itself can write no more
    <run>/pack.changed-1/           a finished stage that was found changed, set aside

A stage is finished when its manifest is a leaf of the realm's log and its folder has its name. What is durable comes in
this order, and a kill between any two is recovered from what is there:

    1 outputs, files.json, manifest.json, in `.ended-…`    killed after it: a stage under way, with its checkpoints
    2 the manifest's leaf in the log                       killed after it: takes its name at the next start
    3 what is no output is deleted, and the folder takes its name

Its process has read the corpus: what it left is taken for hostile. Only plain files count, and it cannot write its own
manifest. And the folder may have been written by somebody else meanwhile: a manifest is believed for its leaf alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import JsonValue
from allod.core.digests import digest_of_bytes, hex_of
from allod.core.errors import Invalid, Unavailable
from allod.core.files.plain import read_plain_file
from allod.core.files.whole import sync, write_whole
from allod.core.statements.training import (
    FILES,
    MANIFEST,
    TrainingStatement,
    check_training_statement,
    derivation_of,
    make_training_statement,
)
from allod.prove.releases.lineage import MAX_LIST_BYTES
from allod.train.outputs import check_files, check_no_own_list, clear, list_files, make_durable, remove
from allod.train.stage_log import StageLog, check_logged, check_sole_derivation

_OF_THE_LOG = frozenset({"log_damaged", "no_log", "bad_bundle", "log_origin"})  # says nothing of the stage


@dataclass(frozen=True, slots=True)
class FinishedStage:
    """A stage that is done: its folder and what its manifest says."""

    folder: Path
    statement: TrainingStatement


class RunFolder:
    """The folder of one run. Only one process at a time may hold it: see `open_run`."""

    def __init__(self, path: Path, log: StageLog) -> None:
        self.path = path
        self.log = log

    def stage(self, name: str) -> Path:
        """Where a finished stage of this name is, or would be."""
        return self.path / name

    def find(self, stage: str, key: str) -> FinishedStage | None:
        """The stage, if it was finished with this key; every file of it is read and compared with its manifest.

        None where it is not there, or was made of something else. Raises Invalid where what is on disk is not what its
        manifest says (`stage_changed`), and where the manifest is no leaf of the log (`stage_unlogged`): it is set
        aside, so that the next start makes it again.
        """
        self._adopt(stage, key)
        folder = self.stage(stage)
        if not folder.exists():
            return None
        try:
            manifest, statement = _read_manifest(folder)
            if statement.stage != stage:
                raise Invalid(f"its manifest is of the stage {statement.stage}")
            if statement.key != key:
                return None
            check_files(folder, statement.files)
        except (Invalid, OSError) as error:
            raise self._refusal(
                folder, f"the stage {stage} is not what its manifest says", "stage_changed", error
            ) from error
        try:
            check_logged(self.log, manifest, statement)
        except Invalid as error:
            if error.code in _OF_THE_LOG:
                raise
            raise self._refusal(folder, f"the stage {stage} was not made here", "stage_unlogged", error) from error
        return FinishedStage(folder, statement)

    def partial(self, stage: str, key: str, *, resumes: bool) -> Path:
        """The folder in which a stage is made. Empty, unless it `resumes` and was begun with the same key."""
        folder = self._partial_name(stage, key)
        for other in (*self.path.glob(f".partial-{stage}-*"), *self.path.glob(f".ended-{stage}-*")):
            if other != folder or not resumes:
                remove(other)
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def finish(self, stage: str, predicate: Mapping[str, JsonValue]) -> FinishedStage:
        """Make the partial folder of `stage` the finished one. `predicate` is the statement's but for `derivation`.

        Raises Invalid for a stage that left nothing, or left something else than files: that is set aside.
        """
        key = str(predicate["key"])
        folder = self._partial_name(stage, key)
        try:
            check_no_own_list(folder)
            files = list_files(folder)
        except Invalid:
            self._set_aside(folder)
            raise
        digest = digest_of_bytes(files)
        manifest = make_training_statement(digest, {**predicate, "derivation": derivation_of(key, digest)})
        statement = check_training_statement(manifest)
        try:
            check_sole_derivation(self.log, statement)
        except Invalid as error:
            if error.code == "derivation_differs":
                self._set_aside(folder)
            raise
        ended = self._name_when_ended(stage, key)
        folder.rename(ended)
        write_whole(ended / FILES, files.decode())
        write_whole(ended / MANIFEST, manifest.decode())
        outputs = _names(files)
        make_durable(ended, outputs)
        self.log.append([manifest])
        clear(ended, outputs)
        self._replace(stage, ended)
        return FinishedStage(self.stage(stage), statement)

    def _adopt(self, stage: str, key: str) -> None:
        """Take over a stage that was killed between its leaf and its name; back to its partial folder if that was
        before its leaf."""
        ended = self._name_when_ended(stage, key)
        if not ended.is_dir():
            return
        try:
            manifest, statement = _read_manifest(ended)
            check_files(ended, statement.files)
            check_logged(self.log, manifest, statement)
        except (Invalid, OSError):
            for name in (FILES, MANIFEST):
                (ended / name).unlink(missing_ok=True)
            remove(self._partial_name(stage, key))
            ended.rename(self._partial_name(stage, key))
        else:
            clear(ended, _names(list_files(ended)))
            self._replace(stage, ended)

    def _replace(self, stage: str, folder: Path) -> None:
        old = self.path / f".old-{stage}"
        remove(old)
        if self.stage(stage).exists():
            self.stage(stage).rename(old)
        folder.rename(self.stage(stage))
        sync(self.path)
        remove(old)

    def _refusal(self, folder: Path, what: str, code: str, error: Invalid | OSError) -> Invalid:
        reason = error.message if isinstance(error, Invalid) else f"{error.filename}: {error.strerror}"
        aside = self._set_aside(folder)
        return Invalid(
            f"{what}: {reason}", code=code, hint=f"it was set aside as {aside.name}; the next start makes it again"
        )

    def _set_aside(self, folder: Path) -> Path:
        number = 1
        while (aside := self.path / f"{folder.name}.changed-{number}").exists():
            number += 1
        folder.rename(aside)
        return aside

    def _partial_name(self, stage: str, key: str) -> Path:
        return self.path / f".partial-{stage}-{hex_of(key)[:16]}"

    def _name_when_ended(self, stage: str, key: str) -> Path:
        return self.path / f".ended-{stage}-{hex_of(key)[:16]}"


def _names(files: bytes) -> list[str]:
    return [str(row["name"]) for row in json.loads(files)]


@contextmanager
def open_run(path: Path, log: StageLog) -> Iterator[RunFolder]:
    """The run's folder, made if need be and held for this process alone; `log` is its realm's.

    Raises Unavailable (`run_in_use`) and Invalid (`run_permissions`).
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Invalid(
            f"{path} must be ours, and nobody else may write there", code="run_permissions", hint=f"chmod go-w {path}"
        )
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
        yield RunFolder(path, log)
    finally:
        os.close(handle)


def _read_manifest(folder: Path) -> tuple[bytes, TrainingStatement]:
    manifest = read_plain_file(folder / MANIFEST, limit_bytes=MAX_LIST_BYTES)
    return manifest, check_training_statement(manifest)
