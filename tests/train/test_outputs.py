"""What a stage leaves is taken for hostile: it may have been taken over by a document or a package that it read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.train.stage_logs import MemoryLog

from allod.core.canonical import JsonValue
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.statements.training import derivation_of, key_of, make_training_statement
from allod.train.outputs import check_files, list_files
from allod.train.runs import RunFolder

KEY, OTHER_KEY = key_of("clean", 1, {}, []), key_of("clean", 1, {"a": 1}, [])
PREDICATE: dict[str, JsonValue] = {
    "id": "training_1", "at": {"start_ms": 1, "end_ms": 2}, "stage": "clean", "version": 1, "run": "tiny", "key": KEY,
    "inputs": [], "parameters": {}, "recipe": "sha256:" + "0" * 64, "code": {}, "environment": {},
    "stated": {"site": "here", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 0},
    "observed": {"by": "trainer", "machine": {}}, "seed": 1, "measured": {}, "energy": {}, "seal": {}, "label": {},
}  # fmt: skip


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """The folder of a stage that has left one honest file."""
    folder = RunFolder(tmp_path, MemoryLog()).partial("clean", KEY, resumes=True)
    (folder / "made.txt").write_text("made")
    return folder


def finish(partial: Path) -> Path:
    return RunFolder(partial.parent, MemoryLog()).finish("clean", PREDICATE).folder


@pytest.mark.parametrize("name", ["files.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "file"])
def test_a_stage_cannot_stand_in_the_way_of_its_own_manifest(partial: Path, name: str, kind: str) -> None:
    """A link there would have us write to where it leads, a pipe would have us wait for ever."""
    victim = partial.parent / "victim"
    victim.write_text("precious")
    make: dict[str, Callable[[Path], object]] = {
        "link": lambda path: path.symlink_to(victim),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "file": Path.touch,
    }
    make[kind](partial / name)
    with pytest.raises(Invalid) as refused:
        finish(partial)
    assert refused.value.code == "stage_output"
    assert victim.read_text() == "precious"
    assert not list(
        RunFolder(partial.parent, MemoryLog()).partial("clean", KEY, resumes=True).iterdir()
    )  # it begins anew


def test_a_stage_cannot_write_its_own_manifest(partial: Path) -> None:
    """One that ends in a crash and leaves a whole manifest, that says what it likes of seal and label, is not done."""
    files = list_files(partial)
    digest = "sha256:" + sha256_hex(files)
    forged = {**PREDICATE, "seal": {"kind": "island"}, "derivation": derivation_of(KEY, digest)}
    (partial / "files.json").write_bytes(files)
    (partial / "manifest.json").write_bytes(make_training_statement(digest, forged))
    assert RunFolder(partial.parent, MemoryLog()).find("clean", KEY) is None


def test_what_is_no_output_is_deleted(partial: Path) -> None:
    """Nothing that no digest names reaches a later stage, however it is hidden."""
    (partial / "deep").mkdir()
    (partial / "deep" / "kept").touch()
    (partial / "deep" / ".hidden").touch()
    (partial / "checkpoints").mkdir()
    (partial / "checkpoints" / "step").touch()
    (partial / ".link").symlink_to("/etc/passwd")
    os.mkfifo(partial / ".pipe")
    folder = finish(partial)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == ["deep", "deep/kept", "files.json", "made.txt", "manifest.json"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u202eb", os.fsdecode(b"a\xffb")])
def test_names_that_would_deceive_are_refused(partial: Path, name: str) -> None:
    """A name goes into the list of files, and from there onto a terminal."""
    (partial / name).touch()
    with pytest.raises(Invalid) as refused:
        finish(partial)
    assert refused.value.code == "stage_output"
    assert refused.value.message.isprintable()


def test_deep_nesting_is_refused(partial: Path) -> None:
    """Before it takes the stack of whoever looks."""
    (partial / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(Invalid) as refused:
        finish(partial)
    assert refused.value.code == "stage_output"


@pytest.mark.parametrize("text", ["{}", "5", "[5]", "[" * 100_000, '[{"name": ["x"]}]'])
def test_a_list_of_files_that_is_none(partial: Path, text: str) -> None:
    """Whoever edits it, with a manifest to fit, gets a clear refusal."""
    (partial / "files.json").write_text(text)
    digest = "sha256:" + sha256_hex(text.encode())
    with pytest.raises(Invalid):
        check_files(partial, digest)


class Killed(BaseException):
    """What no `except` catches, as no process catches SIGKILL."""


@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "no space left")], ids=["kill -9", "disk full"])
@pytest.mark.parametrize("was_there", [False, True])
def test_killed_at_any_step_a_stage_is_done_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, was_there: bool
) -> None:
    """Before every rename and every sync of `finish`, before its leaf and after it: then it is whole and logged, or its
    work is there to go on from."""
    num_steps = 0
    while True:
        log = MemoryLog()
        run = RunFolder(tmp_path / str(num_steps), log)
        run.path.mkdir()
        if was_there:  # of an earlier recipe
            (run.partial("clean", OTHER_KEY, resumes=True) / "made.txt").write_text("old")
            run.finish("clean", {**PREDICATE, "key": OTHER_KEY, "parameters": {"a": 1}})
        partial = run.partial("clean", KEY, resumes=True)
        (partial / "made.txt").write_text("made")
        with monkeypatch.context() as patched:
            _break_after(patched, num_steps, error)
            try:
                run.finish("clean", PREDICATE)
            except (Killed, OSError):
                whole = False
            else:
                whole = True
        found = run.find("clean", KEY)
        made = found.folder if found else run.partial("clean", KEY, resumes=True)
        assert (made / "made.txt").read_text() == "made", num_steps
        if found is not None:
            check_files(found.folder, found.statement.files)
        assert (found is not None) is (len(log.manifests_of(KEY)) == 1), num_steps
        if whole:
            break
        num_steps += 1
    assert num_steps > 8


def _break_after(patched: pytest.MonkeyPatch, num_steps: int, error: BaseException) -> None:
    left = iter(range(num_steps))

    def breaking(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*given: object, **named: object) -> object:
            if next(left, None) is None:
                raise error
            return call(*given, **named)

        return instead

    for name in ("rename", "replace", "fsync"):
        patched.setattr(os, name, breaking(getattr(os, name)))
    append = breaking(MemoryLog.append)

    def append_and_break(log: MemoryLog, statements: list[bytes]) -> None:
        append(log, statements)
        breaking(lambda: None)()

    patched.setattr(MemoryLog, "append", append_and_break)
