"""A request's JSON body, read strictly: a mistake is named by where it stands."""

from __future__ import annotations

import json
import re
from functools import reduce
from typing import TypeVar

import msgspec

from allod.core.errors import Invalid
from allod.core.shown_text import ends_of
from allod.engine.giving_way import LONG_BYTES, give_way
from allod.web.http.nulls import drop_unknown_nulls

_PARAM = re.compile(r"(?:`key` in )?`\$\.?([\w.\[\]]*)`\Z")
_UNKNOWN = "Object contains unknown field `"
_Body = TypeVar("_Body")

MAX_PARTS = 30_000  # strings, objects and lists in a body: what is more takes too long to decode at once
MAX_VALUES = 150_000  # of any kind, numbers too
MAX_NUMBER = 100  # characters: Python takes a time for an integer that grows with the square of its digits
MAX_DEPTH = 500  # of objects and lists
MAX_SHOWN = 64  # characters of a key that is wrong
BYTES_AT_ONCE = 8 << 10  # of what is no part, and of a long string
PARTS_A_TURN = 200  # looked at, 0.3 ms or so, before others have their turn

# A string is taken in pieces, so that none takes long: its beginning, whether it ends there, and whether it is a key.
_CHARACTERS = rb'(?:[^"\\]{1,64}+|\\.){0,128}+'
_PART = re.compile(rb'[{}\[\]]|"' + _CHARACTERS + rb'("\s{0,64}(:)?)?', re.DOTALL)
_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"(?:\s*+(:))?', re.DOTALL)
_LONG_NUMBER = re.compile(rb"(?<![0-9.eE+-])[0-9.eE+-]{%d}" % (MAX_NUMBER + 1))
_REST = re.compile(_CHARACTERS + rb'("\s{0,64}(:)?)?', re.DOTALL)


async def check_keys(body: bytes) -> None:
    """Raise Invalid for a key that an object repeats, of which no two readers take the same, for too many parts or
    values, and for a number that is too long.

    In time that grows as the body does, and others have their turn. What is no JSON is left to the decoder.
    """
    if len(body) <= LONG_BYTES and _are_all_different(body):
        return
    objects: list[dict[bytes, None]] = []
    num_parts = num_values = num_lists = 0
    position = turn_at = 0
    while position < len(body):
        part = _PART.search(body, position, position + BYTES_AT_ONCE)
        num_values += _values_between(body, position, position + BYTES_AT_ONCE if part is None else part.start())
        if part is None:
            position += BYTES_AT_ONCE
            _check_bounds(num_parts, num_values)
            await give_way()
            continue
        if part.end() + 128 > position + BYTES_AT_ONCE:  # where the search ended may not be where the part does
            part = _PART.match(body, part.start())
            assert part is not None  # it begins there
        start, position = part.span()
        first = body[start]
        while first == 0x22 and part[1] is None and position < len(body):
            part = _REST.match(body, position)
            if part is None or part.end() == position:
                return
            position = part.end()
            if position > turn_at:
                turn_at = position + BYTES_AT_ONCE
                await give_way()
        if first == 0x5D:
            num_lists -= 1
            continue
        if first == 0x7D:
            if objects:
                objects.pop()
            continue
        num_parts += 1
        if num_parts % PARTS_A_TURN == 0:
            _check_bounds(num_parts, num_values)
            await give_way()
        if first != 0x22:
            if first == 0x7B:
                objects.append({})
            else:
                num_lists += 1
            if len(objects) + num_lists > MAX_DEPTH:
                raise Invalid(f"more than {MAX_DEPTH} objects and lists in one another", code="invalid_json")
        elif part[2] and objects:
            key = body[start + 1 : part.start(1)]
            if key in objects[-1] or (b"\\" in key and (key := _plain_key(key)) in objects[-1]):
                _refuse_repeated(objects, key)
            objects[-1][key] = None
    _check_bounds(num_parts, num_values)
    await give_way()


def _are_all_different(body: bytes) -> bool:
    """Whether no key stands twice anywhere, as in most small bodies: a fifth of the work."""
    keys = [key for key, colon in _STRING.findall(body) if colon]
    is_flat = body.count(b"{") + body.count(b"[") < MAX_DEPTH
    return is_flat and len(set(keys)) == len(keys) and b"\\" not in b"".join(keys)


def _values_between(body: bytes, start: int, end: int) -> int:
    """How many values end where no string is. Raises Invalid for a number that is too long."""
    if end - start > MAX_NUMBER and _LONG_NUMBER.search(body, start, end):
        raise Invalid(f"a number has more than {MAX_NUMBER} characters", code="invalid_json")
    return body.count(b",", start, end)


def _check_bounds(num_parts: int, num_values: int) -> None:
    if num_values > MAX_VALUES:
        raise Invalid(f"the body has more than {MAX_VALUES} values", code="body_too_large")
    if num_parts > MAX_PARTS:
        raise Invalid(f"the body has more than {MAX_PARTS} strings, objects and lists", code="body_too_large")


def _plain_key(key: bytes) -> bytes:
    """The key without its escapes; as it is if they stand for nothing."""
    try:
        return msgspec.json.decode(b'"' + key + b'"', type=str).encode("utf-8")
    except (msgspec.DecodeError, UnicodeError):
        return key


def _refuse_repeated(objects: list[dict[bytes, None]], key: bytes) -> None:
    above = [next(reversed(keys), b"") for keys in objects[:-1]]
    names = [_shorten(name.decode("utf-8", "replace")) for name in [*above, key]]
    raise Invalid(f"the key {names[-1]!r} is repeated", code="repeated_key", param=reduce(_below, names, ""))


def _shorten(name: str) -> str:
    return ends_of(name, limit=MAX_SHOWN)


def _below(param: str, name: str) -> str:
    """The path of a name in an object; one that could be read as more than a name is quoted as JSON does."""
    if not (name.isascii() and name.isidentifier()):
        return f"{param}[{json.dumps(name)}]"
    return f"{param}.{name}" if param else name


def decode(decoder: msgspec.json.Decoder[_Body], body: bytes) -> _Body:
    """What `decoder` makes of the body. Raises Invalid, its `param` where the mistake is.

    An unknown field is one, unless it is null.
    """
    try:
        return _read(decoder, body)
    except msgspec.ValidationError as error:
        text, param = _split_param(str(error))
        if text.startswith(_UNKNOWN):
            name = _shorten(text.removeprefix(_UNKNOWN).removesuffix("`"))
            param, text = _below(param, name), f"{_UNKNOWN}{name}`"
        raise Invalid(text, param=param or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is no JSON: {error}", code="invalid_json") from error


def _split_param(fault: str) -> tuple[str, str]:
    """What is wrong, and where; a value that is wrong may itself have that in it."""
    text, _, param = fault.rpartition(" - at ")
    found = _PARAM.match(param)
    return (text, found[1]) if found else (fault, "")


def _read(decoder: msgspec.json.Decoder[_Body], body: bytes) -> _Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if b"null" not in body or not str(error).startswith(_UNKNOWN):
            raise  # without decoding it once more
    value = msgspec.json.decode(body)
    drop_unknown_nulls(value, decoder.type)
    return msgspec.convert(value, decoder.type)
