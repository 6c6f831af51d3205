"""Tiles: the tree's hashes in the layout of C2SP tlog-tiles. Full tiles are files, the ragged right edge is memory.

Tiles are derived: the segment can rebuild them, so they are written without waiting for the disk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from allod.core.errors import Invalid, Unavailable
from allod.prove.formats.encodings import from_decimal
from allod.prove.formats.merkle import EMPTY_ROOT, HASH_BYTES, Frontier, node_hashes, subtrees

TILE_HEIGHT = 8
WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = WIDTH * HASH_BYTES


class TileName(NamedTuple):
    """`level` is None for an entry bundle; `width` below 256 for a partial tile."""

    level: int | None
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """`tile/<L>/<N>[.p/<W>]`."""
        rest, last = divmod(self.number, 1000)
        parts = [f"{last:03}"]
        while rest:
            rest, part = divmod(rest, 1000)
            parts.insert(0, f"x{part:03}")
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(parts)}{partial}"

    @classmethod
    def parse(cls, path: str) -> TileName:
        """Inverse of `path`; nothing but what it writes. Raises Invalid."""
        found = re.fullmatch(r"tile/(entries|[0-7])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?", path, re.ASCII)
        if found is None:
            raise Invalid("no tile has this name", code="no_such_tile")
        level, digits, width = found.groups()
        number = int(digits.replace("x", "").replace("/", ""))
        columns = WIDTH if width is None else from_decimal(width, "the width")
        name = cls(None if level == "entries" else int(level), number, columns)
        if name.path != path or not 0 < name.width <= WIDTH:
            raise Invalid("no tile has this name", code="no_such_tile")
        return name


@lru_cache(maxsize=1024)
def fold(hashes: bytes) -> bytes:
    """The root over a power of two of hashes."""
    row = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = node_hashes(row)
    return row[0]


class Tiles:
    """The hashes of a growing tree. `edges[level]` is that level's partial tile; full ones wait for `write_out`."""

    def __init__(self, directory: Path, size: int = 0, edges: Sequence[bytes] = ()) -> None:
        self._directory = directory
        self._unwritten: dict[TileName, bytes] = {}
        self._kept: dict[TileName, bytes] = {}
        self.size = size
        self.edges = [bytearray(edge) for edge in edges]

    def extend(self, rows: Sequence[Sequence[bytes]]) -> None:
        """Add what `Frontier.extend` completed. Touches no file, so it cannot fail once the leaves are durable."""
        for level, row in enumerate(rows[::TILE_HEIGHT]):
            if level == len(self.edges):
                self.edges.append(bytearray())
            edge, number = self.edges[level], self.size >> TILE_HEIGHT * (level + 1)
            edge += b"".join(row)
            while len(edge) >= TILE_BYTES:
                self._unwritten[TileName(level, number)] = bytes(edge[:TILE_BYTES])
                del edge[:TILE_BYTES]
                number += 1
        self.size += len(rows[0]) if rows else 0

    def write_out(self) -> None:
        """Write the tiles that are full. Raises OSError; those not written stay in memory."""
        for name, tile in list(self._unwritten.items()):
            write_derived(self._directory / name.path, tile)
            del self._unwritten[name]  # only now: a reader looks here first, then for the file

    def take_unwritten(self) -> list[tuple[TileName, bytes]]:
        """The full tiles that wait, for a reader that only compares them."""
        taken = list(self._unwritten.items())
        self._unwritten.clear()
        return taken

    def frontier(self) -> Frontier:
        """What appending to this tree needs."""
        return Frontier(self.size, [self.node(height, index) for height, index in subtrees(0, self.size)])

    def root(self) -> bytes:
        """The root of the whole tree."""
        return self.frontier().root() if self.size else EMPTY_ROOT

    def node(self, height: int, index: int) -> bytes:
        """The hash of the complete subtree of 2^height leaves with this index. Raises Unavailable."""
        level, inner = divmod(height, 8)
        first = index << inner
        tile = self.tile(TileName(level, first // WIDTH))
        at = first % WIDTH * HASH_BYTES
        hashes = tile[at : at + (HASH_BYTES << inner)]
        if len(hashes) != HASH_BYTES << inner:
            raise Invalid("that part of the tree is not complete", code="no_such_entry")
        return fold(hashes)

    def tile(self, name: TileName) -> bytes:
        """The tile, or as much of it as there is. Raises Unavailable if its file is lost."""
        level = name.level or 0
        if name.number == self.size >> 8 * (level + 1):
            return bytes(self.edges[level]) if level < len(self.edges) else b""
        return self._read(TileName(level, name.number)) if name.number < self.size >> 8 * (level + 1) else b""

    def _read(self, name: TileName) -> bytes:
        kept = self._unwritten.get(name) or self._kept.get(name)
        if kept is not None:
            return kept
        try:
            tile = (self._directory / name.path).read_bytes()
        except FileNotFoundError:
            tile = b""
        if len(tile) != TILE_BYTES:
            raise derived_damage(f"{name.path} is lost")
        if len(self._kept) >= 256:
            self._kept.clear()
        self._kept[name] = tile
        return tile


def derived_damage(what: str) -> Unavailable:
    """The refusal to go by what can be made again from the segment: tiles, index."""
    return Unavailable(
        f"what is derived from the log is damaged: {what}", code="log_derived", hint="allod log fsck --rebuild"
    )


def write_derived(path: Path, data: bytes) -> None:
    """Replace a derived file as one step for its readers; durable whenever the system gets to it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
    draft.replace(path)
