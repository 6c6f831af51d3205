"""What a source holds, the digest that a recipe pins it by, and what `sources.json` says of it.

The digest is of the members that are read, not of the archive around them: Debian packs the same text again and again,
and what was trained on is the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import sha256_hex
from allod.train.recipe import Source
from allod.train.sources.files import Files
from allod.train.sources.unpacked import UnpackedFiles


@dataclass(slots=True)
class TextAmount:
    """How much text."""

    documents: int = 0
    bytes: int = 0


def read_members(source: Source, path: Path) -> Files | UnpackedFiles:
    """Its members by path: files of its own at `path`, or what was unpacked there. Raises Invalid."""
    return Files(source, path) if source.path else UnpackedFiles(path)


def content_digest(members: Mapping[str, bytes]) -> str:
    """SHA-256 of the canonical JSON of `[[path, sha256], …]`, sorted by path."""
    rows: list[JsonValue] = [[path, sha256_hex(members[path])] for path in sorted(members)]
    return sha256_hex(canonical_json(rows))


def row_of(source: Source, sha256: str, counted: TextAmount) -> JsonValue:
    """What `sources.json` says of a source."""
    return {
        "name": source.name,
        "kind": source.kind,
        "licence": source.licence,
        "jurisdiction": source.jurisdiction,
        "origin": source.origin,
        "date": source.date,
        "package": source.package,
        "sha256": sha256,
        "num_documents": counted.documents,
        "num_bytes": counted.bytes,
        "tier": source.tier,
        "markings": list(source.markings),
    }
