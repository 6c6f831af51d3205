"""Texts out of an R package's lazy-load database: vectors of strings by name.

Format: "R Internals", 1.8 Serialization formats and 1.3 the lazy-load database. Only what a database of texts holds is
read (lists, integers, strings and their names); anything else is refused, and every length is checked before it is
believed.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from allod.core.errors import Invalid

MAX_OBJECT_BYTES = 16 << 20
MAX_DATABASE_BYTES = 32 << 20  # of all texts, unpacked: an index may name one place a thousand times
_MAX_DEPTH = 16

_NIL, _REFERENCE = 254, 255
_SYMBOL, _PAIRS, _CHARACTERS, _LOGICAL, _INTEGERS, _STRINGS, _LIST = 1, 2, 9, 10, 13, 16, 19
_HAS_ATTRIBUTES, _HAS_TAG = 1 << 9, 1 << 10
_LATIN1, _BYTES = 1 << 14, 1 << 13  # of a string's encoding; else UTF-8 or ASCII

RValue = None | str | list["RValue"] | dict[str, "RValue"]


def texts(index: bytes, database: bytes) -> dict[str, list[str]]:
    """The lines of every text in a lazy-load database (`.rdx` and `.rdb`), by name. Raises Invalid (`r_object`)."""
    entries = _ObjectReader(_unzip(index, zlib.MAX_WBITS | 16)).value()
    variables = entries.get("variables") if isinstance(entries, dict) else None
    if not isinstance(variables, dict):
        raise _broken("its index lists no variables")
    found: dict[str, list[str]] = {}
    left = MAX_DATABASE_BYTES
    for name, location in variables.items():
        content = _content(name, location, database, limit=left)
        left -= len(content)
        found[name] = _lines(name, content)
    return found


def _content(name: str, location: RValue, database: bytes, *, limit: int) -> bytes:
    match location:
        case [str(first), str(length)] if first.isdecimal() and length.isdecimal():
            start, end = int(first), int(first) + int(length)
        case _:
            raise _broken(f"{name} has no location")
    if not 0 <= start <= end - 4 <= len(database) - 4:
        raise _broken(f"{name} lies outside of it")
    content = _unzip(database[start + 4 : end], zlib.MAX_WBITS, limit=min(limit, MAX_OBJECT_BYTES))
    if len(content) != struct.unpack_from(">I", database, start)[0]:
        raise _broken(f"{name} is not as long as it says")
    return content


def _lines(name: str, content: bytes) -> list[str]:
    lines = _ObjectReader(content).value()
    if not isinstance(lines, list):
        raise _broken(f"{name} is no text")
    texts = [line for line in lines if isinstance(line, str)]
    if len(texts) != len(lines):
        raise _broken(f"{name} is no text")
    return texts


def _unzip(data: bytes, wbits: int, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
    unzip = zlib.decompressobj(wbits)
    try:
        content = unzip.decompress(data, limit + 1)
    except zlib.error as error:
        raise _broken(f"it cannot be decompressed ({error})") from error
    if len(content) > limit or not unzip.eof or unzip.unused_data:
        raise _broken("it is cut off, or too large")
    return content


class _ObjectReader:
    """Reads one object in XDR form, version 2 or 3."""

    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self._place = 0
        self._symbols: list[str] = []

    def value(self) -> RValue:
        """The whole object; numbers come as decimal text."""
        if self._take(2) != b"X\n":
            raise _broken("it is not in XDR form")
        version = self._int()
        self._take(8)  # the versions of R that wrote it, and that can read it
        if version == 3:
            self._take(self._length())  # the native encoding's name
        elif version != 2:
            raise _broken(f"its form is of version {version}")
        value = self._object(_MAX_DEPTH)
        if self._place != len(self._data):
            raise _broken("something follows its end")
        return value

    def _object(self, depth: int) -> RValue:
        if depth == 0:
            raise _broken("it is nested too deeply")
        flags = self._int()
        kind = flags & 0xFF
        if kind == _NIL:
            return None
        value: RValue
        if kind == _CHARACTERS:
            return self._characters(flags)
        if kind in (_INTEGERS, _LOGICAL):
            value = [str(self._int()) for _ in range(self._count(4))]
        elif kind in (_STRINGS, _LIST):
            value = [self._object(depth - 1) for _ in range(self._count(4))]
        else:
            raise _broken(f"it holds something else than texts (type {kind})")
        if flags & _HAS_ATTRIBUTES:
            return _name_values(value, self._attributes(depth - 1))
        return value

    def _attributes(self, depth: int) -> dict[str, RValue]:
        """A list of pairs, each with its name in front of it."""
        found: dict[str, RValue] = {}
        while (flags := self._int()) & 0xFF == _PAIRS:
            if flags & (_HAS_TAG | _HAS_ATTRIBUTES) != _HAS_TAG:
                raise _broken("an attribute has no name")
            name = self._symbol()
            found[name] = self._object(depth)
        if flags & 0xFF != _NIL:
            raise _broken("its attributes have no end")
        return found

    def _symbol(self) -> str:
        flags = self._int()
        if flags & 0xFF == _REFERENCE:
            number = (flags >> 8) - 1
            if not 0 <= number < len(self._symbols):
                raise _broken("it refers to a name that is not there")
            return self._symbols[number]
        if flags & 0xFF != _SYMBOL:
            raise _broken("an attribute has no name")
        self._symbols.append(self._characters(self._int()))
        return self._symbols[-1]

    def _characters(self, flags: int) -> str:
        data = self._take(self._length())
        if flags & 0xFF != _CHARACTERS or flags & _BYTES:
            raise _broken("a text in it is missing, or has no encoding")
        try:
            return data.decode("latin-1" if flags & _LATIN1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _broken(f"a text in it is not UTF-8 ({error})") from error

    def _count(self, least_bytes: int) -> int:
        """How many follow, each of `least_bytes` at least."""
        count = self._int()
        if not 0 <= count * least_bytes <= len(self._data) - self._place:
            raise _broken("it ends too soon")
        return count

    def _length(self) -> int:
        return self._count(1)

    def _int(self) -> int:
        number: int = struct.unpack(">i", self._take(4))[0]
        return number

    def _take(self, length: int) -> bytes:
        taken = self._data[self._place : self._place + length]
        if len(taken) != length:
            raise _broken("it ends too soon")
        self._place += length
        return taken


def _name_values(value: list[RValue], attributes: dict[str, RValue]) -> RValue:
    names = attributes.get("names")
    if not isinstance(names, list):
        return value
    keys = [name for name in names if isinstance(name, str)]
    if len(keys) != len(value):
        raise _broken("it has more or fewer names than things")
    return dict(zip(keys, value, strict=True))


def _broken(why: str) -> Invalid:
    return Invalid(f"the R database cannot be read: {why}", code="r_object")
