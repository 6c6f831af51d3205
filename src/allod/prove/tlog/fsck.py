"""Fsck: replay a whole log from its segment and compare everything derived from it with what is there.

Reads only, and needs no lock, so it may run beside the writer; `rebuild` makes the derived files again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from allod.core.errors import Invalid
from allod.core.statements.receipt import Statement
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.signing_key import SigningKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.tlog.index import Index
from allod.prove.tlog.log import open_log
from allod.prove.tlog.recovery import (
    INDEX_FILES,
    check_reached,
    check_tail,
    read_published_head,
    read_signed_head,
    receipt_id_of,
    replay,
)
from allod.prove.tlog.segment import MAGIC, Batch, Batches
from allod.prove.tlog.state import LogState

CheckEntry = Callable[[bytes], Statement]
"""What the entry says. Raises Invalid for one that nobody could read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. `is_derived` if the segment can make it again; `is_tail` if it was never acknowledged;
    `is_entry` if the log is whole and holds what nobody can read, which a gateway steps over."""

    where: str
    problem: str
    is_derived: bool = False
    is_tail: bool = False
    is_entry: bool = False

    @property
    def is_damage(self) -> bool:
        """What the log's key signed is not all there."""
        return not (self.is_derived or self.is_tail or self.is_entry)


@dataclass(frozen=True, slots=True)
class KnownHistory:
    """What others know a log to have held once: `heads` in kept bundles, and the `charged` entries of the ledger.

    `wrong` are the findings where that cannot be read."""

    heads: Collection[TreeHead] = ()
    charged: int = 0
    wrong: tuple[Finding, ...] = ()


NO_HISTORY = KnownHistory()


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What was read and what is wrong with it; `head` is the last good tree head. `mended` was wrong before a rebuild,
    and `is_rebuilt` says that there was one."""

    head: TreeHead
    num_heads: int
    num_bytes: int
    findings: tuple[Finding, ...]
    mended: tuple[Finding, ...] = ()
    is_rebuilt: bool = False

    @property
    def is_sound(self) -> bool:
        """Nothing wrong but, at most, a tail that nobody was promised."""
        return all(finding.is_tail for finding in self.findings)

    @property
    def is_damaged(self) -> bool:
        """Whether no gateway starts with it."""
        return any(finding.is_damage for finding in self.findings)


class _Replay:
    """One pass over the segment, with the findings on the way."""

    def __init__(
        self, directory: Path, key: VerifierKey, check_entry: CheckEntry | None, history: KnownHistory
    ) -> None:
        self.directory, self.key = directory, key
        self.known = dict.fromkeys(history.heads)  # those still to be met
        self.charged = history.charged
        self.unsigned: list[int] = []
        self.check_entry = check_entry
        self.state = LogState.empty(directory, key.name)
        self.positions: dict[str, tuple[int, int]] = {}
        self.batches: dict[int, int] = {}
        self.num_heads = self.num_bytes = 0
        self.findings = [*history.wrong]
        # What the derived files say is read before the segment: beside a running writer they may only be behind it.
        self.published = read_published_head(directory, key)
        self.index, self.indexed = self._open_index()

    def _open_index(self) -> tuple[Index | None, int]:
        if not (self.directory / INDEX_FILES[0]).exists():
            return None, 0
        try:
            index = Index(self.directory / INDEX_FILES[0])
        except sqlite3.Error:
            return None, 0
        try:
            saved = index.load()
        except sqlite3.Error:
            index.close()
            return None, 0
        return index, 0 if saved is None else saved.size

    def read_segment(self) -> None:
        if not (self.directory / "segment").is_file():
            self.find("segment", "it is gone")
            return
        with (self.directory / "segment").open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                self.find("segment", "does not start as one")
                return
            batches = Batches(file)
            self.num_bytes = batches.limit
            try:
                for batch in batches:
                    ids, odd = self._read_entries(batch)
                    replay(self.state, batch, ids)
                    self.findings += odd
                    self._check_head(batch.head.offset)
                    self._compare_tiles()
                    self._collect_positions()
            except Invalid as error:
                self.find(f"segment, byte {batches.end}", error.message)
                return
            if batches.problem:
                self._judge_tail(file, batches)

    def _check_head(self, offset: int) -> None:
        self.num_heads += 1
        self.known.pop(self.state.head, None)
        if read_signed_head(self.state.note, self.key) is None:
            self.unsigned.append(offset)

    def check_end(self) -> None:
        """What whoever opens or reads this log asks of its end: a signed tree head, and none known that is beyond."""
        if not self.num_heads:
            self.find("segment", "it has no tree head")
        for offset in self.unsigned:  # a later one that is signed vouches for the same entries
            is_last = offset == self.state.head_offset
            self.find(f"segment, byte {offset}", "the tree head is not signed by this log's key", is_entry=not is_last)
        for where, published, indexed in (("segment", self.published, 0), (INDEX_FILES[0], None, self.indexed)):
            try:
                check_reached(self.state.head, published, indexed)
            except Invalid as error:
                self.find(where, error.message)
        if self.charged > self.state.head.size:
            size = self.state.head.size
            self.find("segment", f"the ledger has charged {self.charged} of its entries, and it holds {size}")
        for head in self.known:
            self.find("segment", f"it had a signed tree head of size {head.size} once, and has it no more")

    def _read_entries(self, batch: Batch) -> tuple[list[str | None] | None, list[Finding]]:
        """The ids of a batch, and what is wrong with its entries: each is parsed once, and the odd ones twice."""
        if (check_entry := self.check_entry) is None:
            return None, []
        ids: list[str | None] = []
        odd = []
        for number, frame in enumerate(batch.entries, self.state.head.size):
            try:
                ids.append(check_entry(frame.payload).id)
            except Invalid as error:
                ids.append(receipt_id_of(frame.payload))
                where, problem = f"entry {number}, byte {frame.offset}", f"no valid statement: {error.message}"
                odd.append(Finding(where, problem, is_entry=True))
        return ids, odd

    def _compare_tiles(self) -> None:
        for name, tile in self.state.tiles.take_unwritten():
            path = self.directory / name.path
            if not path.exists():
                if (name.number + 1) << 8 * ((name.level or 0) + 1) <= self.indexed:  # else the writer may yet write it
                    self.find(name.path, "missing", is_derived=True)
            elif path.read_bytes() != tile:
                self.find(name.path, "differs from the entries", is_derived=True)

    def _collect_positions(self) -> None:
        for receipt_id, position in self.state.fresh.items():
            self.positions.setdefault(receipt_id, position)
        self.batches.update(self.state.fresh_batches)
        self.state.fresh, self.state.fresh_batches = {}, []

    def _judge_tail(self, file: BinaryIO, batches: Batches) -> None:
        where = f"segment, byte {batches.end}"
        try:
            check_tail(file, batches.end, batches.limit, self.key)
        except Invalid as error:
            self.find(where, f"{batches.problem}; {error.message}")
        else:
            self.find(where, f"{batches.problem}; no signed tree head follows", is_tail=True)

    def compare_checkpoint(self) -> None:
        if self.published is None:
            self.find("checkpoint", "missing, or not signed by this log's key", is_derived=True)

    def compare_index(self) -> None:
        if self.index is None:
            self.find(INDEX_FILES[0], "missing, or not an index", is_derived=True)
            return
        due = [(key, position) for key, position in self.positions.items() if position[0] < self.indexed]
        try:
            found, batches = self.index.positions(), self.index.batches()
        except sqlite3.Error as error:
            self.find(INDEX_FILES[0], str(error), is_derived=True)
            return
        if wrong := [key for key, position in due if found.get(key) != position]:
            self.find(INDEX_FILES[0], f"{len(wrong)} receipts not in their place, {wrong[0]} first", is_derived=True)
        if _below(self.indexed, batches) != _below(self.indexed, self.batches):
            self.find(INDEX_FILES[0], "batches not in their place", is_derived=True)

    def find(self, where: str, problem: str, **kinds: bool) -> None:
        self.findings.append(Finding(where, problem, **kinds))


def _below(size: int, batches: Mapping[int, int]) -> dict[int, int]:
    """Those that an index of this size was told of: a writer beside us may have told it of more."""
    return {leaf: offset for leaf, offset in batches.items() if leaf < size}


def fsck(
    directory: Path, key: VerifierKey, check_entry: CheckEntry | None = None, *, history: KnownHistory = NO_HISTORY
) -> FsckReport:
    """Check every sum, leaf, tree head, tile and index row of the log in `directory`, and each entry by `check_entry`.

    It must hold all that `history` says it held once. Whether it is damaged is judged as a gateway's start judges it.
    Time and memory grow with the log: about a second and 20 MB for 100,000 entries, and with `check_statement` ten
    times that.
    """
    replayed = _Replay(directory, key, check_entry, history)
    replayed.read_segment()
    replayed.check_end()
    replayed.compare_checkpoint()
    replayed.compare_index()
    if replayed.index is not None:
        replayed.index.close()
    return FsckReport(replayed.state.head, replayed.num_heads, replayed.num_bytes, tuple(replayed.findings))


def rebuild(
    directory: Path, key: SigningKey, check_entry: CheckEntry | None = None, *, history: KnownHistory = NO_HISTORY
) -> FsckReport:
    """Make the index, the tiles and `checkpoint` again from the segment, then check. Takes the log's lock.

    A damaged segment is not repaired, by this or by anything, nor is one that is gone: then everything stays as it is,
    and the report says what is wrong. Raises what `open_log` raises.
    """
    before = fsck(directory, key.verifier).findings
    if any(each.is_damage and each.where != INDEX_FILES[0] for each in before):  # an index ahead may itself be wrong
        return fsck(directory, key.verifier, check_entry, history=history)
    open_log(directory, key, anew=True).close()
    after = fsck(directory, key.verifier, check_entry, history=history)
    mended = tuple(each for each in before if each not in after.findings)
    return replace(after, mended=mended, is_rebuilt=True)
