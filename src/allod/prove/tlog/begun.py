"""Whether a log was begun in a directory, is gone, or is open to somebody: looked at, and nothing made."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from allod.core.errors import Unavailable
from allod.core.files.secret import make_private_directory


def is_begun(directory: Path) -> bool:
    """Whether the log's segment, the only file that cannot be made again, is there."""
    return (directory / "segment").exists()


def check_not_gone(directory: Path, name: str, kept: str | None) -> None:
    """Raise Unavailable (`log_gone`) where the log is no more; `kept` says what there is of it elsewhere, None if
    nothing."""
    if kept is None or is_begun(directory):
        return
    raise Unavailable(
        f"{name} is gone, of which {kept}",
        code="log_gone",
        hint="put it back; without it start another realm (ALLOD_HOME): its place is not taken by a new one",
    )


def take_lock(directory: Path) -> int:
    """The log's lock, to be closed by the caller; the directory is made on first use.

    Raises Unavailable (`log_locked`) while another has it.
    """
    make_private_directory(directory)
    return _take(os.open(_lock(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def check_unlocked(directory: Path) -> None:
    """Raise Unavailable (`log_locked`) while another process has the log open."""
    try:
        handle = os.open(_lock(directory), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    os.close(_take(handle))


def _lock(directory: Path) -> Path:
    return directory / "lock"


def _take(handle: int) -> int:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise Unavailable(
            "another process has this log open",
            code="log_locked",
            hint="a gateway of this ALLOD_HOME runs: end it, or give this one another ALLOD_HOME",
        ) from error
    return handle
