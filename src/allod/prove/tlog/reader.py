"""Reading: every entry of a log, from its segment, so that what was read is the log and not merely a file.

The pass rebuilds the tree as it goes. What it showed to `visit` counts only once it has ended without an error: then
the entries are the leaves of a tree head that the log's key signed, none left out. It takes no lock, writes nothing
and runs beside the writer; it stops at the last whole batch that was there when it began. Memory does not grow with
the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from allod.core.errors import Invalid
from allod.prove.formats.merkle import (
    HASH_BYTES,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    leaf_hashes,
    node_hash,
)
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.proofs import Proof
from allod.prove.formats.tree_head import TreeHead
from allod.prove.tlog.index import FramePosition, batch_before_end, read_indexed_size
from allod.prove.tlog.recovery import (
    INDEX_FILES,
    check_reached,
    check_tail,
    damage,
    read_published_head,
    read_signed_head,
)
from allod.prove.tlog.segment import MAGIC, Batch, Batches, find_end

Visit = Callable[[int, bytes], None]
"""(number of the entry, its exact bytes)."""

Read = Callable[[Visit], "LogRead"]
"""Reads one log whole, as `read_log` does, with whatever the caller knows of it."""


@dataclass(frozen=True, slots=True)
class LogRead:
    """What a pass has read: the tree under `note`, the signed tree head, which ends at byte `end` of the segment."""

    head: TreeHead
    note: str
    end: int


def read_log(
    directory: Path,
    key: VerifierKey,
    visit: Visit,
    *,
    known: Iterable[TreeHead] = (),
    end: int | None = None,
    as_it_is: bool = False,
) -> LogRead:
    """Show every entry to `visit`, in order, and check that together they are the log that `key` signed.

    The log must extend each tree head in `known`, and the one in its own `checkpoint` file: one that is shorter, or
    has another past, was put back or changed. `end` stops at that byte, where an earlier pass ended; `as_it_is` reads
    the segment alone, for who asks how much of it is gone. Raises Invalid (`no_log`) where there is none,
    (`log_origin`) where it is another's and (`log_damaged`) for anything else that is not the log.
    """
    published, indexed = read_published_head(directory, key), read_indexed_size(directory / INDEX_FILES[0])
    try:
        file = (directory / "segment").open("rb")
    except FileNotFoundError as error:
        raise Invalid("there is no log here", code="no_log") from error
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise damage("the segment does not start as one")
        if (name := _name_in(file)) not in (None, key.name):
            raise Invalid(f"the log here is {name}, and the key that is trusted is of {key.name}", code="log_origin")
        is_alone = as_it_is or end is not None
        expected = [*known] if published is None or is_alone else [*known, published]
        limit = find_end(file) if end is None else end  # after what is known: a head may be kept of an entry just made
        read = _Pass(file, key, visit, expected).read(limit)
    if not is_alone:
        check_reached(read.head, published, indexed)
    return read


def is_signed_by(directory: Path, key: VerifierKey) -> bool:
    """Whether `key` signed the log's first tree head, which says whose log it is. Nothing else is verified."""
    try:
        with (directory / "segment").open("rb") as file:
            return read_signed_head(_first_note(file) or "", key) is not None
    except FileNotFoundError:
        return False


def _name_in(file: BinaryIO) -> str | None:
    """What the log calls itself in its first tree head, if that is one. Nothing is verified."""
    try:
        return TreeHead.of_signed(_first_note(file) or "").origin
    except Invalid:
        return None


def _first_note(file: BinaryIO) -> str | None:
    batch = next(iter(Batches(file)), None)
    return batch.head.payload.decode(errors="replace") if batch else None


def newest_entries(directory: Path, num: int) -> list[tuple[int, bytes]]:
    """The last `num` entries or fewer, by number, as they are in the segment: nothing is verified. Takes no lock."""
    found = _newest_from(directory, batch_before_end(directory / INDEX_FILES[0], num), num)
    if len(found) < num:  # the index may be wrong
        found = _newest_from(directory, FramePosition(0, len(MAGIC)), num)
    return found


def _newest_from(directory: Path, start: FramePosition, num: int) -> list[tuple[int, bytes]]:
    found: deque[tuple[int, bytes]] = deque(maxlen=num)
    number = start.leaf
    with (directory / "segment").open("rb") as file:
        for batch in Batches(file, start.offset):
            found.extend((number + index, frame.payload) for index, frame in enumerate(batch.entries))
            number += len(batch.entries)
    return list(found)


class _Pass:
    """One way through a segment. `expected` are tree heads still to be met."""

    def __init__(self, file: BinaryIO, key: VerifierKey, visit: Visit, expected: Collection[TreeHead]) -> None:
        self._file, self._key, self._visit = file, key, visit
        self._frontier = Frontier()
        self._roots: dict[int, set[bytes]] = {}
        for head in expected:
            self._roots.setdefault(head.size, set()).add(head.root)
        self._note = b""

    def read(self, limit: int) -> LogRead:
        batches = Batches(self._file, limit=limit)  # what is written meanwhile, the next pass will read
        for batch in batches:
            self._read_batch(batch)
        end = batches.end
        check_tail(self._file, end, limit, self._key)
        note = self._note.decode(errors="replace")
        head = read_signed_head(note, self._key)
        if head is None:
            raise damage("its last tree head is not signed by this log's key")
        if ahead := [size for size in self._roots if size > head.size]:
            raise damage(f"it had a signed tree head of size {max(ahead)} once, and now ends at {head.size}")
        if self._roots:  # each one closed a batch
            raise damage(f"it had a signed tree head of size {min(self._roots)} once, and now has none of that size")
        return LogRead(head, note, end)

    def _read_batch(self, batch: Batch) -> None:
        frontier = self._frontier
        for number, frame in enumerate(batch.entries, frontier.size):
            self._visit(number, frame.payload)
        frontier.extend(leaf_hashes(frame.payload for frame in batch.entries))
        head = TreeHead(self._key.name, frontier.size, frontier.root())
        if not batch.head.payload.startswith(f"{head.text}\n".encode()):
            raise damage(f"the tree head at byte {batch.head.offset} is not that of the entries before it")
        if self._roots.pop(head.size, {head.root}) != {head.root}:
            raise damage(f"it had another signed tree head of size {head.size} once")
        self._note = batch.head.payload


def read_proved(
    directory: Path, key: VerifierKey, read: LogRead, numbers: Collection[int]
) -> Iterator[tuple[bytes, Proof]]:
    """These entries, each with the proof that it is in the tree that `read` ended with; one more pass.

    Raises Invalid (`log_damaged`) if the segment is no longer what was read.
    """
    size = read.head.size
    picked = _Picked(numbers, size)
    again = read_log(directory, key, picked.see, end=read.end)
    if again.head != read.head:
        raise damage("it changed while it was read")
    for number, entry in sorted(picked.entries.items()):
        path = inclusion_proof(picked.node, number, size)
        yield entry, Proof(number, tuple(path), read.note)


def consistency_of(directory: Path, key: VerifierKey, read: LogRead, old: int) -> list[bytes]:
    """Hashes that show the tree of `old` entries to be a prefix of the one that `read` ended with; one more pass.

    Raises Invalid (`log_damaged`) if the segment is no longer what was read.
    """
    picked = _Picked((), read.head.size)
    consistency_proof(picked.want, old, read.head.size)
    if read_log(directory, key, picked.see, end=read.end).head != read.head:
        raise damage("it changed while it was read")
    return consistency_proof(picked.node, old, read.head.size)


class _Picked:
    """Of a growing tree, some entries and the nodes that prove them; all other hashes are let go of."""

    def __init__(self, numbers: Collection[int], size: int) -> None:
        self.entries: dict[int, bytes] = {}
        self._numbers = frozenset(numbers)
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._stack: list[bytes] = []
        for number in self._numbers:
            inclusion_proof(self.want, number, size)

    def want(self, height: int, index: int) -> bytes:
        """Note that this node is to be kept."""
        self._nodes[height, index] = b""
        return bytes(HASH_BYTES)

    def see(self, number: int, entry: bytes) -> None:
        """Count one more entry, and keep what is wanted of it."""
        if number in self._numbers:
            self.entries[number] = entry
        node, height, index = leaf_hash(entry), 0, number
        self._keep(height, index, node)
        while index & 1:
            node = node_hash(self._stack.pop(), node)
            height, index = height + 1, index >> 1
            self._keep(height, index, node)
        self._stack.append(node)

    def _keep(self, height: int, index: int, node: bytes) -> None:
        if (height, index) in self._nodes:
            self._nodes[height, index] = node

    def node(self, height: int, index: int) -> bytes:
        """A node that was wanted, once the pass is over."""
        return self._nodes[height, index]
