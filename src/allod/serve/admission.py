"""A bounded queue in front of the engine: first come, first served, and a clear no when it is full.

The engine is offered a little more than it runs at once, so that a slot never waits for the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from allod.core.errors import Unavailable


class Admission:
    """`num_running` requests at a time, `num_waiting` more in line."""

    def __init__(self, *, num_running: int, num_waiting: int) -> None:
        self._turns = asyncio.Semaphore(num_running)
        self._places = num_running + num_waiting
        self.inside = 0

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None, None]:
        """Wait for a turn and hold it. Raises Unavailable with `retry_after_s` when the line is full."""
        if self.inside >= self._places:
            raise Unavailable("too many requests are waiting", code="overloaded", retry_after_s=2)
        self.inside += 1
        try:
            async with self._turns:
                yield
        finally:
            self.inside -= 1
