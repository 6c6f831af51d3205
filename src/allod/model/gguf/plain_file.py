"""Model files that somebody named: what is no file is said at once, instead of being waited for or read for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from allod.core.errors import Invalid

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_plain(path: Path) -> BinaryIO:
    """The file, open to be read; a link is followed. Raises Invalid (`model_unreadable`), which says what it is, and
    OSError."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFREG:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
        kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)  # it may have become another meanwhile
        if kind == stat.S_IFREG:
            return file
        file.close()
    raise Invalid(f"{path} is {_KINDS.get(kind, 'no file')}, and not a plain file", code="model_unreadable")
