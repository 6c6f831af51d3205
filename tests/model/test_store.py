"""The store: weights are there whole, under their digest, or not there at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from allod.core.errors import Invalid
from allod.model.store import Store, check_digest, digest_of_file

WEIGHTS = b"weights" * 1000
DIGEST = sha256(WEIGHTS).hexdigest()


def no_progress(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, data: bytes = WEIGHTS) -> Path:
    with store.workspace() as workspace:
        (workspace / "file").write_bytes(data)
        return store.put(workspace / "file", sha256(data).hexdigest())


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_what_was_put_is_found_by_its_digest(store: Store) -> None:
    """And only by its own."""
    path = put(store)
    assert store.find(DIGEST) == path
    assert path.read_bytes() == WEIGHTS
    assert store.find("0" * 64) is None


def test_an_empty_store_finds_nothing(store: Store) -> None:
    """Nor does looking make it."""
    assert store.find(DIGEST) is None


def test_what_was_put_cannot_be_written(store: Store) -> None:
    """Read-only for its owner, nothing for others."""
    assert stat.S_IMODE(put(store).stat().st_mode) == 0o400


def test_a_workspace_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    """Neither when the work was done nor when it failed."""
    put(store)
    with pytest.raises(FileNotFoundError), store.workspace() as workspace:
        store.put(workspace / "nothing was written", DIGEST)
    assert names(tmp_path / "store") == {DIGEST}


def test_a_workspace_is_on_the_stores_own_file_system(store: Store, tmp_path: Path) -> None:
    """Otherwise the rename that publishes a file would be a copy, which is not atomic."""
    with store.workspace() as workspace:
        assert workspace.parent == tmp_path / "store"
        assert workspace.stat().st_dev == (tmp_path / "store").stat().st_dev


def test_a_file_being_put_is_not_found(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the last rename the store says that it is not here."""
    found: list[Path | None] = []
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        found.append(store.find(DIGEST))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    assert store.find(DIGEST) is None
    path = put(store)
    assert found
    assert not any(found)
    assert store.find(DIGEST) == path


def test_the_second_to_put_a_file_changes_nothing(store: Store) -> None:
    """Two processes that fetched the same model at once agree on the first one's copy."""
    first = put(store)
    inode = first.stat().st_ino
    assert put(store) == first
    assert first.stat().st_ino == inode


def test_a_place_that_is_taken_by_something_else_is_an_error(store: Store, tmp_path: Path) -> None:
    """A directory of that name without weights is not taken for success."""
    (tmp_path / "store" / DIGEST / "other").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        put(store)
    assert store.find(DIGEST) is None


def test_a_killed_download_is_swept_away(store: Store, tmp_path: Path) -> None:
    """A process killed in its workspace leaves a partial file; sweeping removes it and keeps what is whole."""
    kept = put(store)
    script = (
        "import pathlib, sys, time; from allod.model.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).workspace() as place:\n"
        "    (place / 'half').write_bytes(b'x' * 1000); print('written', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert len(names(tmp_path / "store")) == 2
    store.sweep()
    assert names(tmp_path / "store") == {DIGEST}
    assert store.find(DIGEST) == kept


def test_a_download_under_way_is_not_swept(store: Store, tmp_path: Path) -> None:
    """Another process that starts meanwhile leaves it alone."""
    with store.workspace() as workspace:
        (workspace / "half").write_bytes(b"x")
        Store(tmp_path / "store").sweep()
        assert (workspace / "half").exists()


def test_the_weights_are_on_the_disk_before_their_name_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, its directory, and only then the rename that publishes it: a power cut leaves no empty model."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        steps.append("file" if stat.S_ISREG(os.fstat(handle).st_mode) else "directory")
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        steps.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    put(store)
    assert steps == ["file", "rename to weights.gguf", "directory", f"rename to {DIGEST}", "directory"]


def test_sweeping_a_store_that_is_not_there_is_nothing(store: Store) -> None:
    """The first start sweeps before anything exists."""
    store.sweep()


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    """Both digests are told, and that the file was not used."""
    file = tmp_path / "file"
    file.write_bytes(WEIGHTS)
    check_digest(file, DIGEST, no_progress)
    with pytest.raises(Invalid) as caught:
        check_digest(file, "0" * 64, no_progress)
    assert caught.value.code == "model_digest"
    assert DIGEST in caught.value.message
    assert "0" * 64 in caught.value.message


@pytest.mark.parametrize("size", [0, 1, (1 << 22) - 1, 1 << 22, (1 << 22) + 1])
def test_the_digest_is_of_all_the_bytes(tmp_path: Path, size: int) -> None:
    """Around the size of a chunk, too; and progress ends at the whole."""
    data = os.urandom(1) * size
    (tmp_path / "file").write_bytes(data)
    steps: list[tuple[int, int]] = []
    found = digest_of_file(tmp_path / "file", lambda what, done, total: steps.append((done, total)))
    assert found == sha256(data).hexdigest()
    assert size == 0 or steps[-1] == (size, size)
