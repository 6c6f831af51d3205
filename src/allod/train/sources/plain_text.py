"""Text files: a document a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from allod.core.errors import Invalid


def wants(member: str) -> bool:
    """Whether the reader needs this file."""
    return member.lower().endswith((".txt", ".md"))


def read(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Path and text of every file. Raises Invalid (`not_utf8`)."""
    for path in sorted(members):
        try:
            yield path, members[path].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid(
                f"{path} is not UTF-8: the byte at {error.start} does not belong",
                code="not_utf8",
                hint="convert the file, for instance with iconv -f windows-1252 -t utf-8",
            ) from error
