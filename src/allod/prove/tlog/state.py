"""Standing: where a log stands after its last durable batch, and what of that the index has yet to be told."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from allod.prove.formats.merkle import Frontier, leaf_hashes
from allod.prove.formats.tree_head import TreeHead
from allod.prove.tlog.index import FramePosition, Index, SavedState
from allod.prove.tlog.segment import FRAME_BYTES, MAGIC
from allod.prove.tlog.tiles import Tiles, write_derived


class Growth(NamedTuple):
    """What a batch that is about to count adds to the tree: its leaves and the nodes that they complete.

    `ids` are their receipts' ids, None for those that have none; `offsets` say where their frames start.
    """

    ids: Sequence[str | None]
    offsets: Sequence[int]
    rows: list[list[bytes]]
    frontier: Frontier

    @classmethod
    def of(
        cls, frontier: Frontier, entries: Iterable[bytes], ids: Sequence[str | None], offsets: Sequence[int]
    ) -> Growth:
        """Of a tree with this frontier, which stays as it is, so that a batch that fails can be forgotten."""
        grown = frontier.copy()
        return cls(ids, offsets, grown.extend(leaf_hashes(entries)), grown)


@dataclass(slots=True)
class LogState:
    """`note` is the last signed tree head, in the frame that starts at `head_offset` and ends at `end`.

    `fresh` has (leaf, offset) of the receipts that the index has yet to be told of.
    """

    tiles: Tiles
    frontier: Frontier
    head: TreeHead
    note: str = ""
    head_offset: int = 0
    end: int = len(MAGIC)
    fresh: dict[str, tuple[int, int]] = field(default_factory=dict)
    fresh_batches: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def empty(cls, directory: Path, origin: str) -> LogState:
        """Before the first tree head."""
        frontier = Frontier()
        return cls(Tiles(directory), frontier, TreeHead(origin, 0, frontier.root()))

    @classmethod
    def resume(cls, directory: Path, saved: SavedState, note: str) -> LogState:
        """From the index, for the caller to compare with the signed `note`. Raises Invalid."""
        tiles = Tiles(directory, saved.size, saved.edges)
        return cls(tiles, tiles.frontier(), TreeHead.of_signed(note), note, saved.head, saved.end)

    def advance(self, growth: Growth, head: TreeHead, note: str, *, head_offset: int) -> None:
        """Count a batch that is durable. `head` is the tree's with it."""
        first, fresh = self.head.size, self.fresh
        self.tiles.extend(growth.rows)
        for receipt_id, position in zip(growth.ids, enumerate(growth.offsets, first), strict=True):
            if receipt_id is not None:
                fresh.setdefault(receipt_id, position)
        if growth.ids:
            self.fresh_batches.append((first, self.end))
        self.frontier, self.head, self.note = growth.frontier, head, note
        self.head_offset, self.end = head_offset, head_offset + FRAME_BYTES + len(note.encode())

    def flush(self, index: Index, directory: Path) -> None:
        """Bring the derived files up to here. Raises sqlite3.Error and OSError, and then nothing is lost."""
        self.tiles.write_out()
        saved = SavedState(self.head.size, self.head_offset, self.end, tuple(map(bytes, self.tiles.edges)))
        index.save(((key, *position) for key, position in self.fresh.items()), self.fresh_batches, saved)
        self.fresh, self.fresh_batches = {}, []  # only now: a reader looks here first, then in the index
        write_derived(directory / "checkpoint", self.note.encode())

    def batch_of(self, leaf: int, index: Index) -> FramePosition | None:
        """The first leaf of the batch that holds `leaf`, and where its frame starts."""
        batches = self.fresh_batches
        if batches and batches[0][0] <= leaf:
            return FramePosition(*batches[bisect_right(batches, (leaf, self.end)) - 1])
        return index.batch_of(leaf)
