"""A source's own files: those below its path that its reader wants, and all others with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.files.plain import read_plain_file
from allod.core.shown_text import make_plain
from allod.train.corpus.documents import MAX_DOCUMENT_BYTES
from allod.train.recipe import Source
from allod.train.sources.kinds import reader_of
from allod.train.sources.plain_text import NAMES


def path_of(source: Source, *, beside: Path) -> Path:
    """Where its files are: `beside` the recipe, unless its path is absolute. Raises Invalid (`source_path`)."""
    path = PurePosixPath(source.path)
    if not path.name or ".." in path.parts:
        raise _path_refused(source, "it leads elsewhere")
    top = beside / path
    steps = 1 if path.is_absolute() else len(path.parts)  # above these, links are how the machine is arranged
    if any(step.is_symlink() for step in (top, *top.parents)[:steps]):
        raise _path_refused(source, "it is a link")
    if not top.exists():
        raise _path_refused(source, "there is nothing there")
    return top.absolute()


class Files(Mapping[str, bytes]):
    """The files below a source's path that its reader wants, by path; each is read when it is asked for.

    `unread` has all others, and why: hidden files and folders, backups and what systems leave behind are no documents.
    """

    def __init__(self, source: Source, top: Path) -> None:
        self._source, self._wants = source, reader_of(source).wants
        self._digests: dict[str, str] = {}  # of what was read once: what is read again must be the same
        self._top = top
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

    @property
    def num_bytes(self) -> int:
        """How long all files are now."""
        return sum(path.lstat().st_size for path in self._paths.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def _below(self) -> Iterator[tuple[str, Path]]:
        for file in self._entries():
            name = file.relative_to(self._top).as_posix()
            if is_hidden(name):
                self.unread[name] = "hidden"
            elif not self._wants(name):
                self.unread[name] = "a link" if file.is_symlink() else f"not of the kind {self._source.kind}"
            elif file.is_symlink() or not file.is_file():
                raise _path_refused(self._source, f"{name} is a link or no plain file")
            elif not is_text(name):
                raise _path_refused(self._source, f"the name {name!r} is not UTF-8")
            else:
                yield name, file

    def _entries(self) -> Iterator[Path]:
        """All below but folders. Raises Invalid for a folder that cannot be read: it may be full of documents."""

        def refuse(error: OSError) -> None:
            raise _path_refused(self._source, f"{error.filename} cannot be read ({error.strerror})") from error

        for folder, folders, files in os.walk(self._top, onerror=refuse):
            here = Path(folder)
            yield from (here / name for name in files)
            yield from (here / name for name in folders if (here / name).is_symlink())  # which are not walked into


def is_text(name: str) -> bool:
    """Whether a name is one in UTF-8, as documents' names are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hidden(name: str) -> bool:
    """Whether a path below a source is hidden, a backup, or what some system left there."""
    parts = name.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or (
        parts[-1].endswith(("~", ".bak", ".swp")) or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )


def _path_refused(source: Source, why: str) -> Invalid:
    return Invalid(
        f"source {source.name}: the path {source.path!r} is refused: {make_plain(why, limit=500)}",
        code="source_path",
        param="path",
        hint="give a file or a folder of .txt and .md files, from the recipe's folder on and without links",
    )
