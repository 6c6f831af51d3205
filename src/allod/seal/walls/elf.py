"""Which dynamic loader an executable names, since executing it means executing both."""

from __future__ import annotations

import struct
from pathlib import Path

_PT_INTERP = 3


def interpreter_of(executable: Path) -> Path | None:
    """The PT_INTERP path of a 64-bit little-endian ELF file; None for a static program or another format."""
    with executable.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return None
        (table_at,) = struct.unpack_from("<Q", header, 32)
        entry_bytes, num_entries = struct.unpack_from("<HH", header, 54)
        file.seek(table_at)
        table = file.read(entry_bytes * num_entries)
        for start in range(0, len(table) - 55, entry_bytes):
            kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", table, start)
            if kind == _PT_INTERP:
                file.seek(offset)
                return Path(file.read(size).rstrip(b"\0").decode())
    return None
