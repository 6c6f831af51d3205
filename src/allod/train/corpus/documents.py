"""Documents on their way through the stages: JSON lines, one or more files per source, in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from allod.core.canonical import canonical_json
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.shown_text import is_plain, make_plain

MAX_FILE_BYTES = 64 << 20  # begin another file past this
MAX_DOCUMENT_BYTES = 32 << 20
MAX_NAME_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `id` is `<source>/<name>`; `sha256` is of the text as its source had it, and stays through cleaning."""

    id: str
    source: str
    text: str
    sha256: str


def new_document(source: str, name: str, text: str) -> Document:
    """A document as it comes from its source. Raises Invalid for one of size beyond bounds, or with a name that would
    deceive whoever reads it."""
    if not is_plain(name) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise Invalid(
            f"{source} holds a document whose name has control characters, or more than {MAX_NAME_LENGTH}",
            code="document_name",
            hint=f"rename {make_plain(name, limit=MAX_NAME_LENGTH)}",
        )
    data = text.encode("utf-8")
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Invalid(
            f"{source}/{name} is longer than {MAX_DOCUMENT_BYTES} bytes",
            code="document_too_large",
            hint="cut it at its chapters or pages: a document is the unit that lineage leads back to",
        )
    return Document(f"{source}/{name}", source, text, sha256_hex(data))


class DocumentWriter:
    """Writes documents into `folder`: `<source>-00000.jsonl` and on. Documents of a source come together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}
        self._file: IO[bytes] | None = None
        self._source = ""

    def write(self, document: Document) -> None:
        """Append one document."""
        line = canonical_json(
            {"id": document.id, "sha256": document.sha256, "source": document.source, "text": document.text}
        )
        if self._file is None or self._source != document.source or self._file.tell() + len(line) > MAX_FILE_BYTES:
            self._begin(document.source)
        assert self._file is not None
        self._file.write(line + b"\n")

    def _begin(self, source: str) -> None:
        self.close()
        number = self._files.get(source, 0)
        self._files[source] = number + 1
        self._source = source
        self._file = (self._folder / f"{source}-{number:05}.jsonl").open("wb")

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def read_documents(folder: Path) -> Iterator[Document]:
    """Every document of a stage's folder, in the order of file names and lines. Raises Invalid for a damaged line."""
    for path in sorted(folder.glob("*-[0-9][0-9][0-9][0-9][0-9].jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    value = json.loads(line)
                    yield Document(value["id"], value["source"], value["text"], value["sha256"])
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise Invalid(f"{path.name}, line {number}: no document", code="documents_damaged") from error
