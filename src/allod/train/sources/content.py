"""What a source holds, and the digest that a recipe pins it by.

The digest is of the members that are read, not of the archive around them: Debian packs the same text again and again,
and what was trained on is the text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from allod.core.canonical import JsonValue, canonical_json, sha256_hex
from allod.core.errors import Invalid
from allod.prove.folders import read_plain_file
from allod.train.corpus.documents import MAX_DOCUMENT_BYTES
from allod.train.recipe import Source
from allod.train.sources.archives import read_members
from allod.train.sources.fetch import Package, download, read_package
from allod.train.sources.kinds import reader_of
from allod.train.sources.plain_text import NAMES


@dataclass(frozen=True, slots=True)
class Content:
    """Members by path, their digest (64 hexadecimal digits), and the archive that they were in, if any."""

    members: Mapping[str, bytes]
    sha256: str
    archive: Path | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


def content_digest(members: Mapping[str, bytes]) -> str:
    """SHA-256 of the canonical JSON of `[[path, sha256], …]`, sorted by path."""
    rows: list[JsonValue] = [[path, sha256_hex(members[path])] for path in sorted(members)]
    return sha256_hex(canonical_json(rows))


def content_of(source: Source, *, given: Path, cache: Path, beside: Path) -> Content:
    """What the source holds, checked against what the recipe pins.

    A package is looked for in `given`, the operator's folder, then in `cache`, then fetched into it. A path that is not
    absolute is looked for `beside` the recipe. Raises Invalid (`source_digest`, and what the archive's faults are),
    Unavailable, OSError.
    """
    if source.path:
        files = Files(beside, source)
        return replace(_checked(source, files, None), unread=files.unread)
    package = read_package(source.package)
    if brought := package.files_in(given):
        return _unpacked(source, brought[0], brought[0])
    for archive in package.files_in(cache):
        with suppress(Invalid):  # of another version, or damaged: it is fetched anew
            return _unpacked(source, archive, archive)
    return _fetched(source, package, cache)


def _fetched(source: Source, package: Package, cache: Path) -> Content:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as folder:
        archive = download(package, Path(folder))
        content = _unpacked(source, archive, cache / archive.name)
        archive.replace(cache / archive.name)
    return content


def _unpacked(source: Source, archive: Path, kept_as: Path) -> Content:
    """A package's members; those that its reader would have read, were they not hidden, are `unread`."""
    reads = reader_of(source).wants
    unread: dict[str, str] = {}

    def wants(member: str) -> bool:
        if reads(member) and is_hidden(member):
            unread[member] = "hidden"
        return reads(member) and not is_hidden(member)

    return replace(_checked(source, read_members(archive, wants), kept_as), unread=unread)


def _checked(source: Source, members: Mapping[str, bytes], archive: Path | None) -> Content:
    where = archive.name if archive else source.path
    if not members:
        raise Invalid(
            f"source {source.name}: {where} holds nothing that the kind {source.kind} reads",
            code="source_empty",
            hint="name the kind that the files are of; the kind text reads .txt and .md files",
        )
    digest = content_digest(members)
    if source.sha256 and digest != source.sha256:
        raise Invalid(
            f"source {source.name}: the content of {where} is not what the recipe pins",
            code="source_digest",
            param="sha256",
            hint=f"its digest is {digest}; if this is the text that you mean, write that into the recipe as sha256",
        )
    return Content(members, digest, archive)


class Files(Mapping[str, bytes]):
    """The files below a source's path that its reader wants, by path; each is read when it is asked for.

    `unread` has all others, and why: hidden files and folders, backups and what systems leave behind are no documents.
    """

    def __init__(self, beside: Path, source: Source) -> None:
        path = PurePosixPath(source.path)
        if not path.name or ".." in path.parts:
            raise _path_refused(source, "it leads elsewhere")
        self._source, self._wants = source, reader_of(source).wants
        self._digests: dict[str, str] = {}  # of what was read once: what is read again must be the same
        self._top = beside / path
        steps = 1 if path.is_absolute() else len(path.parts)  # above these, links are how the machine is arranged
        if any(step.is_symlink() for step in (self._top, *self._top.parents)[:steps]):
            raise _path_refused(source, "it is a link")
        if not self._top.exists():
            raise _path_refused(source, "there is nothing there")
        self.unread: dict[str, str] = {}
        if self._top.is_file():
            if source.kind == "text" and not self._wants(self._top.name):
                raise _path_refused(source, f"the kind text reads {' and '.join(NAMES)} files, a document each")
            self._paths = {self._top.name: self._top}
        else:
            self._paths = dict(sorted(self._below()))

    def __getitem__(self, path: str) -> bytes:
        file = self._paths[path]
        if file.stat().st_size > MAX_DOCUMENT_BYTES:
            raise Invalid(
                f"source {self._source.name}: {path} is longer than {MAX_DOCUMENT_BYTES >> 20} MiB",
                code="document_too_large",
                hint="cut it at its chapters or pages: a document is the unit that lineage leads back to",
            )
        content = read_plain_file(file, limit_bytes=MAX_DOCUMENT_BYTES)
        if self._digests.setdefault(path, sha256_hex(content)) != sha256_hex(content):
            raise Invalid(
                f"source {self._source.name}: {path} changed while it was read",
                code="source_changed",
                hint="start again once nobody writes to it",
            )
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def _below(self) -> Iterator[tuple[str, Path]]:
        for file in self._top.rglob("*"):
            name = file.relative_to(self._top).as_posix()
            if file.is_dir() and not file.is_symlink():
                continue
            if is_hidden(name):
                self.unread[name] = "hidden"
                continue
            if not self._wants(name):
                self.unread[name] = f"not of the kind {self._source.kind}"
                continue
            if file.is_symlink() or not file.is_file():
                raise _path_refused(self._source, f"{name} is a link or no plain file")
            yield name, file


def is_hidden(name: str) -> bool:
    """Whether a path below a source is hidden, a backup, or what some system left there."""
    parts = name.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or (
        parts[-1].endswith(("~", ".bak", ".swp")) or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def _path_refused(source: Source, why: str) -> Invalid:
    return Invalid(
        f"source {source.name}: the path {source.path!r} is refused: {why}",
        code="source_path",
        param="path",
        hint="give a file or a folder of .txt and .md files, from the recipe's folder on and without links",
    )
