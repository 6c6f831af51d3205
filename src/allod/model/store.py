"""The content-addressed store: `models/<sha256>/weights.gguf`, put there whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from allod.core.errors import Invalid
from allod.core.files.whole import sync
from allod.model.gguf.plain_file import open_plain

Progress = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all (0: unknown)

_CHUNK_BYTES = 1 << 22


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Store:
    """Weights by digest, below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, digest: str) -> Path | None:
        """The weights with this SHA-256 (hex), unless they are not here."""
        path = self._root / digest / "weights.gguf"
        return path if path.is_file() else None

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A directory on the store's own file system, gone afterwards whatever happens."""
        import tempfile  # by who fetches alone: a start finds what is here

        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self._root, prefix=".partial-") as name:
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # held while its process lives: `sweep` leaves it alone
                yield Path(name)
            finally:
                os.close(handle)

    def put(self, file: Path, digest: str) -> Path:
        """Move a checked `file` of this store's workspace to its place."""
        target = self._root / digest
        staged = file.parent / "staged"
        staged.mkdir(mode=0o700)
        file.chmod(0o400)
        sync(file)
        file.rename(staged / "weights.gguf")
        sync(staged)
        try:
            staged.rename(target)
        except OSError:  # another process was faster; what is there has the same digest
            if not (target / "weights.gguf").is_file():
                raise
        sync(self._root)
        return target / "weights.gguf"

    def sweep(self) -> None:
        """Remove what a killed download left behind; one under way holds its lock and stays."""
        for partial in self._root.glob(".partial-*"):
            try:
                handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                import shutil

                shutil.rmtree(partial, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(handle)


def check_digest(file: Path, digest: str, progress: Progress) -> None:
    """Raise Invalid (`model_digest`) unless the file's SHA-256 is `digest`."""
    found = digest_of_file(file, progress)
    if found != digest:
        raise Invalid(
            f"{file.name} has SHA-256 {found}, and the catalogue says {digest}",
            code="model_digest",
            hint="the file is not the model that it claims to be: it was not used",
        )


def digest_of_file(file: Path, progress: Progress) -> str:
    """SHA-256 (hex) of a file of any size. Raises Invalid (`model_unreadable`) and OSError."""
    total, done, digest = file.stat().st_size, 0, sha256()
    with open_plain(file) as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checking {file.name}", done, total)
    return digest.hexdigest()
