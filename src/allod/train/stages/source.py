"""The stage `source`: from what the recipe's sources hold to documents, with where each comes from.

What was fetched and unpacked before is in the inputs, by source (sources/collect.py); readers parse it here, inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.train.corpus.documents import Document, DocumentWriter, new_document
from allod.train.recipe import Source
from allod.train.sources.bounds import BOUNDS
from allod.train.sources.content import TextAmount, content_digest, read_members, row_of
from allod.train.sources.kinds import reader_of
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

_LOOK_EVERY = 100  # documents


def run(task: StageTask) -> StageFacts:
    """Write the documents, `sources.json` and `index.jsonl`.

    Raises Invalid for documents that are not in order, and for more text than is taken.
    """
    rows: list[JsonValue] = []
    total = TextAmount()
    sources = task.recipe.sources
    with DocumentWriter(task.output) as writer, (task.output / "index.jsonl").open("wb") as index:
        for number, source in enumerate(sources):
            task.report(f"reading {source.name}", number, len(sources))
            members = read_members(source, task.inputs[source.name])
            digest = content_digest(members)
            counted = _read(task, source, members, before=total, into=(writer, index))
            rows.append(row_of(source, digest, counted))
            total.documents += counted.documents
            total.bytes += counted.bytes
    (task.output / "sources.json").write_bytes(canonical_json(rows))
    task.report("documents read", len(sources), len(sources))
    return {"num_sources": len(rows), "num_documents": total.documents, "num_bytes": total.bytes}


def _read(
    task: StageTask,
    source: Source,
    members: Mapping[str, bytes],
    *,
    before: TextAmount,
    into: tuple[DocumentWriter, IO[bytes]],
) -> TextAmount:
    """Write the documents of one source; how much there was of it."""
    writer, index = into
    counted = TextAmount()
    for document in _documents(source, members):
        if counted.documents % _LOOK_EVERY == 0:
            stop_if_asked(task)
        num_bytes = len(document.text.encode("utf-8"))
        counted.documents += 1
        counted.bytes += num_bytes
        _check_bounds(source, counted, before)
        writer.write(document)
        index.write(_index_line(document, num_bytes))
    return counted


def _check_bounds(source: Source, counted: TextAmount, before: TextAmount) -> None:
    """Raise Invalid for more than is taken of one source, or of it and those `before`."""
    limit = BOUNDS.package_bytes if source.package else BOUNDS.folder_bytes
    if counted.bytes > limit:
        what = "its package becomes" if source.package else "its files are"
        code = "archive_too_large" if source.package else "source_too_large"
        raise Invalid(f"source {source.name}: {what} more than {limit >> 20} MiB of text", code=code)
    if counted.documents > BOUNDS.source_documents:
        raise Invalid(
            f"source {source.name}: it holds more than {BOUNDS.source_documents:,} documents", code="source_too_large"
        )
    if before.bytes + counted.bytes > BOUNDS.recipe_bytes:
        raise Invalid(
            f"source {source.name}: with it the recipe has more than {BOUNDS.recipe_bytes >> 20} MiB of text",
            code="source_too_large",
        )


def _documents(source: Source, members: Mapping[str, bytes]) -> Iterator[Document]:
    names: set[str] = set()
    for name, text in reader_of(source).read(members):
        if name in names:
            raise Invalid(f"source {source.name}: two documents are called {name}", code="document_twice")
        names.add(name)
        yield new_document(source.name, name, text)
    if not names:
        raise Invalid(f"source {source.name} holds no document", code="source_empty")


def _index_line(document: Document, num_bytes: int) -> bytes:
    line: JsonValue = {"id": document.id, "source": document.source, "sha256": document.sha256, "bytes": num_bytes}
    return canonical_json(line) + b"\n"
