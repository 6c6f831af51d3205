"""Tree heads: the signed size and root of a log, in the text form that C2SP calls a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.prove.formats.encodings import from_base64, from_decimal, to_base64
from allod.prove.formats.merkle import HASH_BYTES
from allod.prove.formats.notes import Note, parse_note


@dataclass(frozen=True, slots=True)
class TreeHead:
    """`size` leaves under `root` (32 bytes) in the log named `origin`."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text that is signed."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"

    @classmethod
    def of(cls, note: Note) -> TreeHead:
        """The head in a note that somebody has still to verify. Extension lines are refused. Raises Invalid."""
        lines = note.text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise Invalid("not a tree head: origin, size and root are its only lines", code="bad_head")
        root = from_base64(lines[2], "the root")
        if len(root) != HASH_BYTES:
            raise Invalid("the root is not 32 bytes", code="bad_head")
        return cls(lines[0], from_decimal(lines[1], "the tree size"), root)

    @classmethod
    def of_signed(cls, note: str) -> TreeHead:
        """The head in the text of a signed note. Raises Invalid; the signature is still to be verified."""
        return cls.of(parse_note(note))
