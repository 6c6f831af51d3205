"""GGUF's metadata: keys and values, read strictly. Arrays are passed over, and looked into only where somebody asks.

Source: ggml-org/ggml, docs/gguf.md (version 3). All work is bounded by what is counted here.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from operator import sub
from typing import Any, BinaryIO

MAX_TEXT_BYTES = 1 << 24  # of all names and texts that are kept while reading, and of each that is passed over
MAX_ITEMS = 1 << 23  # in all arrays together
MAX_TEXTS = 1 << 21  # in all arrays together: each costs the reader some 200 ns
MAX_TOKEN_BYTES = 1 << 12
TOKENS = "tokenizer.ggml.tokens"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
_WINDOW_BYTES = 1 << 16
SIZE = struct.Struct("<Q")


class Malformed(Exception):
    """What is wrong with the file."""


@dataclass(frozen=True, slots=True)
class PassedArray:
    """An array that was passed over. `begins`: where each text of one begins, and where the last ends."""

    kind: int
    length: int
    begin: int
    begins: array[int]

    def longest(self) -> int:
        """Bytes of the longest of its texts."""
        return max(map(sub, self.begins[1:], self.begins), default=SIZE.size) - SIZE.size


class MetadataReader:
    """A file from its first byte on, through a window."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._at = 0
        self._window, self._window_begin = b"", 0
        self._num_items = 0
        self._num_texts = 0
        self._num_text_bytes = 0

    def _value(self, key: str) -> Any:
        kind = self._number("<I")
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._pass_array(key)
        if kind not in _SCALARS:
            raise Malformed(f"key {key} has a value of the unknown type {kind}")
        value = self._number(_SCALARS[kind])
        if key == "general.alignment" and kind != UINT32:
            raise Malformed("general.alignment is no uint32")
        return value

    def _pass_array(self, key: str) -> PassedArray:
        kind, length = self._number("<I"), self._number("<Q")
        self._num_items += length
        if self._num_items > MAX_ITEMS:
            raise Malformed(f"more than {MAX_ITEMS} items in its arrays")
        if kind not in _SCALARS and kind != STRING:
            raise Malformed(f"key {key} is an array of {'arrays' if kind == ARRAY else f'the unknown type {kind}'}")
        passed = PassedArray(kind, length, self._at, array("Q", [self._at]))
        if kind in _SCALARS:
            self._at += length * struct.calcsize(_SCALARS[kind])
        else:
            self._pass_texts(key, length, passed.begins)
        return passed

    def _pass_texts(self, key: str, length: int, begins: array[int]) -> None:
        """Pass over the texts of an array, and say where each one ends."""
        self._num_texts += length
        if self._num_texts > MAX_TEXTS:
            raise Malformed(f"more than {MAX_TEXTS} texts in its arrays")
        limit = MAX_TOKEN_BYTES if key == TOKENS else MAX_TEXT_BYTES
        at, size_at = self._at, SIZE.unpack_from
        window, begin, last = b"", at, -1  # as locals: this is most of what reading a header costs
        for _ in range(length):
            if at - begin > last:
                self._at = at
                self._look(SIZE.size)
                window, begin, last = self._window, at, len(self._window) - 8
            (size,) = size_at(window, at - begin)
            if size > limit:
                raise Malformed(f"a text of {size} bytes in {key}, more than {limit}")
            at += 8 + size
            begins.append(at)
        self._at = at

    def _bytes_at(self, at: int, length: int) -> bytes:
        back, self._at = self._at, at
        data = self._take(length)
        self._at = back
        return data

    def _name(self, what: str, limit: int) -> str:
        """A name of one byte at least and `limit` at most, in UTF-8 and without a zero."""
        length = self._number("<Q")
        if not 0 < length <= limit:
            raise Malformed(f"a {what}'s name has {length} bytes, and must have 1 to {limit}")
        self._at -= 8
        name = self._string()
        if "\ufffd" in name or "\0" in name:
            raise Malformed(f"the name of a {what}, {name!r}, is no plain text")
        return name

    def _string(self) -> str:
        length: int = self._number("<Q")
        self._num_text_bytes += length
        if self._num_text_bytes > MAX_TEXT_BYTES:
            raise Malformed(f"more than {MAX_TEXT_BYTES} bytes of names and texts")
        return self._take(length).decode("utf-8", "replace")

    def _count(self, limit: int, what: str) -> int:
        count: int = self._number("<Q")
        if count > limit:
            raise Malformed(f"{count} {what}, more than {limit}")
        return count

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, length: int) -> bytes:
        offset = self._at - self._window_begin
        if not 0 <= offset <= len(self._window) - length:
            self._look(length)
            offset = 0
        self._at += length
        return self._window[offset : offset + length]

    def _look(self, length: int) -> None:
        """Put at least `length` bytes from here on into the window; what was passed over may end beyond the file."""
        self._file.seek(self._at)
        self._window, self._window_begin = self._file.read(max(length, _WINDOW_BYTES)), self._at
        if len(self._window) < length:
            raise Malformed("it ends within its header")
