"""The stage `source`: from the packages and files that a recipe names to documents, with where each comes from.

It fetches, so it is the one stage that is not sealed. An archive is opened within bounds before its content is checked
by digest; no document is made of what was not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.core.shown_text import made_plain
from allod.prove.folders import digest_of_plain_file
from allod.train.corpus.documents import Document, DocumentWriter, new_document
from allod.train.recipe import Recipe, Source
from allod.train.sources.archives import MAX_CONTENT_BYTES
from allod.train.sources.content import Content, Files, content_digest, content_of
from allod.train.sources.fetch import read_package
from allod.train.sources.kinds import reader_of
from allod.train.sources.licences import check_licence
from allod.train.work import Facts, Report

MAX_NAMED = 10  # files that were not read, of a source


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much text is taken, in bytes of UTF-8 and in documents; folders may be large, packages are small."""

    package_bytes: int = MAX_CONTENT_BYTES  # whatever they were packed into
    folder_bytes: int = 64 << 30
    recipe_bytes: int = 256 << 30
    source_documents: int = 10_000_000


BOUNDS = Bounds()


@dataclass(slots=True)
class _Counted:
    documents: int = 0
    bytes: int = 0


def content_digests(recipe: Recipe, *, beside: Path) -> Mapping[str, str]:
    """The content digest of every source, by name: what a package is pinned to, and what a path holds now.

    `beside` is the recipe's folder. Reads no package and fetches nothing. Raises what `collect` would for the recipe.
    """
    check_sources(recipe)
    return {
        source.name: content_digest(Files(beside, source)) if source.path else source.sha256
        for source in recipe.sources
    }


def check_sources(recipe: Recipe) -> None:
    """Raise Invalid for a source of unknown kind, terms or package, before anything is fetched."""
    for source in recipe.sources:
        reader_of(source)
        check_licence(source)
        for name in ("jurisdiction", "origin", "date"):
            if not getattr(source, name).strip():
                raise Invalid(
                    f"source {source.name}: {name} is missing",
                    code="source_terms",
                    param=name,
                    hint="every source says its licence, jurisdiction, origin and date",
                )
        if source.package:
            read_package(source.package)
            if not source.sha256:
                raise Invalid(
                    f"source {source.name}: the package's content is not pinned", code="source_terms", param="sha256"
                )


def collect(recipe: Recipe, *, given: Path, cache: Path, output: Path, report: Report, beside: Path) -> Facts:
    """Write the recipe's documents, `sources.json` and `index.jsonl` into `output`.

    Packages come from `given`, where the operator may have put them, from `cache` or from their registries; paths are
    `beside` the recipe. The facts name the archives that packages came in; what is written depends on content alone.
    Raises Invalid for terms, digests and files that are not in order, Unavailable for a package that cannot be had.
    """
    check_sources(recipe)
    rows: list[JsonValue] = []
    facts: dict[str, int | float | str | None] = {}
    total, num_unread = _Counted(), 0
    with DocumentWriter(output) as writer, (output / "index.jsonl").open("wb") as index:
        for number, source in enumerate(recipe.sources):
            report(f"reading {source.name}", number, len(recipe.sources))
            content = content_of(source, given=given, cache=cache, beside=beside)
            counted = _Counted()
            for document in _documents(source, content):
                num_bytes = len(document.text.encode("utf-8"))
                counted.documents += 1
                counted.bytes += num_bytes
                _check_bounds(source, counted, total)
                writer.write(document)
                index.write(_index_line(document, num_bytes))
            rows.append(_row(source, content, counted))
            facts.update(_unread_facts(source, content))
            num_unread += len(content.unread)
            total.documents += counted.documents
            total.bytes += counted.bytes
            if content.archive is not None:
                facts[f"archive_{source.name}"] = (
                    f"{content.archive.name} sha256:{digest_of_plain_file(content.archive)}"
                )
    (output / "sources.json").write_bytes(canonical_json(rows))
    report("documents read", len(recipe.sources), len(recipe.sources))
    counts = {"num_documents": total.documents, "num_bytes": total.bytes, "num_unread": num_unread}
    return {**facts, "num_sources": len(rows), **counts}


def _check_bounds(source: Source, counted: _Counted, before: _Counted) -> None:
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


def _unread_facts(source: Source, content: Content) -> dict[str, str]:
    """The files that were not read, with the reason of each: the first by name, then how many more there are."""
    if not content.unread:
        return {}
    names = sorted(content.unread)
    said = [f"{made_plain(name, limit=80)} ({content.unread[name]})" for name in names[:MAX_NAMED]]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return {f"unread_{source.name}": f"{len(names)} not read: {', '.join(said)}{more}"}


def _documents(source: Source, content: Content) -> Iterator[Document]:
    names: set[str] = set()
    for name, text in reader_of(source).read(content.members):
        if name in names:
            raise Invalid(f"source {source.name}: two documents are called {name}", code="document_twice")
        names.add(name)
        yield new_document(source.name, name, text)
    if not names:
        raise Invalid(f"source {source.name} holds no document", code="source_empty")


def _index_line(document: Document, num_bytes: int) -> bytes:
    line: JsonValue = {"id": document.id, "source": document.source, "sha256": document.sha256, "bytes": num_bytes}
    return canonical_json(line) + b"\n"


def _row(source: Source, content: Content, counted: _Counted) -> JsonValue:
    return {
        "name": source.name,
        "kind": source.kind,
        "licence": source.licence,
        "jurisdiction": source.jurisdiction,
        "origin": source.origin,
        "date": source.date,
        "package": source.package,
        "sha256": content.sha256,
        "num_documents": counted.documents,
        "num_bytes": counted.bytes,
        "tier": source.tier,
        "markings": list(source.markings),
    }
