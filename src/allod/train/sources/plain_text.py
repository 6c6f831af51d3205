"""Text files: a document a file. What is something else under a text's name is refused, not learnt from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from allod.core.errors import Invalid

NAMES = (".txt", ".md")
_LOOKED_AT_LINES = 5  # enough to tell JSON lines from prose
_LOOKED_AT_BYTES = 4096
_MAX_LINE = 1 << 20
_SIGNATURES = {  # what a file begins with, and what it then is
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive (DOCX, ODT, EPUB and others are)",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"7z\xbc\xaf": "a 7z archive",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

_MARKS = {  # what other kinds of text begin with, after a byte order mark and white space, in lower case
    b"%pdf-": "a PDF",
    b"%!ps": "PostScript",
    b"{\\rtf": "RTF",
    b"<!doctype html": "HTML",
    b"<html": "HTML",
    b"<?xml": "XML",
}


def wants(member: str) -> bool:
    """Whether the reader needs this file."""
    return member.lower().endswith(NAMES)


def read(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Path and text of every file. Raises Invalid (`not_utf8`), (`not_plain_text`)."""
    for path in sorted(members):
        content = members[path]
        if kind := _other_kind(content):
            raise Invalid(
                f"{path} is no plain text: it is {kind}",
                code="not_plain_text",
                hint="turn it into text in UTF-8 first, a document a file, or take it out of the folder",
            )
        try:
            yield path, content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid(
                f"{path} is not UTF-8: the byte at {error.start} does not belong",
                code="not_utf8",
                hint="convert the file, for instance with iconv -f windows-1252 -t utf-8",
            ) from error


def _other_kind(content: bytes) -> str:
    """What the content is, if it is none of ours; empty for text."""
    for start, kind in _SIGNATURES.items():
        if content.startswith(start):
            return kind
    if b"\0" in content:
        return "binary, or UTF-16 or UTF-32 without a mark"
    begin = content[:_LOOKED_AT_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, kind in _MARKS.items():
        if begin.startswith(start):
            return kind
    if begin.startswith(b"<!--") and (b"<html" in begin or b"<!doctype html" in begin):
        return "HTML"
    return "JSON, or JSON lines" if begin.startswith((b"{", b"[")) and _is_json(content) else ""


def _is_json(content: bytes) -> bool:
    lines = [line for line in content[:_MAX_LINE].decode("utf-8-sig", "replace").splitlines() if line.strip()]
    return _parses(content) or (len(lines) > 0 and all(map(_parses, lines[:_LOOKED_AT_LINES])))


def _parses(text: bytes | str) -> bool:
    """Whether it is a JSON object or list; a bracket in prose is none."""
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False
