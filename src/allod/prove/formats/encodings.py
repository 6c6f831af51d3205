"""Base64, hexadecimal and decimal, each with one spelling only: what decodes would encode to the same text."""

from __future__ import annotations

import binascii
import re

from allod.core.errors import Invalid

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII)


def to_base64(data: bytes) -> str:
    """RFC 4648 section 4, with padding, on one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_base64(text: str, what: str) -> bytes:
    """Strict inverse of `to_base64`: no spaces, no missing padding, no stray bits. Raises Invalid."""
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Invalid(f"{what} is not base64", code="bad_encoding") from error
    if to_base64(data) != text:  # Python ignores the unused bits of the last character
        raise Invalid(f"{what} is not canonical base64", code="bad_encoding")
    return data


def from_decimal(text: str, what: str) -> int:
    """A number below 2^63 without sign or leading zeroes. Raises Invalid."""
    if _DECIMAL.fullmatch(text) is None or int(text) >= 1 << 63:
        raise Invalid(f"{what} is not a decimal number", code="bad_encoding")
    return int(text)


def from_hex(text: str, what: str, *, size: int) -> bytes:
    """`size` bytes from lower-case hexadecimal. Raises Invalid."""
    if len(text) != 2 * size or _HEX.fullmatch(text) is None:
        raise Invalid(f"{what} is not {size} bytes of hexadecimal", code="bad_encoding")
    return bytes.fromhex(text)
