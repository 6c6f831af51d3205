"""How many tokens a text will have, told by its bytes: before an engine counts them."""

from __future__ import annotations

import string
from collections.abc import Iterable

BYTES_PER_TOKEN = 3  # of UTF-8 text, rather few: what is reserved should be enough
_OFTEN_SINGLE = string.digits.encode() + string.punctuation.encode()  # these are often tokens by themselves


def estimate_tokens(data: bytes) -> int:
    """Rather too many than too few."""
    return _estimate(len(data), _num_single(data))


def estimate_tokens_of(texts: Iterable[str], *, max_bytes: int) -> int:
    """The same of `texts`, a line each, and of no more than the first `max_bytes` of all their lines."""
    num_bytes = num_single = 0
    for number, text in enumerate(texts):
        num_bytes += number > 0  # the line before has an end
        if (left := max_bytes - num_bytes) <= 0:
            break
        data = text[:left].encode("utf-8", "replace")[:left]
        num_bytes += len(data)
        num_single += _num_single(data)
    return _estimate(min(num_bytes, max_bytes), num_single)


def _num_single(data: bytes) -> int:
    return len(data) - len(data.translate(None, _OFTEN_SINGLE))


def _estimate(num_bytes: int, num_single: int) -> int:
    return (num_bytes - num_single) // BYTES_PER_TOKEN + num_single
