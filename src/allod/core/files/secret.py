"""Secret files: written whole and once, readable by their owner only, refused when anyone else could read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from allod.core.errors import Invalid
from allod.core.files.whole import sync

MAX_SECRET_BYTES = 4096


def make_private_directory(directory: Path) -> None:
    """Make it, mode 0700 and durable, with its missing parents; leave one that is there as it is."""
    if directory.is_dir():
        return
    make_private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    sync(directory.parent)


def write_secret_once(path: Path, data: bytes) -> bool:
    """Create `path` with `data`, mode 0600, durable before its name appears. False if it is there already."""
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, never replaces
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    sync(path.parent)
    return True


def read_secret(path: Path) -> bytes:
    """The bytes of a secret file. Raises Invalid if it is missing, not ours, or readable by others."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise Invalid(f"cannot read the secret {path.name}: {error.strerror}", code="no_secret") from error
    with os.fdopen(fd, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
            raise Invalid(
                f"the secret {path.name} is not a file that only its owner can read",
                code="unsafe_secret",
                hint="chmod 600, owned by the account that runs Allod; if others may have read it, replace it",
            )
        return file.read(MAX_SECRET_BYTES)
