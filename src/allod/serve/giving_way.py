"""Long work in the event loop lets others have their turn."""

from __future__ import annotations

import asyncio

TURNS = 5  # of the loop: an answer takes a dozen, and waits for a slice of the long work before each that is its own


async def give_way() -> None:
    """Let the event loop do what else is ready, and what follows from it."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
