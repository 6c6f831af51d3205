"""Turns at the engine, awaited: `allod.serve.fair_scheduler` decides, and here whoever is chosen is woken.

The engine is offered a little more than it runs at once, so that a slot never waits for the next request. A place that
is given back belongs to the next request before the giving back returns, and nobody else is woken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from allod.core.errors import Unavailable
from allod.core.requests import Usage
from allod.serve.fair_queue import Ticket
from allod.serve.fair_scheduler import QueueSnapshot, Turns


class Admission:
    """`num_running` requests at a time, `num_waiting` more in line, none that would wait longer than `max_wait_s`."""

    turns_type = Turns

    def __init__(self, *, num_running: int, num_waiting: int, max_wait_s: float = 120.0) -> None:
        self._turns = self.turns_type(num_running=num_running, num_waiting=num_waiting, max_wait_s=max_wait_s)
        self._max_wait_s = max_wait_s
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def inside(self) -> int:
        """Requests that run or wait."""
        return self._turns.num_running + self._turns.num_waiting

    def resize(self, num_running: int) -> None:
        """So many at a time from now on; who runs is not stopped."""
        for ticket in self._turns.resize(num_running, time.monotonic()):
            self._wake(ticket)

    def turn(
        self, tenant: str, *, weight: int = 1, priority: int = 0, prompt_tokens: int = 0, max_tokens: int = 0
    ) -> Turn:
        """`async with` it to wait for a turn of that tenant and hold it.

        `prompt_tokens` is an estimate, `max_tokens` the most that the answer may have. Entering raises Unavailable
        (`overloaded`), with `retry_after_s`, when the line is full or the wait would be too long.
        """
        arrive = partial(
            self._turns.arrive,
            tenant,
            weight=weight,
            priority=priority,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
        )
        return Turn(self, arrive)

    def snapshots(self) -> list[QueueSnapshot]:
        """What each tenant has waiting and running, its service and its share; the busy ones of a priority first."""
        return self._turns.snapshots()

    async def _wait_for_call(self, ticket: Ticket) -> None:
        """Return when the request's turn has come; a wait that is cancelled leaves the line as if it never was.

        Raises Unavailable after `max_wait_s`: what was foreseen on arrival may have been wrong.
        """
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._wait(ticket)
        except TimeoutError as error:
            raise Unavailable("the wait for a turn was too long", code="overloaded", retry_after_s=5) from error

    async def _wait(self, ticket: Ticket) -> None:
        self._waiters[ticket] = waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        except (asyncio.CancelledError, GeneratorExit):
            if ticket.started_s is None:
                del self._waiters[ticket]
                self._turns.give_up(ticket)
            else:  # its turn came in the same moment
                self._turns.void(ticket)
                self._leave(ticket)
            raise

    def _leave(self, ticket: Ticket) -> None:
        following = self._turns.leave(ticket, time.monotonic())
        if following is not None:
            self._wake(following)

    def _wake(self, ticket: Ticket) -> None:
        waiter = self._waiters.pop(ticket)
        if not waiter.done():  # cancelled just now: it will pass the place on itself
            waiter.set_result(None)


class Turn:
    """One request's turn: tell it of the answer's tokens as they come, and once at the end.

    Without either it pays for the tokens that were last told, or for what was foreseen if none were.
    """

    __slots__ = ("_admission", "_arrive", "_ticket")
    _ticket: Ticket

    def __init__(self, admission: Admission, arrive: Callable[..., Ticket]) -> None:
        self._admission = admission
        self._arrive = arrive

    async def __aenter__(self) -> Turn:
        self._ticket = ticket = self._arrive(now_s=time.monotonic())
        if ticket.started_s is None:
            await self._admission._wait_for_call(ticket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission._leave(self._ticket)

    def used(self, completion_tokens: int) -> None:
        """So many tokens of the answer have been made so far."""
        self._admission._turns.use(self._ticket, completion_tokens)

    def finish_early(self, usage: Usage) -> None:
        """The answer broke off, and this is what there was of it."""
        self._admission._turns.correct(
            self._ticket, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )

    def finish(self, usage: Usage) -> None:
        """The answer is whole, and this is what the engine counted."""
        self._admission._turns.finish(
            self._ticket, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )
