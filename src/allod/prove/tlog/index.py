"""Index: receipt id → leaf, and where the last flush stood. Derived: a missing, late or broken one is rebuilt.

SQLite without waiting for the disk: a crash of the program loses nothing, a crash of the machine at most this file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from allod.prove.tlog.segment import MAGIC
from allod.prove.tlog.tiles import derived_damage

_SCHEMA = """
create table if not exists entry (id text primary key, leaf integer not null, offset integer not null) without rowid;
create table if not exists batch (first integer primary key, offset integer not null);
create table if not exists edge (level integer primary key, hashes blob not null);
create table if not exists state (one integer primary key check (one = 1), size integer, head integer, end integer);
"""


# One statement adds many rows: a thread lets go of the interpreter's lock for each statement, and waits to get it back.
ROWS = 256
_ADD = "insert or ignore into entry values "


def read_indexed_size(path: Path) -> int:
    """How many leaves the index at `path` was told of; 0 where there is none, or none that can be read."""
    row = _look(path, "select size from state")
    return 0 if row is None else row[0]


class FramePosition(NamedTuple):
    """A leaf's number and where its frame starts in the segment."""

    leaf: int
    offset: int


def batch_before_end(path: Path, num: int) -> FramePosition:
    """A batch that starts at least `num` leaves before the last that the index at `path` knows; else the first."""
    query = "select first, offset from batch where first <= (select size from state) - ? order by first desc limit 1"
    row = _look(path, query, num)
    return FramePosition(0, len(MAGIC)) if row is None else FramePosition(*row)


def _look(path: Path, query: str, *asked: int) -> Sequence[int] | None:
    """A row of numbers of the index at `path`; None where there is none, or none that can be read."""
    try:
        with _any_damage_told(), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            row: Sequence[int] | None = database.execute(query, asked).fetchone()
    except sqlite3.Error:
        return None
    return row if row is not None and _are_numbers(row) else None


def _are_numbers(row: Iterable[object]) -> bool:
    """Whether they count something, as all numbers in an index do."""
    return all(type(number) is int and number >= 0 for number in row)


@contextmanager
def _any_damage_told() -> Iterator[None]:
    """Raises sqlite3.Error for all that a damaged file may lead to: what SQLite says of it need not even be text."""
    try:
        yield
    except (sqlite3.Error, OSError):
        raise
    except Exception as error:
        raise sqlite3.DatabaseError(f"it cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class SavedState:
    """Where the log stood: its size, where its last tree head starts and ends, and the partial tiles."""

    size: int
    head: int
    end: int
    edges: tuple[bytes, ...]


class Index:
    """One connection that writes and one that reads, so that a look-up never waits for a flush.

    Raises sqlite3.Error for a file that is no index, from here on or only where it is met.
    """

    def __init__(self, path: Path) -> None:
        self._write = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            with _any_damage_told():
                self._write.execute("pragma journal_mode = wal")
                self._write.execute("pragma synchronous = off")
                self._write.executescript(_SCHEMA)
                self._read = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except BaseException:
            self._write.close()
            raise
        self._reading = threading.Lock()

    def save(
        self, entries: Iterable[tuple[str, int, int]], batches: Iterable[tuple[int, int]], saved: SavedState
    ) -> None:
        """Add rows (id, leaf, offset) and (first leaf, offset), and move `saved` on, all or nothing.

        An id that is there already keeps its first leaf. Raises sqlite3.Error.
        """
        rows, edges = sorted(entries), list(enumerate(saved.edges))
        with _any_damage_told(), closing(self._write.cursor()) as cursor:
            cursor.execute("begin")
            try:
                for start in range(0, len(rows), ROWS):
                    some = rows[start : start + ROWS]
                    cursor.execute(_ADD + ", ".join(["(?, ?, ?)"] * len(some)), tuple(chain.from_iterable(some)))
                cursor.executemany("insert or replace into batch values (?, ?)", batches)
                cursor.executemany("insert or replace into edge values (?, ?)", edges)
                cursor.execute("insert or replace into state values (1, ?, ?, ?)", (saved.size, saved.head, saved.end))
                cursor.execute("commit")
            except BaseException:
                if self._write.in_transaction:
                    cursor.execute("rollback")
                raise

    def load(self) -> SavedState | None:
        """What the last `save` left. Raises sqlite3.Error for a broken file."""
        with _any_damage_told():
            row = self._write.execute("select size, head, end from state").fetchone()
            edges = tuple(hashes for (hashes,) in self._write.execute("select hashes from edge order by level"))
        if row is None:
            return None
        if not _are_numbers(row) or {*map(type, edges)} - {bytes}:
            raise sqlite3.DatabaseError("its state is none")
        return SavedState(row[0], row[1], row[2], edges)

    def find(self, receipt_id: str) -> FramePosition | None:
        """Where the entry with this id is. Raises Unavailable (`log_derived`)."""
        return self._position("select leaf, offset from entry where id = ?", receipt_id)

    def batch_of(self, leaf: int) -> FramePosition | None:
        """The first leaf of the last known batch that starts at or before `leaf`. Raises what `find` raises."""
        return self._position("select first, offset from batch where first <= ? order by first desc limit 1", leaf)

    def _position(self, query: str, asked: str | int) -> FramePosition | None:
        try:
            with _any_damage_told(), self._reading:
                row = self._read.execute(query, (asked,)).fetchone()
        except sqlite3.Error as error:
            raise derived_damage(f"index: {error}") from error
        if row is not None and not _are_numbers(row):
            raise derived_damage("index: a position in it is no number")
        return None if row is None else FramePosition(*row)

    def positions(self) -> dict[str, tuple[int, int]]:
        """Every entry's leaf and offset by its id, in one read. Raises sqlite3.Error."""
        with _any_damage_told(), self._reading:
            rows = self._read.execute("select id, leaf, offset from entry").fetchall()
        return {receipt_id: (leaf, offset) for receipt_id, leaf, offset in rows}

    def batches(self) -> dict[int, int]:
        """Every batch's offset by its first leaf, in one read. Raises sqlite3.Error."""
        with _any_damage_told(), self._reading:
            rows = self._read.execute("select first, offset from batch").fetchall()
        if not all(map(_are_numbers, rows)):
            raise sqlite3.DatabaseError("a position in it is no number")
        return dict(rows)

    def close(self) -> None:
        self._read.close()
        self._write.close()
