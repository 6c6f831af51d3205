"""Bundles from a log: of a receipt in one that is open, or of many in one that was read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from allod.prove.formats.merkle import leaf_hash, root_from_inclusion
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import Bundle, Opening, encode_bundle
from allod.prove.tlog.log import Log
from allod.prove.tlog.reader import LogRead, read_proved
from allod.prove.tlog.tiles import derived_damage


def bundle_for(log: Log, receipt_id: str, salt: bytes | None = None) -> bytes:
    """The bundle of a receipt; `salt` puts an opening in it, for the tenant whose answer it is.

    What is handed out was checked first, so a damaged tile is met here and not by the user. Raises Invalid for an
    unknown id and Unavailable for damage.
    """
    position = log.find(receipt_id)
    statement, proof = log.statement(receipt_id), log.proof(position.leaf)
    head = TreeHead.of_signed(proof.note)
    if root_from_inclusion(leaf_hash(statement), position.leaf, head.size, proof.path) != head.root:
        raise derived_damage(f"the proof of entry {position.leaf} does not lead to the tree head")
    return encode_bundle(Bundle(statement, proof, None if salt is None else Opening(salt)))


def bundles_of(directory: Path, key: VerifierKey, read: LogRead, numbers: Collection[int]) -> Iterator[bytes]:
    """The bundles of these entries, without openings, in the tree that `read` ended with; one more pass.

    Raises Invalid (`log_damaged`) if the segment is no longer what was read.
    """
    return (encode_bundle(Bundle(*proved)) for proved in read_proved(directory, key, read, numbers))
