"""SHA-256 digests: `sha256:<hex>` where one names something, lower-case hexadecimal inside of that."""

from __future__ import annotations

import re
from hashlib import sha256

_PREFIX = "sha256:"
HEX = "[0-9a-f]{64}"
DIGEST = _PREFIX + HEX
_is_hex = re.compile(HEX).fullmatch
_is_digest = re.compile(DIGEST).fullmatch


def is_hex(value: object) -> bool:
    """Whether it is the 64 lower-case hexadecimal digits of a SHA-256."""
    return isinstance(value, str) and _is_hex(value) is not None


def is_digest(value: object) -> bool:
    """Whether it is `sha256:<hex>`."""
    return isinstance(value, str) and _is_digest(value) is not None


def sha256_hex(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256."""
    return sha256(data).hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return digest_of_hex(sha256_hex(data))


def digest_of_hex(digits: str) -> str:
    """`sha256:<hex>` of the hexadecimal digits."""
    return f"{_PREFIX}{digits}"


def hex_of(digest: str) -> str:
    """The hexadecimal digits of `sha256:<hex>`, or of digits that stand alone."""
    return digest.removeprefix(_PREFIX)
