"""Recovery: from the files of a log to its state, or a refusal. Nothing is believed that the log's key did not sign.

1. Resume from the index if its last tree head is in the segment, signed, and is the root of the partial tiles, and if
   the batches before it still lead there (of a long log the last 64 MiB: the time is bounded; fsck reads all of them);
   otherwise forget everything derived and start from the first batch.
2. Replay the batches that follow: sums, leaf hashes, roots; the last tree head's signature vouches for all of them.
3. A tail without a good tree head was never acknowledged and is cut off, unless something shows that it was:
   a signed tree head after the damage that is not the last thing in the file, or a `checkpoint` file or an index that
   is ahead. `check_tail` and `check_reached` say so to fsck and to those who only read (reader.py), too.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from allod.core.errors import Invalid, Unavailable
from allod.prove.formats.merkle import Frontier, leaf_hashes
from allod.prove.formats.notes import DASH, VerifierKey, is_signed, parse_note
from allod.prove.formats.tree_head import TreeHead
from allod.prove.tlog.index import FramePosition, Index, SavedState, read_indexed_size
from allod.prove.tlog.segment import HEAD, MAGIC, Batch, Batches, read_frame
from allod.prove.tlog.state import Growth, LogState

INDEX_FILES = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm")
FLUSH_EVERY = 10_000  # leaves
WALK_BYTES = 64 * 1024 * 1024  # read again at each opening: a quarter of a second
MAX_TAIL_BYTES = 128 * 1024 * 1024  # more than the largest batch


def recover(directory: Path, key: VerifierKey, file: BinaryIO, *, anew: bool) -> tuple[LogState, Index]:
    """The state of the log in `directory`, and its index, up to date; `anew` starts from nothing.

    An index that is damaged is made again from nothing. Raises Invalid (`log_damaged`).
    """
    try:
        return _recover(directory, key, file, anew=anew)
    except sqlite3.Error:  # it could be read, as far as was needed, and not written; nothing that it says was refused
        return _recover(directory, key, file, anew=True)


def _recover(directory: Path, key: VerifierKey, file: BinaryIO, *, anew: bool) -> tuple[LogState, Index]:
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise damage("the segment does not start as one")
    published, indexed = (
        read_published_head(directory, key),
        0 if anew else read_indexed_size(directory / INDEX_FILES[0]),
    )
    resumed = None if anew else _resume(directory, key, file)
    index, state = resumed or (None, LogState.empty(directory, key.name))
    start = state.end
    try:
        check_reached(_check_rest(file, key, state), published, indexed)
        index = index or _open_index(directory, anew=True)  # what was derived is let go of only now
        for batch in Batches(file, start):
            replay(state, batch)
            if len(state.fresh) >= FLUSH_EVERY:
                state.flush(index, directory)
        if state.end != start or published != state.head:
            state.flush(index, directory)
    except BaseException:
        if index is not None:
            index.close()
        raise
    return state, index


def _check_rest(file: BinaryIO, key: VerifierKey, state: LogState) -> TreeHead:
    """The tree head that the segment ends with, which goes on from `state`. Writes nothing.

    Raises Invalid (`log_damaged`).
    """
    head, note, frontier = state.head, state.note, state.frontier.copy()
    batches = Batches(file, state.end)
    for batch in batches:
        frontier.extend(leaf_hashes(frame.payload for frame in batch.entries))
        head, note = _read_closing_head(batch, TreeHead(key.name, frontier.size, frontier.root()))
    if not note or read_signed_head(note, key) != head:
        raise damage("its last tree head is not signed by this log's key")
    if batches.problem:
        check_tail(file, batches.end, batches.limit, key)
    return head


def replay(state: LogState, batch: Batch, ids: Sequence[str | None] | None = None) -> None:
    """Count one batch of the segment; `ids` are its receipts' where they were read already.

    Raises Invalid if its tree head is not that of its leaves.
    """
    entries = [frame.payload for frame in batch.entries]
    offsets = [frame.offset for frame in batch.entries]
    ids = [receipt_id_of(entry) for entry in entries] if ids is None else ids
    growth = Growth.of(state.frontier, entries, ids, offsets)
    expected = TreeHead(state.head.origin, growth.frontier.size, growth.frontier.root())
    head, note = _read_closing_head(batch, expected)
    state.advance(growth, head, note, head_offset=batch.head.offset)


def _read_closing_head(batch: Batch, expected: TreeHead) -> tuple[TreeHead, str]:
    """The tree head that closes the batch, and its note. Raises Invalid (`log_damaged`) if it is not `expected`."""
    try:
        note = batch.head.payload.decode()
        head = TreeHead.of_signed(note)
    except (Invalid, UnicodeDecodeError) as error:
        raise damage(f"no tree head at byte {batch.head.offset}") from error
    if head != expected:
        raise damage(f"the tree head at byte {batch.head.offset} is not that of the entries before it")
    return head, note


def receipt_id_of(leaf: bytes) -> str | None:
    """The `predicate.id` of a statement; None for a leaf that has none."""
    try:
        value = json.loads(leaf)["predicate"]["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def read_signed_head(note: str, key: VerifierKey) -> TreeHead | None:
    """The tree head in `note` if `key` signed it for its own log."""
    try:
        parsed = parse_note(note)
        head = TreeHead.of(parsed)
    except Invalid:
        return None
    return head if head.origin == key.name and is_signed(parsed, key) else None


def damage(what: str) -> Invalid:
    """The refusal to open."""
    return Invalid(f"the log is damaged: {what}", code="log_damaged", hint="allod log fsck says where")


def _open_index(directory: Path, *, anew: bool = False) -> Index:
    """The index; `anew` throws the old one away. Raises sqlite3.Error."""
    if anew:
        for name in INDEX_FILES:
            (directory / name).unlink(missing_ok=True)
    return Index(directory / INDEX_FILES[0])


def _resume(directory: Path, key: VerifierKey, file: BinaryIO) -> tuple[Index, LogState] | None:
    if not (directory / INDEX_FILES[0]).exists():
        return None
    try:
        index = _open_index(directory)
    except sqlite3.Error:
        return None
    try:
        saved = index.load()
        state = None if saved is None else _read_saved(directory, saved, key, file, _walk_start(index, saved))
    except (sqlite3.Error, Invalid, Unavailable):
        state = None
    if state is not None:
        return index, state
    index.close()
    return None


def _read_saved(
    directory: Path, saved: SavedState, key: VerifierKey, file: BinaryIO, start: FramePosition
) -> LogState | None:
    if saved.end > file.seek(0, os.SEEK_END):
        return None
    file.seek(min(saved.head, saved.end))
    frame = read_frame(file, saved.head)
    if isinstance(frame, str) or frame.kind != HEAD or frame.end != saved.end:
        return None
    head = read_signed_head(frame.payload.decode(errors="replace"), key)
    if head is None or head.size != saved.size:
        return None
    state = LogState.resume(directory, saved, frame.payload.decode())
    return state if state.frontier.root() == head.root and leads_to(file, head, saved.end, start) else None


def _walk_start(index: Index, saved: SavedState) -> FramePosition:
    """The first batch of about the last `WALK_BYTES`."""
    whole = FramePosition(0, len(MAGIC))
    if saved.end <= WALK_BYTES:
        return whole
    return index.batch_of(saved.size - saved.size * WALK_BYTES // saved.end) or whole


def leads_to(file: BinaryIO, head: TreeHead, end: int, start: FramePosition) -> bool:
    """Whether the batches from `start` to byte `end` are whole and follow one another up to `head`.

    From the first batch on, their tree heads' roots are compared as well, otherwise their sizes and all sums.
    """
    frontier, size = Frontier() if start.leaf == 0 else None, start.leaf
    batches = Batches(file, start.offset, limit=end)
    for batch in batches:
        size += len(batch.entries)
        text = f"{head.origin}\n{size}\n"
        if frontier is not None:
            frontier.extend(leaf_hashes(frame.payload for frame in batch.entries))
            text = TreeHead(head.origin, size, frontier.root()).text
        if not batch.head.payload.startswith(text.encode()):
            return False
    return not batches.problem and (batches.end, size) == (end, head.size)


def check_tail(file: BinaryIO, end: int, limit: int, key: VerifierKey) -> None:
    """Raise Invalid (`log_damaged`) unless what follows `end` is a batch being written, or one that a crash tore."""
    file.seek(end)
    tail = file.read(min(limit - end, MAX_TAIL_BYTES + 1))
    if len(tail) > MAX_TAIL_BYTES:
        raise damage(f"more follows byte {end} than one batch")
    pattern = rb"%s\n[0-9]+\n[A-Za-z0-9+/=]{44}\n\n(?:%s [^\n]+\n)+" % (re.escape(key.name.encode()), DASH.encode())
    for found in re.finditer(pattern, tail):
        head = read_signed_head(found[0].decode(errors="replace"), key)
        if head is not None and found.end() != len(tail):  # the next batch is written only after this one was durable
            raise damage(f"a signed tree head of size {head.size} follows the damage after byte {end}")


def read_published_head(directory: Path, key: VerifierKey) -> TreeHead | None:
    """The tree head in the file `checkpoint`, if `key` signed it.

    To be read before the segment, as is the index's size: beside a writer they can then only be behind it.
    """
    try:
        return read_signed_head((directory / "checkpoint").read_text(), key)
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def check_reached(head: TreeHead, published: TreeHead | None, indexed: int) -> None:
    """Raise Invalid (`log_damaged`) where the segment, which ends at `head`, had got further than that once.

    Both files are told of a batch only after it was durable, so no crash puts them ahead.
    """
    if published is not None and (
        published.size > head.size or (published.size == head.size and published.root != head.root)
    ):
        raise damage(f"a tree head of size {published.size} was published, and the segment ends at {head.size}")
    if indexed > head.size:
        raise damage(f"the index knows {indexed} entries, and the segment ends at {head.size}")
