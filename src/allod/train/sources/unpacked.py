"""What a package held, as the sealed process that unpacked it left it: one file of bytes, and a list of what is where.

Who reads it only cuts and hashes: no name in a package becomes a name on the disk, and its pin is checked outside the
process that might have been taken over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from allod.core.errors import Invalid
from allod.core.files.plain import read_plain_file
from allod.prove.releases.lineage import MAX_LIST_BYTES

_BYTES, _LIST = "members.bin", "members.json"


def write_unpacked(folder: Path, members: Mapping[str, bytes], unread: Mapping[str, str]) -> None:
    """Leave the members, by path, and the names of those that were `unread` with the reason of each."""
    with (folder / _BYTES).open("wb") as file:
        for content in members.values():
            file.write(content)
    sizes = [[name, len(content)] for name, content in members.items()]
    (folder / _LIST).write_text(json.dumps({"members": sizes, "unread": dict(unread)}))


class UnpackedFiles(Mapping[str, bytes]):
    """The members by path, each cut out when it is asked for. Raises Invalid (`archive_damaged`, `bad_folder`) for what
    was not left as `write_unpacked` leaves it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _BYTES
        try:
            said = json.loads(read_plain_file(folder / _LIST, limit_bytes=MAX_LIST_BYTES))
            self._places = _places(said["members"])
            self.unread = {str(name): str(why) for name, why in said["unread"].items()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _damage() from error
        self.num_bytes = sum(size for _, size in self._places.values())
        if self._file.is_symlink() or not self._file.is_file() or self._file.stat().st_size != self.num_bytes:
            raise _damage()

    def __getitem__(self, name: str) -> bytes:
        start, size = self._places[name]
        with self._file.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _places(sizes: list[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Where each member begins, and its length."""
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for name, size in sizes:
        if not isinstance(name, str) or name in spans or not isinstance(size, int) or size < 0:
            raise ValueError("no list of members")
        spans[name] = (start, size)
        start += size
    return spans


def _damage() -> Invalid:
    return Invalid("what was unpacked is not what its list says", code="archive_damaged")
