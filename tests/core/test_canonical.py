"""Canonical bytes: RFC 8785 on the values that we allow ourselves, and a clear no to all others."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.canonical import MAX_SAFE_INTEGER, canonical_json, check_canonical, digest_of
from allod.core.errors import Invalid

ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.text(st.characters(max_codepoint=127))
integers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def rfc_8785(value: Any) -> str:
    """RFC 8785 written out anew: section 3.2.2 for strings, 3.2.3 for the order of keys."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(escaped(char) for char in value) + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(rfc_8785, value)) + "]"
    names = sorted(value, key=lambda name: name.encode("utf-16-be"))
    return "{" + ",".join(f"{rfc_8785(name)}:{rfc_8785(value[name])}" for name in names) + "}"


def escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    return f"\\u{ord(char):04x}" if ord(char) < 0x20 else char


@given(values)
def test_the_bytes_are_those_of_rfc_8785(value: Any) -> None:
    """A second implementation, written from the standard, agrees on every allowed value."""
    check_canonical(value)
    assert canonical_json(value) == rfc_8785(value).encode()


@given(values)
def test_reading_the_bytes_gives_the_value_back(value: Any) -> None:
    """Nothing is lost, and writing again changes nothing."""
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(keys, integers, min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """Two mappings that are equal have one digest, in whatever order they were built."""
    backwards = dict(reversed(value.items()))
    assert digest_of(value) == digest_of(backwards)


def test_a_digest_names_its_hash() -> None:
    """`sha256:` and the hexadecimal hash of exactly the canonical bytes."""
    assert digest_of({"b": 1, "a": []}) == "sha256:" + sha256(b'{"a":[],"b":1}').hexdigest()


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        MAX_SAFE_INTEGER + 1,
        -MAX_SAFE_INTEGER - 1,
        b"bytes",
        {1: "a"},
        {"é": 1},
        {"a": {None: 1}},
        {1, 2},
        [1, [2.5]],
    ],
    ids=repr,
)
def test_what_readers_could_disagree_about_is_refused(value: Any) -> None:
    """Fractions, integers beyond 2^53, keys that are not ASCII text: implementations differ on those."""
    with pytest.raises(Invalid) as caught:
        check_canonical(value)
    assert caught.value.code == "not_canonical"


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"a": "\ud800x"}, b"bytes", float("inf"), {(): 1}], ids=ascii)
def test_what_json_cannot_say_has_no_bytes(value: Any) -> None:
    """Lone surrogates, infinities and foreign types are Invalid, never a codec's own error."""
    with pytest.raises(Invalid) as caught:
        canonical_json(value)
    assert caught.value.code == "not_canonical"


def nested(depth: int, *, inside: str) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value} if inside == "mapping" else [value]
    return value


@pytest.mark.parametrize("inside", ["list", "mapping"])
def test_depth_is_bounded(inside: str) -> None:
    """Fifteen levels pass and sixteen do not, so no reader can be made to recurse without end."""
    check_canonical(nested(15, inside=inside))
    with pytest.raises(Invalid) as caught:
        check_canonical(nested(16, inside=inside))
    assert caught.value.code == "not_canonical"
    with pytest.raises(Invalid):
        check_canonical(nested(100_000, inside=inside))


def test_nesting_beyond_the_stack_has_no_bytes() -> None:
    """Invalid, and not the interpreter's own limit."""
    with pytest.raises(Invalid) as caught:
        canonical_json(nested(100_000, inside="list"))
    assert caught.value.code == "not_canonical"


def test_booleans_are_not_integers() -> None:
    """Python counts True as 1; the bytes must not."""
    assert canonical_json([True, 1, False, 0]) == b"[true,1,false,0]"
