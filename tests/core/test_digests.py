"""Digests: two spellings of one SHA-256, and nothing that merely looks like either."""

from __future__ import annotations

import hashlib

import pytest

from allod.core.digests import digest_of_bytes, digest_of_hex, hex_of, is_digest, is_hex, sha256_hex

HEX = hashlib.sha256(b"allod").hexdigest()


def test_a_digest_names_its_bytes_in_two_spellings() -> None:
    """Each is made of the other, and is no instance of it."""
    assert (sha256_hex(b"allod"), digest_of_bytes(b"allod")) == (HEX, f"sha256:{HEX}")
    assert hex_of(digest_of_hex(HEX)) == hex_of(HEX) == HEX
    assert (is_hex(HEX), is_digest(HEX)) == (True, False)
    assert (is_hex(digest_of_hex(HEX)), is_digest(digest_of_hex(HEX))) == (False, True)


@pytest.mark.parametrize(
    "odd", [HEX[1:], f"{HEX}0", HEX.upper(), f"{HEX}\n", "g" * 64, "٠" * 64, HEX.encode(), None, 7]
)
def test_what_merely_looks_like_one_is_none(odd: object) -> None:
    """Shorter, longer, in capitals, with a line's end, other digits, no text."""
    assert not is_hex(odd)
    assert not is_digest(odd)
    assert not is_digest(f"sha256:{odd}")


def test_a_digest_has_one_prefix() -> None:
    """Another hash's digest is not taken for this one's."""
    assert not is_digest(f"sha512:{HEX}")
    assert not is_digest(f"sha256:sha256:{HEX}")
