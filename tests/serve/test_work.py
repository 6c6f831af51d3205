"""One request's work: however it ends, once its place is given back, once its limits are charged, once it is noted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from tests.serve.conftest import (
    ECHO,
    PERMITTED,
    TENANT,
    Front,
    MakeFront,
    ScriptedEngine,
    by,
    chat,
    request,
    to_hold,
    until,
)

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Embed, Piece, Sampling, Usage, chat_answer
from allod.core.statements.receipt import ANSWER
from allod.govern.tenancy.tenants import Quota
from allod.serve import execution
from allod.serve.admission import Admission
from allod.serve.allowance import Allowance, RequestHold
from allod.serve.execution import AcceptedRequest, Execution
from allod.serve.fair_queue import cost_of
from allod.serve.fair_scheduler import QueueSnapshot
from allod.serve.request import Request

COUNTED = Usage(20, 30, cached_tokens=5)
LOST = Unavailable("gone", code="engine_lost")
LIMITED = replace(TENANT, quota=Quota(concurrent=1), weight=3)
MAX_TOKENS = 500
FORESEEN = 10  # tokens, of the prompt


@dataclass
class Ends:
    """How the works of one gateway ended, in order."""

    settled: list[tuple[Usage, int]] = field(default_factory=list)
    num_released: int = 0


class Watched(Allowance):
    """The real one, and what it was told."""

    def __init__(self, allowance: Allowance, ends: Ends) -> None:
        self.__dict__.update(allowance.__dict__)
        self._ends = ends

    def settle(self, held: RequestHold, usage: Usage, engine_ms: int) -> int:
        self._ends.settled.append((usage, engine_ms))
        return super().settle(held, usage, engine_ms)

    def release(self, held: RequestHold) -> None:
        self._ends.num_released += 1
        super().release(held)


@dataclass(frozen=True)
class Desk:
    """A gateway's parts, with which one piece of work after the other is done."""

    front: Front
    ends: Ends
    allowance: Allowance

    @property
    def admission(self) -> Admission:
        return self.front.gateway.router.first.admission

    async def work(self, asked: Request | None = None) -> Execution:
        """Work that is accepted and has not begun."""
        asked = by(LIMITED, asked or request(chat(sampling=Sampling(seed=1, max_tokens=MAX_TOKENS))))
        await self.front.prepared(asked)
        held = await self.allowance.hold(*to_hold(asked, LIMITED))
        return Execution(
            AcceptedRequest(asked, PERMITTED, held, ECHO),
            admission=self.admission,
            allowance=self.allowance,
            recorder=self.front.recorder,
        )

    def snapshot(self) -> QueueSnapshot:
        (found,) = [one for one in self.admission.snapshots() if one.tenant == "local"]
        return found

    async def is_as_before(self) -> bool:
        """Whether the only place at the engine and the tenant's only request at a time are free."""
        self.allowance.release(await self.allowance.hold(*to_hold(request(), LIMITED)))
        self.ends.num_released -= 1
        return self.admission.inside == 0


@pytest.fixture
async def desk(front: MakeFront) -> AsyncIterator[Desk]:
    async with front(ScriptedEngine("x"), num_running=1) as made:
        ends = Ends()
        yield Desk(made, ends, Watched(made.gateway.allowance, ends))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that the engine's time is measured by; `s` is what it shows."""
    made = SimpleNamespace(s=100.0)
    monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=lambda: made.s))
    return made


# Well ended


async def test_an_answer_is_charged_as_counted_and_recorded(desk: Desk, clock: SimpleNamespace) -> None:
    """The engine's count and time go to the limits and into the receipt, and they are the same."""
    work = await desk.work()
    async with work:
        clock.s += 0.25
        work.note_counted(COUNTED)
    clock.s += 7  # until the disk has answered
    assert desk.ends == Ends([(COUNTED, 250)])
    await work.record(b"answer", "stop")
    assert await desk.is_as_before()
    (statement,) = await desk.front.receipts()
    assert desk.front.commits_to(statement, b"answer")
    assert statement.predicate["answer"]["finish"] == "stop"
    assert (statement.predicate["request"]["tokens"], statement.predicate["answer"]["tokens"]) == (20, 30)
    meter = statement.predicate["meter"]
    assert (meter["engine_ms"], meter["cached_tokens"], meter["micros"]) == (250, 5, 20 + 60)
    assert desk.ends == Ends([(COUNTED, 250)])


async def test_time_in_the_line_is_not_the_engines(desk: Desk, clock: SimpleNamespace) -> None:
    """Whoever waits pays for what ran, not for what others kept it from."""
    work = await desk.work()
    async with desk.admission.turn("other"):
        working = asyncio.create_task(work.__aenter__())
        await until(lambda: desk.admission.inside == 2)
        clock.s += 60
    await working
    clock.s += 2
    await work.__aexit__(None, None, None)
    assert work.engine_ms == 2_000


async def test_waiting_for_an_engine_to_start_is_not_the_engines_time(desk: Desk, clock: SimpleNamespace) -> None:
    """Its turn had come, and no engine worked on it."""
    async with await desk.work() as work:
        clock.s += 7
        work.tally.waited_s += 5
        work.note_counted(COUNTED)
    assert desk.ends == Ends([(COUNTED, 2_000)])


async def test_its_turn_is_the_tenants_by_weight_and_by_what_is_foreseen(desk: Desk) -> None:
    """The fair queue knows whose it is, and foresees no more of the answer than it may have."""
    work = await desk.work(request(chat(sampling=Sampling(seed=1, max_tokens=4))))
    async with work:
        snapshot = desk.snapshot()
        assert (snapshot.tenant, snapshot.priority, snapshot.weight, snapshot.num_running) == ("local", 0, 3, 1)
    assert desk.snapshot().service == 0  # nothing was computed


async def test_a_batch_tenants_turn_is_one_of_batch(desk: Desk) -> None:
    """Priority 1 waits behind those who wait for an answer."""
    asked = request()
    held = await desk.allowance.hold(*to_hold(await desk.front.prepared(asked), LIMITED))
    accepted = AcceptedRequest(by(replace(LIMITED, priority=1), asked), PERMITTED, held, ECHO)
    async with Execution(accepted, admission=desk.admission, allowance=desk.allowance, recorder=desk.front.recorder):
        assert desk.snapshot().priority == 1


async def test_the_queue_hears_of_tokens_as_they_come(desk: Desk) -> None:
    """A long answer counts while it is made, and at its end for what was counted."""
    work = await desk.work()
    async with work:
        served = []
        for number in (1, 2, 3):
            work.tally.count(FORESEEN, number, 0)
            work.note_progress()
            served.append(desk.snapshot().service)
        assert served == [cost_of(FORESEEN, number) for number in (1, 2, 3)]
        work.note_counted(COUNTED)
    assert desk.snapshot().service == cost_of(20, 30)


# Ended in another way


async def fails(work: Execution) -> None:
    raise LOST


async def fails_after_counting(work: Execution) -> None:
    work.note_counted(COUNTED)
    raise Invalid("it keeps no schema", code="schema_not_kept")


async def fails_after_pieces(work: Execution) -> None:
    work.tally.count(20, 5, 5)
    work.note_sent([Piece("one"), Piece(" two")])
    raise LOST


async def fails_as_nobody_foresaw(work: Execution) -> None:
    work.tally.count(20, 4, 0)
    work.note_sent([Piece("one")])
    raise ZeroDivisionError


async def is_refused(work: Execution) -> None:
    raise Invalid("longer than the context", code="context_length_exceeded")


async def is_cancelled(work: Execution) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def is_cancelled_in_the_prompt(work: Execution) -> None:
    work.tally.count(7, 0, 3)
    await is_cancelled(work)


async def is_cancelled_after_pieces(work: Execution) -> None:
    work.tally.count(20, 4, 0)
    work.note_sent([Piece("one")])
    await is_cancelled(work)


async def is_cancelled_after_counting(work: Execution) -> None:
    work.note_counted(COUNTED)
    await is_cancelled(work)


@dataclass(frozen=True)
class Case:
    """One way to end: what limits are charged, and what the receipt says."""

    end: Callable[[Execution], object]
    charged: Usage
    finish: str
    text: str = ""
    tokens: tuple[int | None, int | None] = (None, None)


CASES = [
    Case(fails, Usage(), "error"),
    Case(fails_after_counting, COUNTED, "error", tokens=(20, 30)),
    Case(fails_after_pieces, Usage(20, 5, 5), "error", "one two", (20, 5)),
    Case(fails_as_nobody_foresaw, Usage(20, 4), "error", "one", (20, 4)),
    Case(is_cancelled, Usage(), "cancelled"),
    Case(is_cancelled_in_the_prompt, Usage(7, 0, 3), "cancelled", tokens=(7, 0)),
    Case(is_refused, Usage(), "error"),
    Case(is_cancelled_after_pieces, Usage(20, 4), "cancelled", "one", (20, 4)),
    Case(is_cancelled_after_counting, COUNTED, "cancelled", tokens=(20, 30)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.end.__name__)
async def test_it_settles_exactly_once_however_it_ends(desk: Desk, clock: SimpleNamespace, case: Case) -> None:
    """Its place is free, its limits are charged once, one receipt says how far it came, and the error goes on."""

    async def run() -> None:
        async with await desk.work() as work:
            clock.s += 0.5
            await case.end(work)  # type: ignore[misc]

    working = asyncio.create_task(run())
    with pytest.raises((AllodError, asyncio.CancelledError, ZeroDivisionError)):
        await working
    assert desk.ends == Ends([(case.charged, 500)])
    assert await desk.is_as_before()
    (statement,) = await desk.front.receipts()
    predicate = statement.predicate
    assert (statement.kind, statement.id, predicate["policy"]["decision"]) == (ANSWER, "r1", "permit")
    assert (predicate["answer"]["finish"], predicate["meter"]["engine_ms"]) == (case.finish, 500)
    assert predicate["meter"]["micros"] == case.charged.prompt_tokens + 2 * case.charged.completion_tokens
    assert (predicate["request"]["tokens"], predicate["answer"]["tokens"]) == case.tokens
    assert desk.snapshot().service == cost_of(case.charged.prompt_tokens, case.charged.completion_tokens)
    assert desk.front.commits_to(statement, chat_answer(case.text))


ODD = [Usage(10**30, 5), Usage(3, -5), Usage(3, 2**53), Usage(3, 5, cached_tokens=-1)]


@pytest.mark.parametrize("usage", ODD, ids=str)
async def test_what_no_receipt_can_say_is_charged_nowhere(desk: Desk, clock: SimpleNamespace, usage: Usage) -> None:
    """The engine counted the impossible: limits, fair queue and ledger all know of its time, and of no tokens."""
    with pytest.raises(Unavailable) as caught:
        async with await desk.work() as work:
            clock.s += 0.5
            work.tally.count(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            work.note_sent([Piece("one")])
            work.note_counted(usage)
    assert caught.value.code == "not_recordable"
    assert desk.ends == Ends([(Usage(), 500)])
    assert await desk.is_as_before()
    assert desk.snapshot().service == 0
    (statement,) = await desk.front.receipts()
    predicate = statement.predicate
    assert (predicate["answer"]["finish"], predicate["answer"]["tokens"]) == ("error", None)
    assert (predicate["meter"]["engine_ms"], predicate["meter"]["micros"]) == (500, 0)
    assert desk.front.commits_to(statement, chat_answer("one"))


@pytest.mark.parametrize("usage", ODD, ids=str)
async def test_what_breaks_off_after_an_odd_count_is_noted(desk: Desk, clock: SimpleNamespace, usage: Usage) -> None:
    """The last that a lost engine said may be the impossible, too."""
    with pytest.raises(Unavailable, match="gone"):
        async with await desk.work() as work:
            work.tally.count(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            raise LOST
    assert desk.ends == Ends([(Usage(), 0)])
    (statement,) = await desk.front.receipts()
    assert (statement.predicate["answer"]["tokens"], statement.predicate["meter"]["micros"]) == (None, 0)


async def test_a_client_that_is_gone_ends_it_too(desk: Desk) -> None:
    """A stream that nobody reads on is closed: what was sent is charged and noted."""

    async def stream() -> AsyncGenerator[str, None]:
        async with await desk.work() as work:
            for number, text in enumerate(("one", " two", " three"), start=1):
                work.tally.count(20, 2 * number, 0)
                work.note_sent([Piece(text)])
                yield text

    async with aclosing(stream()) as answer:
        await anext(answer)
        await anext(answer)
    assert [usage for usage, _ in desk.ends.settled] == [Usage(20, 4)]
    assert await desk.is_as_before()
    (statement,) = await desk.front.receipts()
    assert (statement.predicate["answer"]["finish"], statement.predicate["answer"]["tokens"]) == ("cancelled", 4)


async def test_an_embedding_that_fails_is_charged_for_what_was_embedded(desk: Desk) -> None:
    """Of many texts, those that the engine had done."""
    with suppress(Unavailable):
        async with await desk.work(request(Embed("m", ("x" * 30,)))) as work:
            work.tally.count(6, 0, 0)
            raise LOST
    assert [usage for usage, _ in desk.ends.settled] == [Usage(6)]


async def test_a_receipt_that_cannot_be_made_changes_no_charge(desk: Desk) -> None:
    """The log is gone; limits were charged when the engine was done, and are charged no more."""
    await asyncio.to_thread(desk.front.writer.close)
    with pytest.raises(Unavailable, match="gone"):
        async with await desk.work():
            raise LOST
    work = await desk.work()
    async with work:
        work.note_counted(COUNTED)
    with pytest.raises(Unavailable):
        await work.record(b"answer", "stop")
    assert [usage for usage, _ in desk.ends.settled] == [Usage(), COUNTED]
    assert await desk.is_as_before()


# Never begun


@asynccontextmanager
async def waiting(desk: Desk) -> AsyncIterator[asyncio.Task[Execution]]:
    """Work that waits in the line while another has the only place."""
    work = await desk.work()
    async with desk.admission.turn("other"):
        task = asyncio.create_task(work.__aenter__())
        await until(lambda: desk.admission.inside == 2)
        yield task


async def test_a_wait_that_is_cancelled_is_released(desk: Desk) -> None:
    """Nothing ran, so nothing is charged and nothing is noted."""
    async with waiting(desk) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert desk.ends == Ends([], num_released=1)
    assert await desk.is_as_before()
    assert await desk.front.receipts() == []


async def test_a_wait_that_is_cancelled_as_its_turn_comes_is_released(desk: Desk) -> None:
    """The place goes on to whoever is next, and nothing is charged."""
    async with waiting(desk) as task:
        pass  # the other's place goes to it, and it has not woken yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert desk.ends == Ends([], num_released=1)
    assert await desk.is_as_before()
    assert await desk.front.receipts() == []


async def test_who_finds_no_room_in_the_line_is_released(front: MakeFront) -> None:
    """429 costs nothing, and the tenant may try again at once."""
    async with front(ScriptedEngine("x"), num_running=1, num_waiting=0) as made:
        ends = Ends()
        desk = Desk(made, ends, Watched(made.gateway.allowance, ends))
        async with desk.admission.turn("other"):
            for number in range(3):
                with pytest.raises(Unavailable) as caught:
                    await (await desk.work()).__aenter__()
                assert caught.value.code == "overloaded"
                assert ends == Ends([], num_released=number + 1)
        assert await desk.is_as_before()
        assert await made.receipts() == []
