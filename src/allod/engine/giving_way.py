"""Long work in the event loop lets others have their turn."""

from __future__ import annotations

import asyncio

LONG_BYTES = 16 << 10  # of a body: each step over what is shorter takes some tenths of a millisecond
TURNS = 12  # of the loop: as many as a small answer takes


async def give_way() -> None:
    """Let the event loop do what else is ready, and what follows from it."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def give_way_if_long(body: bytes) -> None:
    """The same between two steps of work on a body, unless it is so short that they take no time."""
    if len(body) > LONG_BYTES:
        await give_way()
