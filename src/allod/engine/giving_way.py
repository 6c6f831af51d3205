"""Long work in the event loop lets others have their turn."""

from __future__ import annotations

import asyncio

LONG_BYTES = 16 << 10  # of a body: between two steps over a longer one others have their turn; one takes 0.1 ms a kB
TURNS = 12  # of the loop: as many as a small answer takes


async def give_way() -> None:
    """Let the event loop do what else is ready, and what follows from it."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
