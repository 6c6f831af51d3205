"""A pool: several replicas of one model as one engine. The processes are real, and so are their seals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.serve.conftest import MakeFront, answered, chat, request, until
from tests.serve.scripted_engine import scripted_options

from allod.core.deadlines import Deadlines
from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import ReplicaPace, Tally
from allod.engine.replicas.pool import Moves, Pool
from allod.engine.replicas.replica import Replica

Run = Callable[..., AbstractAsyncContextManager[Pool]]
INFO = replace(EchoEngine().info, slots=2)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`async with run(mode, mode, ...)`: a pool of a replica in each mode, all of them up."""

    @asynccontextmanager
    async def started(*modes: str, num_up: int = 0, **changes: Any) -> AsyncGenerator[Pool, None]:
        given = {"info": INFO, **changes}
        pool = Pool([scripted_options(tmp_path / str(number), mode, **given) for number, mode in enumerate(modes)])
        async with asyncio.timeout(20):
            await pool.start()
            try:
                await until(lambda: num_of(pool) >= (num_up or len(modes)))
                yield pool
            finally:
                await pool.close()

    return started


def replicas_of(pool: Pool) -> list[Replica]:
    return [member.replica for member in pool.members]


def num_of(pool: Pool) -> int:
    """How many are up."""
    return sum(replica.engine is not None for replica in replicas_of(pool))


def saying(text: str) -> Chat:
    return chat(messages=({"role": "user", "content": text},))


def kill(replica: Replica, number: int = signal.SIGKILL) -> None:
    assert replica.process is not None
    os.kill(replica.process.pid, number)


async def test_requests_go_to_the_replica_that_has_fewest(run: Run) -> None:
    """Counted when they are sent, so that those who come at once are spread; and the answer names who made it."""
    async with run("well", "well", "well") as pool:
        tallies = [Tally(pool.info) for _ in range(6)]
        asking = [asyncio.create_task(pool.complete(saying("wait"), salt="s", tally=tally)) for tally in tallies]
        await until(lambda: sum(member.num_running for member in pool.members) == len(tallies))
        await asyncio.sleep(0.1)
        assert Counter(tally.made_by.seal_proof for tally in tallies) == {
            replica.info.seal_proof: 2 for replica in replicas_of(pool)
        }
        await pool.close()
        await asyncio.gather(*asking, return_exceptions=True)


LONG = "It is so that " * 60  # three blocks that are looked at


async def numbers_of(pool: Pool, *texts: str, salt: str = "s") -> list[int]:
    """Which replica answers each, by its number."""
    numbers = []
    for text in texts:
        tally = Tally(pool.info)
        await pool.complete(saying(text), salt=salt, tally=tally)
        proofs = [replica.info.seal_proof for replica in replicas_of(pool)]
        numbers.append(proofs.index(tally.made_by.seal_proof) + 1)
    return numbers


async def test_a_conversation_stays_where_its_beginning_was_computed(run: Run) -> None:
    """Though others have less to do; what begins otherwise, or under another salt, goes where its home is."""
    async with run("well", "well", "well") as pool:
        (first,) = await numbers_of(pool, LONG)
        busy = asyncio.create_task(pool.members[first - 1].replica.engine.complete(saying("tell"), salt="s"))  # type: ignore[union-attr]
        assert await numbers_of(pool, *(f"{LONG} and {number}" for number in range(6))) == [first] * 6
        others = await numbers_of(pool, *(f"{number} {LONG}" for number in range(24)))
        assert set(others) == {1, 2, 3}
        salted = [(await numbers_of(pool, f"{number} {LONG}", salt=f"salt {number}"))[0] for number in range(24)]
        assert salted != others
        await busy


async def test_a_replica_that_was_started_again_holds_nothing(run: Run) -> None:
    """What it had computed is gone with its process."""
    async with run("well", "well") as pool:
        (first,) = await numbers_of(pool, LONG)
        held = len(pool._prefixes)
        assert held > 0
        kill(pool.members[first - 1].replica)
        await until(lambda: num_of(pool) == 1)
        await until(lambda: num_of(pool) == 2)
        assert len(pool._prefixes) == 0


async def test_what_is_counted_is_given_back(run: Run) -> None:
    """However a request ends: work and numbers are nothing when nothing runs."""
    async with run("well", "well", deadlines=Deadlines(let_go_s=1)) as pool:
        async with aclosing(pool.stream(saying("tell"), salt="s")) as answer:
            await anext(answer)
            assert sum(member.work for member in pool.members) > 0
        asking = asyncio.create_task(pool.complete(saying("wait"), salt="s"))
        await until(lambda: sum(member.num_running for member in pool.members) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        with pytest.raises(Unavailable):
            await pool.embed(Embed("m", ("a text",)))  # of which this engine ends the connection
        assert [(member.work, member.num_running) for member in pool.members] == [(0, 0)] * 2


async def test_there_are_as_many_turns_as_replicas_that_are_up_have_slots(run: Run, front: MakeFront) -> None:
    """Who waits for a turn has it as soon as another replica comes up; none is taken back when one goes."""
    told: list[int] = []
    async with run("well", "well") as pool:
        pool.watch_slots(told.append)
        assert pool.info.slots == 4
        kill(pool.members[1].replica)
        await until(lambda: num_of(pool) == 1)
        assert pool.info.slots == 2
        await until(lambda: num_of(pool) == 2)
        assert (pool.info.slots, told[0], told[-1]) == (4, 2, 4)


@pytest.mark.parametrize("text", ["once end", "once half"])
async def test_a_request_that_was_sent_nothing_is_moved_and_one_that_was_is_not(
    run: Run, tmp_path: Path, text: str
) -> None:
    """To a replica that is up, without waiting for the lost one; a second beginning would be another one."""
    async with run("well", "well") as pool:
        tally = Tally(pool.info)
        pieces: list[Any] = []
        failure = None
        (tmp_path / "1" / "sockets" / "once").touch()  # only the first ends of it
        try:
            async with aclosing(pool.stream(saying(text), salt="s", tally=tally)) as answer:
                pieces = [item async for item in answer]
        except Unavailable as error:
            failure = error.code
        if text == "once end":
            assert isinstance(pieces[-1], Completion)
            assert tally.made_by.seal_proof == pool.members[1].replica.info.seal_proof
        else:
            assert failure == "engine_lost"
        await until(lambda: num_of(pool) == 2)


async def test_a_replica_that_is_lost_costs_the_others_nothing(run: Run) -> None:
    """What runs on them goes on, and what comes is answered at once."""
    async with run("well", "well", restart_wait_s=0.5) as pool:
        async with aclosing(pool.stream(saying("tell"), salt="s")) as first:
            await anext(first)  # at the first replica
            kill(pool.members[1].replica)
            answers = await asyncio.gather(*(pool.complete(saying("hello"), salt="s") for _ in range(3)))
            answers += [await pool.complete(saying("hello"), salt="s") for _ in range(20)]
            assert {answer.content for answer in answers} == {"hello"}
            *_, last = [item async for item in first]
        assert isinstance(last, Completion)
        await until(lambda: num_of(pool) == 2)


async def test_a_stopped_replica_gives_up_what_it_was_sent(run: Run) -> None:
    """It is ended, and requests that it has answered nothing are answered by another."""
    async with run("well", "well", deadlines=Deadlines(still_s=1)) as pool:
        kill(pool.members[0].replica, signal.SIGSTOP)
        asking = [asyncio.create_task(pool.complete(saying("hello"), salt="s")) for _ in range(4)]
        answers = await asyncio.gather(*asking)
        assert {answer.content for answer in answers} == {"hello"}


async def test_one_replica_is_enough_to_be_ready_and_to_start(run: Run) -> None:
    """The others' failure is theirs: it is tried again, and said in the log."""
    async with run("well", "never", num_up=1) as pool:
        pool.check_ready()
        assert pool.info.slots == 2
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"
        assert len(await asyncio.to_thread(pool.evidence)) == 1
        await until(lambda: not pool.members[1].replica.is_coming)


async def test_when_all_are_lost_a_request_of_before_waits_for_the_first_that_comes(run: Run) -> None:
    """And who comes meanwhile is told why, and when to ask again."""
    async with run("well", "well") as pool:
        for replica in replicas_of(pool):
            kill(replica)
        await until(lambda: num_of(pool) == 0)
        with pytest.raises(Unavailable, match="being started again"):
            pool.check_ready()
        tally, next_tally = Tally(pool.info), Tally(pool.info)
        assert (await pool.complete(saying("hello"), salt="s", tally=tally)).content == "hello"
        await pool.complete(saying("hello"), salt="s", tally=next_tally)
    assert tally.waited_s > 0  # which is no engine's time, and is not charged
    assert next_tally.waited_s == 0


async def test_a_request_that_ends_engines_does_not_end_them_all(run: Run) -> None:
    """It is moved once. And of many such requests few are moved: an engine is asked a tenth more often at most."""
    async with run("well", "well", "well") as pool:
        with pytest.raises(Unavailable) as caught:
            await pool.complete(saying("end"), salt="s")
        assert caught.value.code == "engine_lost"
        assert num_of(pool) >= 1
        await until(lambda: num_of(pool) == 3)


def test_moves_are_a_part_of_the_requests() -> None:
    """However many are lost, engines are asked at most a tenth more often than there are requests, of 200 or more."""
    for num_requests in (200, 1000, 5000):
        moves = Moves(num_spare=3)
        num_moved = 0
        for _ in range(num_requests):
            moves.earn()
            num_moved += moves.take()
        assert 3 <= num_moved <= num_requests / 10


def test_what_one_replica_had_under_way_can_be_moved_at_once() -> None:
    """Even if nobody has asked for long; and what was earned in quiet times is no store for a storm."""
    moves = Moves(num_spare=4)
    for _ in range(10_000):
        moves.earn()
    assert [moves.take() for _ in range(6)] == [True] * 5 + [False]


async def test_only_replicas_under_the_seal_that_was_decided_on_are_asked(run: Run) -> None:
    """Policy was asked about one kind of seal; a replica under another is as good as none."""
    async with run("well", "well") as pool:
        pool.members[0].replica.info = replace(pool.members[0].replica.info, seal="partial")
        decided = pool.members[1].replica.info
        for _ in range(4):
            tally = Tally(decided)
            await pool.complete(saying("hello"), salt="s", tally=tally)
            assert tally.made_by.seal_proof == decided.seal_proof
        with pytest.raises(Unavailable) as caught:
            await pool.complete(saying("hello"), salt="s", tally=Tally(replace(decided, seal="none")))
        assert caught.value.code == "seal_changed"


async def test_receipts_name_the_replica_that_answered(run: Run, front: MakeFront) -> None:
    """By the digest of the evidence of its process, which is no other's; through the end of one of them, too."""
    async with run("well", "well", "well") as pool, front(pool, num_running=12) as made:
        proofs = {replica.info.seal_proof for replica in replicas_of(pool)}
        await asyncio.gather(
            *(answered(made.gateway, request(saying(f"hello {number}"), id=f"a{number}")) for number in range(12))
        )
        kill(pool.members[2].replica)
        await until(lambda: num_of(pool) == 2)
        await until(lambda: num_of(pool) == 3)
        proofs |= {pool.members[2].replica.info.seal_proof}
        await asyncio.gather(
            *(answered(made.gateway, request(saying(f"hello {number}"), id=f"b{number}")) for number in range(12))
        )
        named = Counter(receipt.predicate["seal"]["proof"] for receipt in await made.receipts())
    assert set(named) == proofs
    assert sum(named.values()) == 24


async def test_a_drained_replica_is_sent_nothing_and_goes_on_with_what_it_has(run: Run) -> None:
    """Until it is resumed; there are fewer turns meanwhile."""
    async with run("well", "well") as pool:
        async with aclosing(pool.stream(saying("tell"), salt="s")) as answer:
            await anext(answer)
            pool.drain(1)
            assert pool.info.slots == 2
            for _ in range(4):
                await pool.complete(saying("hello"), salt="s")
            first, second = pool.statuses()
            assert (first.state, first.num_running, first.num_answered) == ("draining", 1, 0)
            assert (second.state, second.num_answered) == ("up", 4)
            *_, last = [item async for item in answer]
        assert isinstance(last, Completion)
        pool.resume(1)
        assert [status.state for status in pool.statuses()] == ["up", "up"]
        assert pool.info.slots == 4


async def test_a_restart_waits_for_what_runs_and_breaks_nothing(run: Run) -> None:
    """Each of three in turn, under a steady stream of requests: none of them fails."""
    async with run("well", "well", "well") as pool:
        is_over = False

        async def ask() -> int:
            num_answered = 0
            while not is_over:
                await pool.complete(saying("hello"), salt="s")
                num_answered += 1
            return num_answered

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for number in (1, 2, 3):
            pool.restart(number)
            await until(lambda number=number: pool.statuses()[number - 1].num_starts == 2)  # type: ignore[misc]
        is_over = True
        assert min(await asyncio.gather(*asking)) > 0
        assert {status.num_failed for status in pool.statuses()} == {0}


async def test_a_restart_that_is_asked_for_twice_is_made_once(run: Run) -> None:
    """Who asks while another is being started has what was asked for: its first requests are not broken."""
    async with run("slowly", "well") as pool:
        pool.restart(1)
        await until(lambda: pool.statuses()[0].state == "starting")
        pool.restart(1)
        await until(lambda: pool.statuses()[0].state == "up")
        await asyncio.sleep(0.3)
        assert (pool.statuses()[0].num_starts, pool.statuses()[0].state) == (2, "up")


async def test_who_drains_or_resumes_takes_a_restart_back(run: Run) -> None:
    """The last word holds: a replica that somebody looks at is not started again by an order of before."""
    async with run("well", "well") as pool:
        async with aclosing(pool.stream(saying("tell"), salt="s")) as answer:
            await anext(answer)
            pool.restart(1)
            pool.resume(1)
            pool.drain(1)
            async for _ in answer:
                pass
        await asyncio.sleep(0.3)
        assert (pool.statuses()[0].num_starts, pool.statuses()[0].state) == (1, "draining")


async def test_with_one_draining_and_the_other_lost_none_is_ready(run: Run) -> None:
    """And that is said at once, with the reason of the lost one, not after a wait for who is up and not asked."""
    async with run("well", "after", restart_wait_s=60.0) as pool:
        pool.drain(1)
        kill(pool.members[1].replica)
        await until(lambda: pool.statuses()[1].state == "down")
        async with asyncio.timeout(2):
            with pytest.raises(Unavailable, match="out of memory") as asked:
                await pool.complete(saying("hello"), salt="s")
        with pytest.raises(Unavailable, match="out of memory"):
            pool.check_ready()
        assert asked.value.code == "engine_starting"
        pool.resume(1)
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"


async def test_a_drain_has_an_end(run: Run) -> None:
    """A replica that works on something for ever is started again after `drain_s` all the same."""
    async with run("well", "well", deadlines=Deadlines(drain_s=0)) as pool:
        asking = asyncio.create_task(pool.complete(saying("once wait"), salt="s"))
        await until(lambda: pool.members[0].num_running == 1)
        pool.restart(1)
        await until(lambda: pool.statuses()[0].num_starts == 2)
        asking.cancel()


async def test_the_last_that_answers_is_not_drained(run: Run) -> None:
    """Nor is there one of another number."""
    async with run("well", "well") as pool:
        pool.drain(2)
        with pytest.raises(Invalid) as caught:
            pool.restart(1)
        assert caught.value.code == "last_replica"
        for number in (0, 3):
            with pytest.raises(Invalid) as wrong:
                pool.drain(number)
            assert wrong.value.code == "no_such_replica"
        assert (await pool.complete(saying("hello"), salt="s")).content == "hello"


async def test_a_status_says_why(run: Run) -> None:
    """What is down says why it does not start, and what failed says how."""
    async with run("well", "never", "garbage", num_up=2) as pool:
        await until(lambda: pool.statuses()[1].state == "down")
        await asyncio.gather(*(pool.complete(saying("hello"), salt="s") for _ in range(2)))
        well, never, garbage = pool.statuses()
        assert (well.state, well.why, well.pid is None) == ("up", "", False)
        assert "no such model" in never.why
        assert (never.pid, never.seal_proof, never.started_ms) == (None, None, None)
        assert (garbage.state, garbage.num_failed) == ("suspect", 1)
        assert garbage.why.startswith("the engine")


async def test_a_replica_says_how_fast_it_answers(run: Run) -> None:
    """By what it has answered itself: a stream has a first piece, a whole answer none, and who answered nothing says
    nothing."""
    loop = asyncio.get_running_loop()
    async with run("well", "well", "well") as pool:
        pool.drain(3)
        pool.drain(2)
        whole = await pool.complete(saying("hello"), salt="s")
        assert pool.statuses()[0].pace.first_token_ms_p50 is None
        pool.resume(2)
        pool.drain(1)
        start_s = loop.time()
        async with aclosing(pool.stream(saying("tell"), salt="s")) as answer:
            await anext(answer)
            until_first_ms = (loop.time() - start_s) * 1000
            async for last in answer:
                if isinstance(last, Completion):
                    break  # as whoever has all of it may
        assert [status.num_answered for status in pool.statuses()] == [1, 1, 0]
        first, second, third = (status.pace for status in pool.statuses())
    assert isinstance(last, Completion)
    assert whole.usage.completion_tokens != last.usage.completion_tokens
    assert first.tokens_per_s == whole.usage.completion_tokens / 60
    assert second.tokens_per_s == last.usage.completion_tokens / 60
    assert second.first_token_ms_p50 == second.first_token_ms_p90
    assert 0 < (second.first_token_ms_p50 or 0) <= until_first_ms
    assert third == ReplicaPace(None, None, None, None)


async def test_vectors_are_made_by_any_replica(run: Run) -> None:
    """What the model cannot do is not tried again elsewhere, and counts against nobody."""
    async with run("well", "well", info=replace(INFO, can_embed=False)) as pool:
        before = [replica.process for replica in replicas_of(pool)]
        for _ in range(5):
            with pytest.raises(Exception, match="no embeddings"):
                await pool.embed(Embed("m", ("a",)))
        assert [replica.process for replica in replicas_of(pool)] == before
