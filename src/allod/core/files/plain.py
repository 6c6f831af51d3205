"""A folder as what it holds: the digest of every file in it, by its path. Only plain files and folders pass."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from hashlib import sha256
from pathlib import Path

from allod.core.errors import Invalid

MAX_FILES = 10_000
MAX_DEPTH = 16
_CHUNK_BYTES = 1 << 22


def digests_in(folder: Path, *, ignore: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 (hex) of each file below `folder` by its path with slashes, in the order of the paths' parts.

    `ignore` names files at the top that are left out. Raises Invalid (`bad_folder`) for a symbolic link, a socket, a
    name that is not Unicode, or more than `MAX_FILES` files: what one reader passes over, another may run.
    """
    return {name: digest_of_plain_file(folder / name) for name in names_in(folder) if name not in ignore}


def names_in(folder: Path) -> list[str]:
    """The path with slashes of each file below `folder`, in the order of the paths' parts. Raises as `digests_in`."""
    return sorted(_names(folder, "", MAX_DEPTH), key=lambda name: name.split("/"))


def digest_of_plain_file(path: Path) -> str:
    """SHA-256 (hex) of a file that is no link and no device. Raises Invalid (`bad_folder`)."""
    digest = sha256()
    with os.fdopen(_open_plain(path), "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_plain_file(path: Path, *, limit_bytes: int) -> bytes:
    """The bytes of such a file. Raises Invalid (`bad_folder`), also for one that is longer than the limit."""
    with os.fdopen(_open_plain(path), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise _refusal(f"{path.name} is longer than {limit_bytes} bytes")
    return data


def _names(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    if depth == 0:
        raise _refusal("it is nested too deeply")
    num_files = 0
    for entry in _entries(folder):
        name = prefix + entry.name
        if not _is_text(name):
            raise _refusal(f"the name {name!r} is not text")
        if entry.is_dir(follow_symlinks=False):
            found: Iterator[str] = _names(Path(entry.path), f"{name}/", depth - 1)
        elif entry.is_file(follow_symlinks=False):
            found = iter((name,))
        else:
            raise _refusal(f"{name} is neither a file nor a folder")
        for item in found:
            num_files += 1
            if num_files > MAX_FILES:
                raise _refusal(f"it holds more than {MAX_FILES} files")
            yield item


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        if folder.is_symlink():
            raise _refusal(f"{folder.name} is a symbolic link")
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _refusal(f"{folder.name} cannot be read ({error.strerror})") from error


def _open_plain(path: Path) -> int:
    """A descriptor; never waits for somebody to write into a pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _refusal(f"{path.name} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _refusal(f"{path.name} is no plain file")
    return handle


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name.isprintable()


def _refusal(message: str) -> Invalid:
    return Invalid(f"the folder is refused: {message}", code="bad_folder")
