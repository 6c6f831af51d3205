"""Canonical bytes: the one encoding whose hash or signature we ever take.

JSON with sorted ASCII keys and no floating-point number. Under those two restrictions the standard library's
encoder produces exactly RFC 8785, so another implementation needs no library either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from allod.core.digests import digest_of_bytes
from allod.core.errors import Invalid

JsonValue = None | bool | int | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493: what every JSON reader, JavaScript included, keeps exact

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode


def canonical_json(value: JsonValue) -> bytes:
    """UTF-8 bytes of `value`, equal to RFC 8785 for the values that `check_canonical` accepts.

    Raises Invalid for text that is not Unicode (a lone surrogate) and for what JSON cannot say.
    """
    try:
        return _encode(value).encode("utf-8")
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"not representable as canonical JSON: {error}", code="not_canonical") from error


def check_canonical(value: JsonValue, *, depth: int = 16) -> None:
    """Raise Invalid unless `value` holds only what `canonical_json` encodes as RFC 8785 does."""
    if depth == 0:
        raise Invalid("nested too deeply", code="not_canonical")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise Invalid("a key is not ASCII text", code="not_canonical")
            check_canonical(item, depth=depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_canonical(item, depth=depth - 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > MAX_SAFE_INTEGER:
            raise Invalid("an integer is beyond 2^53 - 1", code="not_canonical")
    elif not (value is None or isinstance(value, (bool, str))):
        raise Invalid(f"{type(value).__name__} is not allowed", code="not_canonical")


def digest_of(value: JsonValue) -> str:
    """`sha256:<hex>` of the canonical bytes of `value`."""
    return digest_of_bytes(canonical_json(value))
