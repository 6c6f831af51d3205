"""Proof text: C2SP tlog-proof, one entry's place in a tree and the tree head that covers it."""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.prove.formats.encodings import from_base64, from_decimal, to_base64
from allod.prove.formats.merkle import HASH_BYTES

HEADER = "c2sp.org/tlog-proof@v1"
MAX_PATH = 63


@dataclass(frozen=True, slots=True)
class Proof:
    """`path` runs from the leaf's sibling to the root's child; `note` is the signed tree head, verbatim."""

    index: int
    path: tuple[bytes, ...]
    note: str

    @property
    def text(self) -> str:
        """The tlog-proof text."""
        lines = [HEADER, f"index {self.index}", *map(to_base64, self.path), ""]
        return "\n".join(lines) + "\n" + self.note

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Strict; extra data is refused because nothing here has a use for it. Raises Invalid."""
        top, blank, note = text.partition("\n\n")
        lines = top.split("\n")
        if not blank or len(lines) < 2 or len(lines) > 2 + MAX_PATH or lines[0] != HEADER:
            raise Invalid("not a tlog-proof", code="bad_proof")
        word, _, number = lines[1].partition(" ")
        if word != "index":
            raise Invalid("a tlog-proof has its index on the second line", code="bad_proof")
        path = tuple(from_base64(line, "a proof line") for line in lines[2:])
        if any(len(node) != HASH_BYTES for node in path):
            raise Invalid("a proof line is not 32 bytes", code="bad_proof")
        return cls(from_decimal(number, "the index"), path, note)
