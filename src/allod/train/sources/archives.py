"""Members of a package, in memory: nothing is unpacked onto the disk, linked or run.

A package comes from outside, so every size is bounded before it is believed and every fault is one clear error.
Debian: an `ar` archive (deb(5)) with the files in `data.tar.xz`. Python: a wheel, which is a zip archive.
"""

from __future__ import annotations

import errno
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from allod.core.errors import Invalid

MAX_ARCHIVE_BYTES = 256 << 20
MAX_CONTENT_BYTES = 512 << 20  # of all members, unpacked
MAX_MEMBER_BYTES = 64 << 20
MAX_MEMBERS = 100_000
_XZ_MEMORY_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20

Wants = Callable[[str], bool]

_DAMAGE = (  # what the libraries that unpack raise for bytes that are no archive
    *(tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, zlib.error, EOFError),
    *(NotImplementedError, RuntimeError),  # a form of zip that is unknown or encrypted; deep recursion
    *(ValueError, OverflowError, LookupError, struct.error),  # what headers say is no number, no name
)


def read_members(archive: Path, wants: Wants) -> dict[str, bytes]:
    """The content of the regular files in `archive` whose path `wants` says yes to, by path.

    Raises Invalid (`archive_damaged`, `archive_too_large`, `archive_unsafe`) and OSError.
    """
    if archive.stat().st_size > MAX_ARCHIVE_BYTES:
        raise _too_large(archive.name)
    read = {".deb": _debian_files, ".whl": _wheel_files}.get(archive.suffix)
    if read is None:
        raise _damage(archive.name, "it is neither a .deb nor a .whl")
    members: dict[str, bytes] = {}
    try:
        for name, content in read(archive, wants):
            if name in members:
                raise _unsafe(archive.name, f"{name} is in it twice")
            members[name] = content
    except _DAMAGE as error:
        raise _damage(archive.name, str(error)) from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _damage(archive.name, "it names a place that no file has") from error
    return members


def _debian_files(archive: Path, wants: Wants) -> Iterator[tuple[str, bytes]]:
    stream = _Unpacked(archive.name, _data_member(archive))
    # tarfile asks a stream for `read` alone; the stream counts what comes out of it
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=_PIECE_BYTES) as tar:
        for count, member in enumerate(tar):
            _check_count(archive.name, count)
            name = member.name.removeprefix("./")
            if not wants(name):
                continue
            if not member.isreg() or member.issparse():  # holes take no room in the archive, and much in memory
                raise _unsafe(archive.name, f"{name} is no plain file")
            _check_member(archive.name, name, member.size)
            file = tar.extractfile(member)
            assert file is not None  # it is a regular file
            yield name, file.read()


def _data_member(archive: Path) -> bytes:
    """The xz-compressed tar archive with a Debian package's files."""
    with archive.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise _damage(archive.name, "it is no Debian package")
        while header := file.read(60):
            if header[58:] != b"`\n" or not header[48:58].strip().isdigit():
                raise _damage(archive.name, "a header in it is broken")
            name, size = header[:16].decode("latin-1").strip().rstrip("/"), int(header[48:58])
            if name == "data.tar.xz":
                content = file.read(min(size, MAX_ARCHIVE_BYTES))
                if len(content) != size:
                    raise _damage(archive.name, "it ends too soon")
                return content
            if name.startswith("data.tar"):
                raise _damage(archive.name, f"its files are in {name}, and only data.tar.xz is read")
            file.seek(size + size % 2, io.SEEK_CUR)
    raise _damage(archive.name, "it ends too soon")


class _Unpacked:
    """An xz stream that is unpacked as it is read, as far as the bounds allow."""

    def __init__(self, archive: str, content: bytes) -> None:
        self._archive = archive
        self._content = content
        self._xz = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        self._ready = bytearray()
        self._num_bytes = 0

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and not self._xz.eof:
            piece = self._xz.decompress(self._content, _PIECE_BYTES)
            self._content = b""
            if not piece and self._xz.needs_input:
                raise _damage(self._archive, "it ends too soon")
            self._num_bytes += len(piece)
            if self._num_bytes > MAX_CONTENT_BYTES:
                raise _too_large(self._archive)
            self._ready += piece
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken


def _wheel_files(archive: Path, wants: Wants) -> Iterator[tuple[str, bytes]]:
    num_bytes = 0
    with zipfile.ZipFile(archive) as wheel:
        for count, member in enumerate(wheel.infolist()):
            _check_count(archive.name, count)
            if not wants(member.filename):
                continue
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise _unsafe(archive.name, f"{member.filename} is no plain file")
            _check_member(archive.name, member.filename, member.file_size)
            num_bytes += member.file_size
            if num_bytes > MAX_CONTENT_BYTES:
                raise _too_large(archive.name)
            content = wheel.read(member)  # as much as the zip says, at most
            if len(content) != member.file_size:
                raise _damage(archive.name, f"{member.filename} is not as long as it says")
            yield member.filename, content


def _check_count(archive: str, count: int) -> None:
    if count >= MAX_MEMBERS:
        raise _too_large(archive)


def _check_member(archive: str, name: str, size: int) -> None:
    if "\\" in name or not all(name.split("/")) or ".." in name.split("/"):
        raise _unsafe(archive, f"{name} leads out of it")
    if size > MAX_MEMBER_BYTES:
        raise _too_large(archive)


def _damage(archive: str, why: str) -> Invalid:
    return Invalid(
        f"{archive} cannot be unpacked: {why}",
        code="archive_damaged",
        hint="delete it and run again, so that it is fetched anew; or repack it (dpkg-deb -Zxz makes data.tar.xz)",
    )


def _too_large(archive: str) -> Invalid:
    return Invalid(
        f"{archive} holds more than is unpacked",
        code="archive_too_large",
        hint=f"bounds: {MAX_MEMBER_BYTES >> 20} MiB a file, {MAX_CONTENT_BYTES >> 20} MiB in all, {MAX_MEMBERS} files",
    )


def _unsafe(archive: str, why: str) -> Invalid:
    return Invalid(
        f"{archive} is refused: {why}",
        code="archive_unsafe",
        hint="a package of text has no need of that; take it from the official place",
    )
