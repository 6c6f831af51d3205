"""Segment: the one file that is the log. Framed entries, and a signed tree head that closes each batch (spec/log.md).

    file  = "ALLODLG1" batch* zero*  batch = entry-frame* head-frame
    frame = kind (1 byte, E or H), length (4), CRC-32 of kind, length and payload (4), payload      big-endian

A batch is written and made durable as one: entries without their head were never acknowledged. The zeros are room for
batches to come: one that changes no file's length is durable in half the time. A batch never ends in a zero.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple
from zlib import crc32

from allod.core.errors import Unavailable

MAGIC = b"ALLODLG1"
ENTRY, HEAD = b"E", b"H"
MAX_PAYLOAD_BYTES = 0xFFFF
AHEAD_SHARE = 8  # zeros are written for batches that take at most this part of them: others would write twice as much
_START = Struct(">cI")
_FRAME = Struct(">cII")
FRAME_BYTES = _FRAME.size
_STEP_BYTES = 128 * 1024


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
    return b"".join(encode_frames(kind, [payload]))


def encode_frames(kind: bytes, payloads: Iterable[bytes]) -> list[bytes]:
    """The bytes of frames, in pieces, so that a whole batch is joined once."""
    pieces, starts = list[bytes](), dict[int, int]()
    for payload in payloads:
        length = len(payload)
        if (start := starts.get(length)) is None:  # a batch has few lengths
            start = starts[length] = crc32(_START.pack(kind, length))
        pieces += (_FRAME.pack(kind, length, crc32(payload, start)), payload)
    return pieces


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
    """Reads batches from `offset` to `limit`, which is where the zeros begin unless a reader knows of an earlier end.

    Afterwards `end` is where the last whole one ended, and `problem` why it stopped before `limit`.
    """

    def __init__(self, file: BinaryIO, offset: int = len(MAGIC), *, limit: int | None = None) -> None:
        self._file = file
        self.end = offset
        self.limit = find_end(file) if limit is None else limit
        self.problem = ""

    def __iter__(self) -> Iterator[Batch]:
        self._file.seek(min(self.end, self.limit))  # an index may name a position that no file has
        offset, entries = self.end, list[Frame]()
        while offset < self.limit:
            frame = read_frame(self._file, offset)
            if isinstance(frame, str):
                self.problem = frame or "the file ends"
                return
            offset = frame.end
            if frame.kind == ENTRY:
                entries.append(frame)
            elif offset <= self.limit:
                yield Batch(entries, frame)
                self.end, entries = offset, []
        if self.end < self.limit:
            self.problem = "entries without a tree head"


def find_end(file: BinaryIO) -> int:
    """Where the zeros begin that the file ends in. A writer beside the reader only moves it on."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _STEP_BYTES)
        file.seek(start)
        if written := file.read(end - start).rstrip(b"\0"):
            return start + len(written)
        end = start
    return 0


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
        self._length = end
        self.end = end

    def append(self, data: bytes, *, ahead: int = 0) -> None:
        """Write one batch and make it durable; nothing of it is left if that fails. Raises Unavailable.

        A small batch that makes the file longer takes `ahead` zeros with it, or as many as there is room for.
        A failed write is undone and may be tried again. After a failed fdatasync nobody knows what the disk holds,
        and a second call may report success for data that was dropped: the log stays shut until it is opened anew.
        """
        self._make_durable(data, ahead)
        self.end += len(data)

    def make_room(self, num_bytes: int) -> None:
        """Make sure that so much more can be written, by zeros after the durable part. Raises what `append` raises."""
        self._make_durable(bytes(num_bytes), 0)

    def close(self) -> None:
        """Give back the zeros, and let go of the file."""
        with suppress(OSError):
            if self._length > self.end:
                self._calls.ftruncate(self._fd, self.end)
        os.close(self._fd)

    def _make_durable(self, data: bytes, ahead: int) -> None:
        if self._failed is not None:
            raise self._unavailable(self._failed)
        try:
            if not os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                raise FileNotFoundError(errno.ENOENT, "another file has its name")
            self._write(data, ahead)
        except OSError as error:
            self._undo()
            raise self._unavailable(f"write: {error.strerror}") from error
        try:
            self._calls.fdatasync(self._fd)
        except OSError as error:
            self._failed = f"fdatasync: {error.strerror}"
            self._undo()
            raise self._unavailable(self._failed) from error

    def _write(self, data: bytes, ahead: int) -> None:
        length = len(data)
        if self.end + length > self._length and length <= ahead // AHEAD_SHARE:
            data += bytes(ahead)
        done = self._calls.pwrite(self._fd, data, self.end)
        while done < length:  # the zeros are not insisted on: a disk may have room for the batch alone
            done += self._calls.pwrite(self._fd, data[done:length], self.end + done)
        self._length = max(self._length, self.end + done)

    def _undo(self) -> None:
        self._length = self.end
        try:
            self._calls.ftruncate(self._fd, self.end)
            self._calls.fdatasync(self._fd)
        except OSError as error:
            self._failed = f"undoing a write: {error.strerror}"

    def _unavailable(self, cause: str) -> Unavailable:
        hint = "free space on its disk; nothing unacknowledged was kept" if self._failed is None else "restart Allod"
        return Unavailable(f"the log cannot be written ({cause})", code="log_unavailable", hint=hint)
