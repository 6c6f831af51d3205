"""Log: an open transparency log. One owner at a time appends; any thread looks up, proves and reads tiles.

directory/segment        the log itself (segment.py): the only file that cannot be made again
directory/checkpoint     the last tree head, derived        directory/tile/...      full tiles, derived
directory/index.sqlite   receipt id → leaf, derived         directory/lock          held while open
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from struct import pack
from typing import BinaryIO, NamedTuple

from allod.core.errors import Invalid, Unavailable
from allod.core.files.whole import sync
from allod.prove.formats.merkle import HASH_BYTES, inclusion_proof
from allod.prove.formats.proofs import Proof
from allod.prove.formats.signing_key import SigningKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.tlog.begun import is_begun, take_lock
from allod.prove.tlog.index import FramePosition, Index
from allod.prove.tlog.recovery import recover
from allod.prove.tlog.segment import (
    ENTRY,
    FRAME_BYTES,
    HEAD,
    MAGIC,
    FileCalls,
    SegmentFile,
    encode_frame,
    encode_frames,
    read_frame,
)
from allod.prove.tlog.state import Growth, LogState
from allod.prove.tlog.tiles import WIDTH, TileName

SYSTEM_CALLS = FileCalls()


class Entry(NamedTuple):
    """A leaf to append, and the receipt id to find it by."""

    leaf: bytes
    receipt_id: str


class AppendedBatch(NamedTuple):
    """Where a batch is: the number of its first entry, and the size of the first signed tree that holds it."""

    leaf: int
    size: int


class Log:
    """Open with `open_log`. Only `append`, `make_room`, `flush` and `close` change it; those are for one thread."""

    def __init__(
        self, directory: Path, key: SigningKey, segment: SegmentFile, state: LogState, index: Index, lock: int
    ) -> None:
        self._directory, self._key, self._segment = directory, key, segment
        self._state, self._index, self._lock = state, index, lock
        self._changing = threading.Lock()

    @property
    def origin(self) -> str:
        """The log's name in every tree head."""
        return self._key.name

    @property
    def segment_path(self) -> Path:
        """The log itself, for those who read it from the start."""
        return self._directory / "segment"

    @property
    def verifier_key(self) -> str:
        """`name+hash+base64`, to be given to whoever verifies."""
        return self._key.verifier_key

    @property
    def head(self) -> TreeHead:
        """The last durable tree head."""
        return self._state.head

    @property
    def note(self) -> str:
        """The last durable tree head, signed."""
        return self._state.note

    @property
    def end(self) -> int:
        """The byte of the segment at which the durable part ends."""
        return self._state.end

    @property
    def num_unflushed(self) -> int:
        """Entries that the index has yet to be told of."""
        return len(self._state.fresh)

    def append(
        self, entries: Sequence[tuple[bytes, str] | tuple[bytes, str, object]], *, ahead: int = 0
    ) -> AppendedBatch:
        """Append a batch, each an `Entry` or beginning as one: one write, one signature, one fdatasync.

        `ahead` as in `SegmentFile.append`. Raises Unavailable, and then nothing was added.
        """
        state = self._state
        leaves, ids = [entry[0] for entry in entries], [entry[1] for entry in entries]
        frames = encode_frames(ENTRY, leaves)
        *offsets, head_offset = accumulate((FRAME_BYTES + len(leaf) for leaf in leaves), initial=state.end)
        growth = Growth.of(state.frontier, leaves, ids, offsets)
        head = TreeHead(state.head.origin, growth.frontier.size, growth.frontier.root())
        note = self._key.sign(head.text)
        self._segment.append(b"".join([*frames, *encode_frames(HEAD, [note.encode()])]), ahead=ahead)
        first = state.head.size
        with self._changing:
            state.advance(growth, head, note, head_offset=head_offset)
        return AppendedBatch(first, head.size)

    def make_room(self, num_bytes: int) -> None:
        """Make sure that a batch of so many bytes can be appended now. Raises Unavailable while it cannot."""
        self._segment.make_room(num_bytes)

    def flush(self) -> None:
        """Bring the derived files up to date. A failure costs nothing but a slower start: it is tried again."""
        try:
            self._state.flush(self._index, self._directory)
        except (sqlite3.Error, OSError):
            return

    def find(self, receipt_id: str) -> FramePosition:
        """Where the entry with this id is. Raises Invalid (`no_such_receipt`), Unavailable (`log_derived`)."""
        position = self._state.fresh.get(receipt_id) or self._index.find(receipt_id)
        if position is None:
            raise Invalid("no receipt has this id", code="no_such_receipt")
        return FramePosition(*position)

    def statement(self, receipt_id: str) -> bytes:
        """The exact leaf of a receipt."""
        return self._read(self.find(receipt_id).offset, 1)[0]

    def proof(self, leaf: int) -> Proof:
        """That entry's inclusion in the last durable tree. Raises Invalid and Unavailable."""
        with self._changing:
            state = self._state
            path = inclusion_proof(state.tiles.node, leaf, state.head.size)
            return Proof(leaf, tuple(path), state.note)

    def resource(self, path: str) -> bytes:
        """What C2SP tlog-tiles serves at this path: `checkpoint`, `tile/<L>/<N>` or `tile/entries/<N>`.

        Raises Invalid (`no_such_tile`) for what does not exist, Unavailable for a tile whose file is lost.
        """
        if path == "checkpoint":
            return self.note.encode()
        name = TileName.parse(path)
        with self._changing:
            size = self.head.size
            width = min(WIDTH, (size >> 8 * (name.level or 0)) - name.number * WIDTH)
            if width < name.width:
                raise Invalid("no tile has this name", code="no_such_tile")
            if name.level is not None:
                return self._state.tiles.tile(name)[: name.width * HASH_BYTES]
        entries = self.entries(name.number * WIDTH, name.width)
        return b"".join(pack(">H", len(entry)) + entry for entry in entries)

    def entries(self, first: int, count: int) -> list[bytes]:
        """`count` leaves from number `first` on. Raises Invalid (`no_such_entry`) and Unavailable."""
        with self._changing:
            batch = self._state.batch_of(first, self._index)
        if batch is None or first + count > self.head.size:
            raise Invalid(f"no entries {first} to {first + count}", code="no_such_entry")
        return self._read(batch.offset, first - batch.leaf + count)[first - batch.leaf :]

    def close(self) -> None:
        """Flush and let go of the lock."""
        self.flush()
        self._index.close()
        self._segment.close()
        os.close(self._lock)

    def _read(self, offset: int, count: int) -> list[bytes]:
        try:
            with self.segment_path.open("rb") as file:
                return _entries_from(file, offset, count)
        except OSError as error:
            raise Unavailable(f"the segment cannot be read: {error.strerror}", code="log_unavailable") from error


def _entries_from(file: BinaryIO, offset: int, count: int) -> list[bytes]:
    found: list[bytes] = []
    file.seek(offset)
    while len(found) < count:
        frame = read_frame(file, offset)
        if isinstance(frame, str):
            raise Unavailable(f"the segment cannot be read at byte {offset}: {frame}", code="log_damaged")
        if frame.kind == ENTRY:
            found.append(frame.payload)
        offset = frame.end
    return found


def open_log(directory: Path, key: SigningKey, calls: FileCalls = SYSTEM_CALLS, *, anew: bool = False) -> Log:
    """Open the log in `directory`, made on first use, and recover it; `anew` makes everything derived again.

    Raises Unavailable (`log_locked`) while another process has it open, Invalid (`log_damaged`) for damage that no
    crash explains.
    """
    lock = take_lock(directory)
    try:
        return _open_locked(directory, key, calls, lock, anew=anew)
    except (OSError, sqlite3.Error) as error:
        os.close(lock)
        raise Unavailable(f"the log cannot be opened: {error}", code="log_unavailable") from error
    except BaseException:
        os.close(lock)
        raise


def _open_locked(directory: Path, key: SigningKey, calls: FileCalls, lock: int, *, anew: bool) -> Log:
    path = directory / "segment"
    if not is_begun(directory):
        _create_segment(directory, key)
    with path.open("rb") as file:
        state, index = recover(directory, key.verifier, file, anew=anew)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, state.end)
        os.fdatasync(fd)
    except OSError as error:
        os.close(fd)
        index.close()
        raise Unavailable(f"the log cannot be written ({error.strerror})", code="log_unavailable") from error
    return Log(directory, key, SegmentFile(fd, state.end, calls, path), state, index, lock)


def _create_segment(directory: Path, key: SigningKey) -> None:
    if (directory / "checkpoint").exists():
        raise Invalid("the log's segment is gone", code="log_damaged", hint="restore it; do not start it anew")
    draft = directory / "segment.draft"
    note = key.sign(LogState.empty(directory, key.name).head.text)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, MAGIC + encode_frame(HEAD, note.encode()))
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.rename(directory / "segment")
    sync(directory)
