"""What comes before the stage `source`, and its verdict after: fetch, have unpacked and have read, check digests.

    fetch    here, the one thing that needs the network: an archive, as bytes
    unpack   in a sealed process of its own, one package at a time
    check    here: what was unpacked is hashed and compared with what the recipe pins
    read     in a sealed process of its own: documents of what was checked, and of nothing else
    check    here: that it read what was to be read

Nothing here parses what came from outside.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from allod.core.digests import digest_of_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.files.plain import digest_of_plain_file, read_plain_file
from allod.core.shown_text import make_plain
from allod.prove.releases.lineage import MAX_LIST_BYTES
from allod.train.outputs import remove
from allod.train.recipe import Recipe, Source
from allod.train.sealed_stage import StageResult
from allod.train.sources.bounds import BOUNDS
from allod.train.sources.content import TextAmount, content_digest, read_members, row_of
from allod.train.sources.fetch import Package, download, read_package
from allod.train.sources.files import Files, path_of
from allod.train.sources.kinds import reader_of
from allod.train.sources.licences import check_licence
from allod.train.sources.unpacked import UnpackedFiles
from allod.train.stage_task import Limits, StageProgress

MAX_NAMED = 10  # files that were not read, of a source


@dataclass(frozen=True, slots=True)
class SourceFolders:
    """`given` is the operator's folder of packages, `cache` ours, `beside` the recipe's; `scratch` is made and deleted
    again."""

    given: Path
    cache: Path
    beside: Path
    scratch: Path


class Perform(Protocol):
    """Runs a stage in a sealed process."""

    def __call__(self, stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        """Raises what `run_sealed` raises."""
        ...


@dataclass(frozen=True, slots=True)
class _HeldSource:
    """What a source holds, where it is, and the archive that it was in, if any."""

    path: Path
    members: Files | UnpackedFiles
    archive: Path | None = None


def content_digests(recipe: Recipe, *, beside: Path) -> Mapping[str, str]:
    """The content digest of every source, by name: what a package is pinned to, and what a path holds now.

    `beside` is the recipe's folder. Reads no package and fetches nothing. Raises Invalid.
    """
    check_sources(recipe)
    return {
        source.name: content_digest(Files(source, path_of(source, beside=beside))) if source.path else source.sha256
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


def collect(
    recipe: Recipe,
    digests: Mapping[str, str],
    folders: SourceFolders,
    output: Path,
    *,
    perform: Perform,
    report: StageProgress,
) -> StageResult:
    """Have the recipe's documents, `sources.json` and `index.jsonl` written into `output`.

    `digests` are `content_digests`, which the stage's key was made of. The facts name the archives that packages came
    in and what was not read; what is written depends on content alone. Raises Invalid for digests and files that are
    not in order, Unavailable for a package that cannot be had, and what `perform` raises.
    """
    collector = _Collector(folders, perform)
    try:
        found: dict[str, _HeldSource] = {}
        for number, source in enumerate(recipe.sources):
            report(f"fetching {source.name}", number, len(recipe.sources))
            found[source.name] = collector.hold(source, digests[source.name])
        inputs = {name: one.path for name, one in found.items()}
        result = perform("source", inputs, output, _limits(found))
    finally:
        remove(folders.scratch)
    _check_read(recipe, digests, output / "sources.json")
    facts = {**result.facts, **_facts(found), "num_unread": sum(len(item.members.unread) for item in found.values())}
    return replace(result, facts=facts, cpu_s=result.cpu_s + collector.cpu_s)


def _limits(found: Mapping[str, _HeldSource]) -> Limits:
    return BOUNDS.reading(
        num_files=sum(len(item.members) for item in found.values()),
        num_bytes=sum(item.members.num_bytes for item in found.values()),
    )


class _Collector:
    """Gets hold of sources, one after the other."""

    def __init__(self, folders: SourceFolders, perform: Perform) -> None:
        self._folders = folders
        self._perform = perform
        self.cpu_s = 0.0  # of unpacking

    def hold(self, source: Source, digest: str) -> _HeldSource:
        """What the source holds, checked against what the recipe pins.

        A package is looked for in the operator's folder, then in ours, then fetched into it.
        """
        if source.path:
            path = path_of(source, beside=self._folders.beside)
            return _check(source, _HeldSource(path, read_members(source, path)), digest, where=source.path)
        package = read_package(source.package)
        if brought := package.files_in(self._folders.given):
            return self._unpack(source, brought[0], brought[0])
        for archive in package.files_in(self._folders.cache):
            with suppress(Invalid):  # of another version, or damaged: it is fetched anew
                return self._unpack(source, archive, archive)
        return self._fetch(source, package)

    def _fetch(self, source: Source, package: Package) -> _HeldSource:
        cache = self._folders.cache
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as folder:
            archive = download(package, Path(folder))
            found = self._unpack(source, archive, cache / archive.name)
            archive.replace(cache / archive.name)
        return found

    def _unpack(self, source: Source, archive: Path, kept_as: Path) -> _HeldSource:
        folder = self._folders.scratch / source.name
        remove(folder)
        folder.mkdir(parents=True, mode=0o700)
        try:
            self.cpu_s += self._perform("unpack", {source.name: archive}, folder, BOUNDS.limits_of_package()).cpu_s
        except Unavailable as error:
            if error.code not in ("stage_limit", "stage_died"):
                raise
            raise Invalid(
                f"source {source.name}: {archive.name} is refused: {error.message}",
                code="archive_unsafe",
                hint=error.hint or "a package of text has no need of that; take it from the official place",
            ) from error
        found = _HeldSource(folder, read_members(source, folder), kept_as)
        return _check(source, found, content_digest(found.members), where=archive.name)


def _check(source: Source, found: _HeldSource, digest: str, *, where: str) -> _HeldSource:
    """Raise Invalid unless it holds something, and that is what the recipe pins."""
    if not found.members:
        raise Invalid(
            f"source {source.name}: {where} holds nothing that the kind {source.kind} reads",
            code="source_empty",
            hint="name the kind that the files are of; the kind text reads .txt and .md files",
        )
    if source.sha256 and digest != source.sha256:
        raise Invalid(
            f"source {source.name}: the content of {where} is not what the recipe pins",
            code="source_digest",
            param="sha256",
            hint=f"its digest is {digest}; if this is the text that you mean, write that into the recipe as sha256",
        )
    return found


def _check_read(recipe: Recipe, digests: Mapping[str, str], record: Path) -> None:
    """What was read must be what the stage's key names: files may have changed in between. Raises Invalid."""
    try:
        rows = json.loads(read_plain_file(record, limit_bytes=MAX_LIST_BYTES))
        for source, row in zip(recipe.sources, rows, strict=True):
            if row["sha256"] != digests[source.name]:
                raise Invalid(
                    f"source {source.name} changed while it was read",
                    code="source_changed",
                    hint="start again once nobody writes to it",
                )
            counted = TextAmount(int(row["num_documents"]), int(row["num_bytes"]))
            if row != row_of(source, digests[source.name], counted):
                raise ValueError("the row is another source's")
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise Invalid(f"{record.name} does not list the recipe's sources", code="stage_output") from error


def _facts(found: Mapping[str, _HeldSource]) -> dict[str, str]:
    """The archives, and the files that were not read: the first by name with their reasons, then how many more."""
    facts: dict[str, str] = {}
    for source, one in found.items():
        if unread := one.members.unread:
            said = [make_plain(f"{name} ({unread[name]})", limit=120) for name in sorted(unread)[:MAX_NAMED]]
            more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
            facts[f"unread_{source}"] = f"{len(unread)} not read: {', '.join(said)}{more}"
        if one.archive is not None:
            facts[f"archive_{source}"] = f"{one.archive.name} {digest_of_hex(digest_of_plain_file(one.archive))}"
    return facts
