"""Compare: whether a log still is the one that a kept tree head speaks of, or how it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from allod.core.errors import Invalid
from allod.prove.formats.merkle import EMPTY_ROOT, is_consistent
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import parse_bundle
from allod.prove.tlog.reader import consistency_of, read_log
from allod.prove.tlog.recovery import read_signed_head

Verdict = Literal["same", "grown", "shorter", "rewritten", "not_signed", "damaged"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`kept` beside the log's own head, which is None where the log could not be read; `proof` of a log that grew."""

    verdict: Verdict
    said: str
    kept: TreeHead
    head: TreeHead | None = None
    proof: tuple[bytes, ...] = ()

    @property
    def is_consistent(self) -> bool:
        """Whether the log holds all that was kept."""
        return self.verdict in ("same", "grown")


def read_note(data: bytes) -> str:
    """The signed tree head in a file: a note, or the one in a bundle's proof. Raises Invalid; nothing is verified."""
    if data.lstrip()[:1] == b"{":
        return parse_bundle(data).proof.note
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid("neither a tree head nor a receipt's bundle", code="bad_head") from error


def compare(directory: Path, key: VerifierKey, note: str) -> Comparison:
    """The log in `directory` beside the tree head in `note`, which is of its origin. Takes no lock; reads it all twice.

    Raises Invalid (`bad_head`).
    """
    kept = TreeHead.of_signed(note)
    if read_signed_head(note, key) is None:
        return Comparison("not_signed", "the tree head is not signed by this log's key", kept)
    try:
        return _compare(directory, key, kept)
    except Invalid as error:  # a log that is gone is one that nobody can read
        return Comparison("damaged", error.message, kept)


def _compare(directory: Path, key: VerifierKey, kept: TreeHead) -> Comparison:
    read = read_log(directory, key, lambda number, entry: None, as_it_is=True)
    head = read.head
    if kept.size > head.size:
        missing = kept.size - head.size
        said = f"the log is shorter than what was kept: {missing} of {kept.size} entries are gone"
        return Comparison("shorter", said, kept, head)
    proof = tuple(consistency_of(directory, key, read, kept.size)) if 0 < kept.size < head.size else ()
    if kept.size == 0:
        is_prefix = kept.root == EMPTY_ROOT
    else:
        is_prefix = is_consistent(kept.size, kept.root, head.size, head.root, proof)
    if not is_prefix:
        said = f"the log was rewritten: its first {kept.size} entries are not those that were kept"
        return Comparison("rewritten", said, kept, head)
    if kept.size == head.size:
        return Comparison("same", f"the same log: {head.size} entries", kept, head)
    said = f"the log has grown by {head.size - kept.size} entries since, and holds all {kept.size} that were kept"
    return Comparison("grown", said, kept, head, proof)
