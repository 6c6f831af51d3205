"""Files that somebody named, on a command line say: of any kind, a pipe too, but of bounded length."""

from __future__ import annotations

from pathlib import Path

from allod.core.errors import Invalid


def read_named_file(path: Path, *, limit_bytes: int, hint: str | None = None) -> bytes:
    """The file's bytes. Raises Invalid: (`unreadable`), which may carry a `hint`, and (`too_large`)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", code="unreadable", hint=hint) from error
    if len(data) > limit_bytes:
        raise Invalid(f"{path} is longer than {limit_bytes} bytes", code="too_large")
    return data


def read_named_text(path: Path, *, limit_bytes: int) -> str:
    """The file's text, in UTF-8. Raises Invalid as `read_named_file` does, (`unreadable`) where it is no text."""
    try:
        return read_named_file(path, limit_bytes=limit_bytes).decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not text", code="unreadable") from error
