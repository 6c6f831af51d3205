"""Standing: where a log stands after its last durable batch, and what of that the index has yet to be told."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from allod.prove.heads import TreeHead
from allod.prove.index import Index, Place, Saved
from allod.prove.merkle import Frontier
from allod.prove.segment import FRAME_BYTES, MAGIC
from allod.prove.tiles import Tiles, write_derived


class Leaf(NamedTuple):
    """A leaf that is about to count: its hash, its receipt's id if it has one, and where its frame starts."""

    hash: bytes
    id: str | None
    offset: int


@dataclass(slots=True)
class Standing:
    """`note` is the last signed tree head, in the frame that starts at `head_offset` and ends at `end`."""

    tiles: Tiles
    frontier: Frontier
    head: TreeHead
    note: str = ""
    head_offset: int = 0
    end: int = len(MAGIC)
    fresh: dict[str, Place] = field(default_factory=dict)
    fresh_batches: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def empty(cls, directory: Path, origin: str) -> Standing:
        """Before the first tree head."""
        frontier = Frontier()
        return cls(Tiles(directory), frontier, TreeHead(origin, 0, frontier.root()))

    @classmethod
    def resumed(cls, directory: Path, saved: Saved, note: str) -> Standing:
        """From the index, for the caller to compare with the signed `note`. Raises Invalid."""
        tiles = Tiles(directory, saved.size, saved.edges)
        return cls(tiles, tiles.frontier(), TreeHead.of_signed(note), note, saved.head, saved.end)

    def advance(
        self, leaves: Iterable[Leaf], frontier: Frontier, head: TreeHead, note: str, *, head_offset: int
    ) -> None:
        """Count a batch that is durable. `frontier` and `head` are the tree's with it."""
        leaf_number, first_offset = self.head.size, self.end
        for leaf in leaves:
            self.tiles.append(leaf.hash)
            if leaf.id is not None:
                self.fresh.setdefault(leaf.id, Place(leaf_number, leaf.offset))
            leaf_number += 1
        if leaf_number > self.head.size:
            self.fresh_batches.append((self.head.size, first_offset))
        self.frontier, self.head, self.note = frontier, head, note
        self.head_offset, self.end = head_offset, head_offset + FRAME_BYTES + len(note.encode())

    def flush(self, index: Index, directory: Path) -> None:
        """Bring the derived files up to here. Raises sqlite3.Error and OSError, and then nothing is lost."""
        self.tiles.write_out()
        saved = Saved(self.head.size, self.head_offset, self.end, tuple(map(bytes, self.tiles.edges)))
        index.save(((key, *place) for key, place in self.fresh.items()), self.fresh_batches, saved)
        self.fresh, self.fresh_batches = {}, []  # only now: a reader looks here first, then in the index
        write_derived(directory / "checkpoint", self.note.encode())

    def batch_of(self, leaf: int, index: Index) -> Place | None:
        """The first leaf of the batch that holds `leaf`, and where its frame starts."""
        batches = self.fresh_batches
        if batches and batches[0][0] <= leaf:
            return Place(*batches[bisect_right(batches, (leaf, self.end)) - 1])
        return index.batch_of(leaf)
