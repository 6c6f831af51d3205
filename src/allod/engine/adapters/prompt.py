"""A prompt in JSON, in which no text spells a control token, and for which nobody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

INLINE_BYTES = 1 << 15  # some 10 ms at worst; a thread of its own costs a short prompt more than its texts do

_encode = msgspec.json.Encoder().encode


async def plain_json(make_plain: Callable[[Any], Any], texts: Any) -> bytes:
    """What `make_plain` makes of `texts`, encoded. What is large is made in a thread, in slices: the loop goes on."""
    if len(_encode(texts)) <= INLINE_BYTES:
        return _encode(make_plain(texts))
    return await asyncio.to_thread(lambda: _encode(make_plain(texts)))
