"""What is kept of a model's stages: which sources, which documents, and what was dropped on the way.

All of it is read from files whose digests were checked; still every line is bounded and refused if it is no record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.core.errors import Invalid
from allod.core.shown_text import is_plain

MAX_FILE_BYTES = 64 << 20  # of a file that is read whole
MAX_LINE_BYTES = 1 << 20

TRAIN, VALIDATION = "train", "validation"
"""What a document was learnt from, or held out, as `split` says it."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Where documents came from, and on what terms; `sha256` is of the source's content."""

    name: str
    kind: str
    licence: str
    jurisdiction: str
    origin: str
    date: str
    package: str
    sha256: str
    num_documents: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document; `sha256` is of its text as its source had it. `split` is empty where none is said."""

    id: str
    sha256: str
    split: str = ""
    num_tokens: int = 0
    num_bytes: int = 0

    @property
    def source(self) -> str:
        """The source that it came from."""
        return self.id.partition("/")[0]


@dataclass(frozen=True, slots=True)
class DroppedDocument:
    """Why a document was dropped, and the id of the one that stays instead of it, where there is one."""

    rule: str
    instead: str = ""


def read_sources(path: Path) -> tuple[SourceRecord, ...]:
    """The sources in a sources.json. Raises Invalid (`bad_record`)."""
    rows = read_json(path)
    try:
        return tuple(
            SourceRecord(
                **{field: _text(row[field]) for field in _SOURCE_TEXTS},
                num_documents=int(row["num_documents"]),
                num_bytes=int(row["num_bytes"]),
            )
            for row in rows
        )
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _refusal(path, "a source does not say what it must") from error


_SOURCE_TEXTS = ("name", "kind", "licence", "jurisdiction", "origin", "date", "package", "sha256")


def read_records(path: Path) -> Iterator[DocumentRecord]:
    """The documents in an index.jsonl or a documents.jsonl, in its order. Raises Invalid (`bad_record`)."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            try:
                row = json.loads(line)
                yield DocumentRecord(
                    id=_text(row["id"]),
                    sha256=_text(row["sha256"]),
                    split=_split(row.get("split", "")),
                    num_tokens=int(row.get("num_tokens", 0)),
                    num_bytes=int(row.get("num_bytes", row.get("bytes", 0))),
                )
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
                raise _refusal(path, f"line {number} is no document") from error


def read_dropped(path: Path) -> Mapping[str, DroppedDocument]:
    """The documents that a stage dropped, by id, from its report.json. Raises Invalid (`bad_record`)."""
    report = read_json(path)
    try:
        return {
            _text(row["id"]): DroppedDocument(_text(row["rule"]), _text(row.get("of", ""))) for row in report["dropped"]
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise _refusal(path, "it does not say what was dropped") from error


def read_json(path: Path) -> Any:
    """A JSON file of bounded length. Raises Invalid (`bad_record`)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _refusal(path, str(error.strerror)) from error
    if len(data) > MAX_FILE_BYTES:
        raise _refusal(path, f"longer than {MAX_FILE_BYTES} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, "no JSON") from error


def _text(value: Any) -> str:
    """Text that may be shown: it was written by a process that read the corpus."""
    if not isinstance(value, str) or not is_plain(value):
        raise TypeError("not text")
    return value


def _split(value: Any) -> str:
    if value not in ("", TRAIN, VALIDATION):
        raise ValueError("no split")
    return str(value)


def _refusal(path: Path, message: str) -> Invalid:
    return Invalid(f"{path.parent.name}/{path.name}: {message}", code="bad_record")
