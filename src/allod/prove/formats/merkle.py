"""Merkle arithmetic of RFC 6962 section 2.1, and the checks of RFC 9162 section 2.1.3 and 2.1.4. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from operator import add

from allod.core.errors import Invalid

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
_LEAF, _NODE = sha256(b"\x00"), sha256(b"\x01")

NodeReader = Callable[[int, int], bytes]
"""(height, index) → hash of the complete subtree over leaves [index << height, (index + 1) << height)."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256 of 0x00 and the entry."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """The hash of each; a third faster than one by one, as no entry is copied behind its 0x00."""
    hashes = []
    for entry in entries:
        state = _LEAF.copy()
        state.update(entry)
        hashes.append(state.digest())
    return hashes


def node_hashes(row: Sequence[bytes]) -> list[bytes]:
    """The parents of a row of nodes, two by two; the last of an odd number is left out."""
    hashes = []
    for pair in map(add, row[::2], row[1::2]):
        state = _NODE.copy()
        state.update(pair)
        hashes.append(state.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of 0x01 and the two children."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The complete subtrees that cover a tree, widest first: all that appending needs, and no more."""

    __slots__ = ("_stack", "size")

    def __init__(self, size: int = 0, stack: Iterable[bytes] = ()) -> None:
        self.size = size
        self._stack = list(stack)

    def copy(self) -> Frontier:
        """An independent copy, so that a batch that fails can be forgotten."""
        return Frontier(self.size, self._stack)

    def extend(self, leaves: Sequence[bytes]) -> list[list[bytes]]:
        """Add leaves by their hashes; the nodes that this completes, by their height, the leaves themselves first."""
        rows, row, size, left_over = list[list[bytes]](), list(leaves), self.size, list[bytes]()
        while row:
            rows.append(row)
            if size & 1:
                row = [self._stack.pop(), *row]
            if len(row) & 1:
                left_over.append(row[-1])
            row = node_hashes(row)
            size >>= 1
        self._stack += reversed(left_over)
        self.size += len(leaves)
        return rows

    def root(self) -> bytes:
        """The root of the whole tree."""
        if not self._stack:
            return EMPTY_ROOT
        node = self._stack[-1]
        for left in reversed(self._stack[:-1]):
            node = node_hash(left, node)
        return node


def subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """(height, index) of the complete subtrees that cover the leaves [start, end), from left to right."""
    found = []
    while start < end:
        widest = (end - start).bit_length() - 1
        height = min(widest, (start & -start).bit_length() - 1) if start else widest
        found.append((height, start >> height))
        start += 1 << height
    return found


def range_root(read: NodeReader, start: int, end: int) -> bytes:
    """The hash of the leaves [start, end), where start is a multiple of a power of two not below end - start."""
    nodes = [read(height, index) for height, index in subtrees(start, end)]
    if not nodes:
        return EMPTY_ROOT
    root = nodes.pop()
    while nodes:
        root = node_hash(nodes.pop(), root)
    return root


def inclusion_proof(read: NodeReader, index: int, size: int) -> list[bytes]:
    """Sibling hashes from the leaf up to the root of the tree of `size`, as RFC 6962 section 2.1.1."""
    if not 0 <= index < size:
        raise Invalid(f"no entry {index} in a tree of {size}", code="no_such_entry")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return [range_root(read, *span) for span in reversed(path)]


def consistency_proof(read: NodeReader, old: int, new: int) -> list[bytes]:
    """Hashes that show the tree of `old` leaves to be a prefix of that of `new`, as RFC 6962 section 2.1.2."""
    if not 0 < old <= new:
        raise Invalid(f"no proof from size {old} to {new}", code="no_such_entry")
    path, start, end, is_whole = [], 0, new, True
    while end != old:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start, is_whole = middle, False
    if not is_whole:
        path.append((start, end))
    return [range_root(read, *span) for span in reversed(path)]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that the proof leads to, or None if its length cannot be right. RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size:
        return None
    node, last = leaf, size - 1
    for sibling in proof:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return node if last == 0 else None


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree grew by appending only. RFC 9162 section 2.1.4.2."""
    if old == new:
        return not proof and old_root == new_root
    if not 0 < old < new:
        return False
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    index, last = old - 1, new - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
