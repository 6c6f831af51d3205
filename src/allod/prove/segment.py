"""Segment: the one file that is the log. Framed entries, and a signed tree head that closes each batch (spec/log.md).

    file  = "ALLODLG1" batch*        batch = entry-frame* head-frame
    frame = kind (1 byte, E or H), length (4), CRC-32 of kind, length and payload (4), payload      big-endian

A batch is written and made durable as one: entries without their head were never acknowledged.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple
from zlib import crc32

from allod.core.errors import Unavailable

MAGIC = b"ALLODLG1"
ENTRY, HEAD = b"E", b"H"
MAX_PAYLOAD_BYTES = 0xFFFF
_START = Struct(">cI")
_FRAME = Struct(">cII")
FRAME_BYTES = _FRAME.size


class Frame(NamedTuple):
    """A frame whose sum is right; `offset` is where it starts, `end` where the next would."""

    kind: bytes
    payload: bytes
    offset: int

    @property
    def end(self) -> int:
        return self.offset + FRAME_BYTES + len(self.payload)


def encode_frame(kind: bytes, payload: bytes) -> bytes:
    """The bytes of one frame."""
    length = len(payload)
    return _FRAME.pack(kind, length, crc32(payload, crc32(_START.pack(kind, length)))) + payload


def read_frame(file: BinaryIO, offset: int) -> Frame | str:
    """The frame that starts at the file's position, which is `offset`; or what is wrong with it; "" at the end."""
    start = file.read(FRAME_BYTES)
    if len(start) < FRAME_BYTES:
        return "a frame is cut short" if start else ""
    kind, length, total = _FRAME.unpack(start)
    if kind not in (ENTRY, HEAD) or length > MAX_PAYLOAD_BYTES:
        return "no frame starts here"
    payload = file.read(length)
    if len(payload) < length:
        return "a frame is cut short"
    if crc32(payload, crc32(start[: _START.size])) != total:
        return "a sum is wrong"
    return Frame(kind, payload, offset)


class Batch(NamedTuple):
    """Entries and the frame of the tree head that closes them."""

    entries: list[Frame]
    head: Frame


class Batches:
    """Reads batches from `offset` on; afterwards `end` is where the last whole one ended, `problem` why it stopped."""

    def __init__(self, file: BinaryIO, offset: int = len(MAGIC)) -> None:
        self._file = file
        self.end = offset
        self.problem = ""

    def __iter__(self) -> Iterator[Batch]:
        self._file.seek(self.end)
        offset, entries = self.end, list[Frame]()
        while not isinstance(frame := read_frame(self._file, offset), str):
            offset = frame.end
            if frame.kind == ENTRY:
                entries.append(frame)
                continue
            yield Batch(entries, frame)
            self.end, entries = offset, []
        self.problem = frame or ("entries without a tree head" if entries else "")


@dataclass(frozen=True, slots=True)
class FileCalls:
    """The system calls that durability rests on, so that tests can make each of them fail."""

    pwrite: Callable[[int, bytes, int], int] = os.pwrite
    fdatasync: Callable[[int], None] = os.fdatasync
    ftruncate: Callable[[int, int], None] = os.ftruncate


class SegmentFile:
    """The segment, open for appending; `end` is where the durable part ends."""

    def __init__(self, fd: int, end: int, calls: FileCalls, path: Path) -> None:
        self._fd, self._calls, self._path = fd, calls, path
        self._failed: str | None = None
        self.end = end

    def append(self, data: bytes) -> None:
        """Write one batch and make it durable; nothing of it is left if that fails. Raises Unavailable.

        A failed write is undone and may be tried again. After a failed fdatasync nobody knows what the disk holds,
        and a second call may report success for data that was dropped: the log stays shut until it is opened anew.
        """
        if self._failed is not None:
            raise self._unavailable(self._failed)
        try:
            if not os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                raise FileNotFoundError(errno.ENOENT, "another file has its name")
            self._write(data)
        except OSError as error:
            self._undo()
            raise self._unavailable(f"write: {error.strerror}") from error
        try:
            self._calls.fdatasync(self._fd)
        except OSError as error:
            self._failed = f"fdatasync: {error.strerror}"
            self._undo()
            raise self._unavailable(self._failed) from error
        self.end += len(data)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes) -> None:
        done = self._calls.pwrite(self._fd, data, self.end)
        while done < len(data):
            done += self._calls.pwrite(self._fd, data[done:], self.end + done)

    def _undo(self) -> None:
        try:
            self._calls.ftruncate(self._fd, self.end)
            self._calls.fdatasync(self._fd)
        except OSError as error:
            self._failed = f"undoing a write: {error.strerror}"

    def _unavailable(self, cause: str) -> Unavailable:
        hint = "free space on its disk; nothing unacknowledged was kept" if self._failed is None else "restart Allod"
        return Unavailable(f"the log cannot be written ({cause})", code="log_unavailable", hint=hint)
