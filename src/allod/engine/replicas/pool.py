"""A pool: replicas of one model at one place, as one engine.

Each request goes to one replica that is up, under the seal that policy was asked about: to the one that probably holds
the beginning of its prompt, or has least to do, counted here when it is sent (`choose`). A request that fails at its
replica before anything is answered is moved, once, to another one, or to the next engine of the same where that was
lost; how many may be is bounded (`Moves`), so that a request that ends engines does not end them all. A replica that
failed is asked last for a while (`Suspicion`). A request whose turn comes while no engine is up waits for one
(`next_s`); a stream that has begun ends with the error. Who comes only then is told at once when to ask again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Pieces
from allod.engine.engine import Perimeter, ReplicaStatus, ReplicaSteering, SteeringAction, Tally
from allod.engine.replicas.choose import choose
from allod.engine.replicas.member import Member, Sent
from allod.engine.replicas.prefixes import Prefixes, Prompt, prompt_of
from allod.engine.replicas.replica import Replica, ReplicaOptions, StartedEngine
from allod.engine.token_estimate import BYTES_PER_TOKEN

STARTS_AT_ONCE = 2
FORESEEN_TOKENS = 256  # of an answer that may have as many or more
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


class Pool:
    """Start it with `start`, end it with `close`. Every replica's options are of one model, place and kind of seal."""

    def __init__(self, options: Sequence[ReplicaOptions]) -> None:
        self._changed = asyncio.Event()
        gate = asyncio.Semaphore(STARTS_AT_ONCE)
        self._notice_s = NOTICE_POLLS * options[0].poll_s
        self.members = [
            Member(number, Replica(each, self._note_change, gate), self._notice_s)
            for number, each in enumerate(options, start=1)
        ]
        self._restarts: dict[int, asyncio.Task[None]] = {}  # by the replicas' numbers
        self._moves = Moves(options[0].info.slots)
        self._deadlines = options[0].deadlines
        self._prefixes = Prefixes(len(options))
        self._num_starts = [0] * len(options)
        self._resize: Callable[[int], None] = lambda num_slots: None
        self._note_change()

    async def start(self) -> None:
        """Return once the first replica answers; the others are started beside its work, a few at a time.

        Raises Unavailable when the first cannot be started, sealed or readied.
        """
        first, *others = self.members
        await first.replica.start()
        for member in others:
            member.replica.start_beside()

    async def close(self) -> None:
        """End the processes; calls under way fail with Unavailable."""
        for restart in self._restarts.values():
            restart.cancel()
        ended = await asyncio.gather(*(member.replica.close() for member in self.members), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, unless a replica is up."""
        if not self._up():
            down = [member for member in self.members if member.replica.engine is None]  # the others are draining
            (down or self.members)[0].replica.check_ready()

    def evidence(self) -> tuple[Perimeter, ...]:
        found, missing = [], None
        for member in self.members:
            try:
                member.replica.check_ready()
                found.append(member.replica.evidence())
            except Unavailable as error:
                missing = missing or error
        if missing is not None and not found:
            raise missing
        return tuple(found)

    def keep_evidence(self) -> None:
        for member in self.members:
            member.replica.keep_evidence()

    @property
    def steering(self) -> ReplicaSteering:
        return self

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        now_s = asyncio.get_running_loop().time()
        return tuple(member.status(now_s) for member in self.members)

    def check(self, action: SteeringAction, number: int) -> None:
        member = self._member(number)
        if action != "resume" and not any(other.is_up for other in self.members if other is not member):
            raise Invalid(
                f"replica {number} is the last that answers",
                code="last_replica",
                hint="start or resume another first; to end them all, end the gateway",
            )

    def drain(self, number: int) -> None:
        self.check("drain", number)
        self._take_back_restart(number)
        self._member(number).is_draining = True
        self._note_change()

    def resume(self, number: int) -> None:
        member = self._member(number)
        self._take_back_restart(number)
        member.is_draining = False
        self._note_change()

    def restart(self, number: int) -> None:
        self.drain(number)
        self._restarts[number] = asyncio.create_task(self._restart_drained(self._member(number)))

    def _take_back_restart(self, number: int) -> None:
        """Whoever says something else of a replica than to restart it has the last word."""
        if (restart := self._restarts.pop(number, None)) is not None:
            restart.cancel()

    async def _restart_drained(self, member: Member) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadlines.drain_s):
                while member.num_running:  # noqa: ASYNC110 (an answer that ends is no change of the pool)
                    await asyncio.sleep(self._notice_s)
        engine = member.replica.engine
        if engine is not None:  # else another is being started already
            member.replica.restart("was drained to be started again")
        while engine is not None and member.replica.engine is engine:  # until then it would be sent something
            self._changed.clear()
            await self._changed.wait()
        member.is_draining = False
        self._note_change()

    def _member(self, number: int) -> Member:
        if not 1 <= number <= len(self.members):
            raise Invalid(f"there is no replica {number}: there are {len(self.members)}", code="no_such_replica")
        return self.members[number - 1]

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        self._resize = resize

    async def stream(
        self, chat: Chat, *, salt: str, tally: Tally | None = None
    ) -> AsyncGenerator[Pieces | Completion, None]:
        loop = asyncio.get_running_loop()
        self._moves.earn()
        sent, has_moved = await self._send(chat, salt, tally), False
        while True:
            member, sent_s, is_first = sent.member, loop.time(), True
            try:
                async with aclosing(sent.engine.stream(chat, salt=salt, tally=tally)) as answer:
                    async for item in answer:
                        has_moved = True  # it can be no more
                        if isinstance(item, Completion):
                            member.note_answer(item.usage, loop.time())  # here: whoever has all of it may leave
                        elif is_first:
                            sent.note_begun()
                            member.stopwatch.note_first(loop.time() - sent_s)
                        is_first = False
                        yield item
                return
            except Unavailable as error:
                if not self._may_move(error, member, has_moved=has_moved):
                    raise
            finally:
                sent.end()
            sent, has_moved = await self._send_after(sent, chat, salt, tally), True

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        return await self._ask(chat, salt, tally, lambda engine: engine.complete(chat, salt=salt, tally=tally))

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        return await self._ask(embed, "", tally, lambda engine: engine.embed(embed, tally=tally))

    async def _ask(
        self, task: Chat | Embed, salt: str, tally: Tally | None, ask: Callable[[StartedEngine], Awaitable[_Answer]]
    ) -> _Answer:
        self._moves.earn()
        sent, has_moved = await self._send(task, salt, tally), False
        while True:
            member = sent.member
            try:
                answer = await ask(sent.engine)
                usage = answer.usage if isinstance(answer, Completion) else None
                member.note_answer(usage, asyncio.get_running_loop().time())
                return answer
            except Unavailable as error:
                if not self._may_move(error, member, has_moved=has_moved):
                    raise
            finally:
                sent.end()
            sent, has_moved = await self._send_after(sent, task, salt, tally), True

    def _may_move(self, error: Unavailable, member: Member, *, has_moved: bool) -> bool:
        """Whether what failed there may be tried elsewhere."""
        if error.code not in FAULTS:
            return False
        member.note_failure(error, asyncio.get_running_loop().time())
        is_of_use = error.code == "engine_lost" or any(other is not member for other in self._up())
        return is_of_use and not has_moved and self._moves.take()

    async def _send(self, task: Chat | Embed, salt: str, tally: Tally | None) -> Sent:
        """To the replica that is best for it now. Raises Unavailable where none is up."""
        up = await self._wait_for_replicas(tally)
        if len(self.members) == 1:
            return up[0].send(0, 0)
        prompt = prompt_of(task, salt) if isinstance(task, Chat) else Prompt(rest_tokens=_num_tokens(task))
        now_s = asyncio.get_running_loop().time()
        choice = choose(prompt, [member.load(now_s) for member in up], self._prefixes)
        self._prefixes.note(prompt, choice.number)
        longest = task.sampling.max_tokens if isinstance(task, Chat) else 0
        return self.members[choice.number].send(choice.prompt_tokens, min(longest or FORESEEN_TOKENS, FORESEEN_TOKENS))

    async def _wait_for_replicas(self, tally: Tally | None) -> list[Member]:
        """Those for a request that was let in while one was up: a restart is waited for, but not one that has failed
        already. Raises Unavailable (`seal_changed`) where none is under the seal that policy was asked about.
        """
        if not self._up() and self._is_one_coming():
            with _note_wait(tally), suppress(TimeoutError):
                async with asyncio.timeout(self._deadlines.next_s):
                    await self._wait_until_up()
        self.check_ready()
        up = [member for member in self._up() if _is_meant(member, tally)]
        if not up:
            message = "the engine was started again under another seal while the request waited"
            raise Unavailable(message, code="seal_changed", retry_after_s=1)
        return up

    async def _send_after(self, lost: Sent, task: Chat | Embed, salt: str, tally: Tally | None) -> Sent:
        """Once more. Where there is no other replica, once it is known whether the process lives on that lost it."""
        if lost.member.replica.engine is lost.engine and len(self._up()) == 1:
            with _note_wait(tally):
                await asyncio.sleep(self._notice_s)
        return await self._send(task, salt, tally)

    async def _wait_until_up(self) -> None:
        while not self._up() and self._is_one_coming():
            self._changed.clear()
            await self._changed.wait()

    def _is_one_coming(self) -> bool:
        return any(member.replica.is_coming and member.replica.engine is None for member in self.members)

    def _up(self) -> list[Member]:
        return [member for member in self.members if member.is_up]

    def _note_change(self) -> None:
        """`info` is of a replica that is up, with the slots of all that are; of all that there are while none is."""
        for number, member in enumerate(self.members):
            if member.replica.num_starts != self._num_starts[number]:
                self._num_starts[number] = member.replica.num_starts
                self._prefixes.forget(number)
                member.suspicion.clear()
        members = self._up() or self.members
        first = members[0].replica.info
        self.info = replace(first, slots=sum(member.replica.info.slots for member in members))
        self._resize(self.info.slots)
        self._changed.set()


@contextmanager
def _note_wait(tally: Tally | None) -> Iterator[None]:
    """What passes in it is no engine's time."""
    start_s = time.monotonic()
    try:
        yield
    finally:
        if tally is not None:
            tally.waited_s += time.monotonic() - start_s


def _num_tokens(embed: Embed) -> int:
    return sum(map(len, embed.texts)) // BYTES_PER_TOKEN


def _is_meant(member: Member, tally: Tally | None) -> bool:
    return tally is None or tally.made_by.seal == member.replica.info.seal
