"""A pool: replicas of one model at one place, as one engine.

Each request goes to one replica that is up, under the seal that policy was asked about: to the one that has fewest,
counted here when they are sent. A request that fails at its replica before anything is answered is moved, once, to
another one, or to the next engine of the same where that was lost; how many may be is bounded (`Moves`), so that a
request that ends engines does not end them all. A replica that failed is asked last for a while (`Suspicion`). A
request whose turn comes while no engine is up waits for one (`next_s`); a stream that has begun ends with the error.
Who comes only then is told at once when to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeVar

from allod.core.errors import Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Pieces
from allod.engine.engine import Perimeter, Tally
from allod.engine.replicas.replica import Replica, ReplicaOptions, StartedEngine

STARTS_AT_ONCE = 2
NOTICE_POLLS = 2  # of a replica's watcher: by then it has noticed that its process is gone
FAULTS = {"engine_lost", "engine_silent", "engine_failed", "engine_response", "engine_untrusted"}  # a replica's own
_Answer = TypeVar("_Answer")


class Moves:
    """How often requests may be moved: one in `PART`, and those of one replica's slots besides.

    All engines that end together are asked at most a tenth more often than there are requests, beyond the first few.
    """

    PART = 12

    def __init__(self, num_spare: int) -> None:
        self._num_spare = num_spare
        self._left = float(num_spare)

    def earn(self) -> None:
        """A request comes."""
        self._left = min(self._left + 1 / self.PART, self._num_spare + 1)

    def take(self) -> bool:
        """Whether one may be moved now, which is then counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Suspicion:
    """Of a replica that fails what it is sent. It is asked last for `least_s`, so that its watcher has looked at it by
    then, and for twice as long each time that it fails again without an answer between."""

    MOST_S = 60.0

    def __init__(self, least_s: float) -> None:
        self._least_s = self._next_s = least_s
        self._until_s = 0.0

    def raise_at(self, now_s: float) -> None:
        """It has failed now."""
        self._until_s = now_s + self._next_s
        self._next_s = min(2 * self._next_s, self.MOST_S)

    def clear(self) -> None:
        """It has answered."""
        self._next_s, self._until_s = self._least_s, 0.0

    def holds_at(self, now_s: float) -> bool:
        """Whether others are asked before it."""
        return now_s < self._until_s


class Pool:
    """Start it with `start`, end it with `close`. Every replica's options are of one model, place and kind of seal."""

    def __init__(self, options: Sequence[ReplicaOptions]) -> None:
        self._changed = asyncio.Event()
        gate = asyncio.Semaphore(STARTS_AT_ONCE)
        self.replicas = [Replica(each, self._note_change, gate) for each in options]
        self._num_sent = dict.fromkeys(self.replicas, 0)  # what each works on
        self._moves = Moves(options[0].info.slots)
        self._next_s = options[0].deadlines.next_s
        self._notice_s = NOTICE_POLLS * options[0].poll_s
        self._suspicions = {replica: Suspicion(self._notice_s) for replica in self.replicas}
        self._resize: Callable[[int], None] = lambda num_slots: None
        self._note_change()

    async def start(self) -> None:
        """Return once the first replica answers; the others are started beside its work, a few at a time.

        Raises Unavailable when the first cannot be started, sealed or readied.
        """
        first, *others = self.replicas
        await first.start()
        for replica in others:
            replica.start_beside()

    async def close(self) -> None:
        """End the processes; calls under way fail with Unavailable."""
        for replica in self.replicas:
            await replica.close()

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, unless a replica is up."""
        if not self._up():
            self.replicas[0].check_ready()

    def evidence(self) -> tuple[Perimeter, ...]:
        found, missing = [], None
        for replica in self.replicas:
            try:
                found.append(replica.evidence())
            except Unavailable as error:
                missing = missing or error
        if missing is not None and not found:
            raise missing
        return tuple(found)

    def keep_evidence(self) -> None:
        for replica in self.replicas:
            replica.keep_evidence()

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        self._resize = resize

    async def stream(
        self, chat: Chat, *, salt: str, tally: Tally | None = None
    ) -> AsyncGenerator[Pieces | Completion, None]:
        self._moves.earn()
        replica, has_moved = await self._choose(tally), False
        while True:
            engine = self._send_to(replica)
            try:
                async with aclosing(engine.stream(chat, salt=salt, tally=tally)) as answer:
                    async for item in answer:
                        has_moved = True  # it can be no more
                        yield item
                self._suspicions[replica].clear()
                return
            except Unavailable as error:
                if not self._may_move(error, replica, has_moved=has_moved):
                    raise
            finally:
                self._num_sent[replica] -= 1
            replica, has_moved = await self._choose_after(replica, engine, tally), True

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        return await self._ask(tally, lambda engine: engine.complete(chat, salt=salt, tally=tally))

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        return await self._ask(tally, lambda engine: engine.embed(embed, tally=tally))

    async def _ask(self, tally: Tally | None, ask: Callable[[StartedEngine], Awaitable[_Answer]]) -> _Answer:
        self._moves.earn()
        replica, has_moved = await self._choose(tally), False
        while True:
            engine = self._send_to(replica)
            try:
                answer = await ask(engine)
                self._suspicions[replica].clear()
                return answer
            except Unavailable as error:
                if not self._may_move(error, replica, has_moved=has_moved):
                    raise
            finally:
                self._num_sent[replica] -= 1
            replica, has_moved = await self._choose_after(replica, engine, tally), True

    def _send_to(self, replica: Replica) -> StartedEngine:
        """The engine of a replica that was chosen because it is up, in this same turn of the loop: it has one more."""
        assert replica.engine is not None
        self._num_sent[replica] += 1
        return replica.engine

    def _may_move(self, error: Unavailable, replica: Replica, *, has_moved: bool) -> bool:
        """Whether what failed at that replica may be tried elsewhere."""
        if error.code not in FAULTS:
            return False
        self._suspicions[replica].raise_at(asyncio.get_running_loop().time())
        is_of_use = error.code == "engine_lost" or any(other is not replica for other in self._up())
        return is_of_use and not has_moved and self._moves.take()

    async def _choose(self, tally: Tally | None) -> Replica:
        """The replica for a request that was let in while one was up: a restart is waited for, but not one that has
        failed already. Raises Unavailable (`seal_changed`) where none is under the seal that policy was asked about.
        """
        if not self._up() and any(replica.is_coming for replica in self.replicas):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_s):
                    await self._wait_until_up()
        self.check_ready()
        up = [replica for replica in self._up() if _is_meant(replica, tally)]
        if not up:
            message = "the engine was started again under another seal while the request waited"
            raise Unavailable(message, code="seal_changed", retry_after_s=1)
        now_s = asyncio.get_running_loop().time()
        return min(up, key=lambda replica: (self._suspicions[replica].holds_at(now_s), self._num_sent[replica]))

    async def _choose_after(self, replica: Replica, lost: StartedEngine, tally: Tally | None) -> Replica:
        """What to try instead of an engine that lost a connection: another, or the same if its process lives on."""
        if replica.engine is lost and len(self._up()) == 1:
            await asyncio.sleep(self._notice_s)
        return await self._choose(tally)

    async def _wait_until_up(self) -> None:
        while not self._up() and any(replica.is_coming for replica in self.replicas):
            self._changed.clear()
            await self._changed.wait()

    def _up(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.engine is not None]

    def _note_change(self) -> None:
        """`info` is of a replica that is up, with the slots of all that are; of all that there are while none is."""
        replicas = self._up() or self.replicas
        first = replicas[0].info
        self.info = replace(first, slots=sum(replica.info.slots for replica in replicas))
        self._resize(self.info.slots)
        self._changed.set()


def _is_meant(replica: Replica, tally: Tally | None) -> bool:
    return tally is None or tally.made_by.seal == replica.info.seal
