"""Replicas fail in every way there is under two hundred streams, and everybody is told how the own one ended.

The processes and seals are real, the engine is a few lines; gateway, turns, receipts and log are the real ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.serve.conftest import MakeFront, chat, request, until
from tests.serve.scripted_engine import scripted_options

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.core.requests import Completion
from allod.engine.adapters.echo import EchoEngine
from allod.engine.replicas.member import Member, Sent
from allod.engine.replicas.pool import Pool

NUM_STREAMS, AT_A_TIME, NUM_REPLICAS, SLOTS = 200, 16, 3, 4
HELLO = chat(messages=({"role": "user", "content": "hello"},))
INFO = replace(EchoEngine().info, slots=SLOTS)
QUICK = Deadlines(still_s=1, first_s=1, first_s_per_kib=0, probe_s=1, hung_s=3, let_go_s=1)


def harm(number: int) -> Callable[[Pool, int], None]:
    def harmed(pool: Pool, num_replicas: int) -> None:
        for member in pool.members[:num_replicas]:
            if (process := member.replica.process) is not None:
                os.kill(process.pid, number)

    return harmed


async def streams_of(
    front_of: MakeFront, monkeypatch: pytest.MonkeyPatch, pool: Pool, harmed: Callable[[], None]
) -> tuple[Counter[str], int, int]:
    """How two hundred streams end, sixteen at a time, after the first fifty of which something is `harmed`; how many
    receipts there are of them, and how often an engine was asked."""
    ends: Counter[str] = Counter()
    asked = 0
    send = Member.send

    def counted(member: Member, prompt_tokens: int, answer_tokens: int) -> Sent:
        nonlocal asked
        asked += 1
        return send(member, prompt_tokens, answer_tokens)

    monkeypatch.setattr(Member, "send", counted)
    numbers = iter(range(NUM_STREAMS))
    async with front_of(pool, num_running=NUM_REPLICAS * SLOTS, num_waiting=AT_A_TIME) as made:

        async def client() -> None:
            for number in numbers:
                if number == NUM_STREAMS // 4:
                    harmed()
                ends[await one(number)] += 1

        async def one(number: int) -> str:
            items = []
            try:
                answer = (await made.gateway.stream(request(HELLO, id=f"r{number}"))).value
                async with aclosing(answer):
                    items = [item async for item in answer]
            except Unavailable as error:
                if error.code == "engine_starting":  # as a client does that is told when to ask again
                    await asyncio.sleep(0.1)
                    return "not let in"
                return error.code
            assert isinstance(items[-1], Completion)
            assert items[-1].content == "hello"
            return "whole"

        await asyncio.gather(*(client() for _ in range(AT_A_TIME)))
        num_receipts = len(await made.receipts())
    return ends, num_receipts, asked


@pytest.mark.slow
@pytest.mark.parametrize("num_harmed", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_whoever_had_no_word_is_answered_by_another_replica(
    tmp_path: Path, front: MakeFront, monkeypatch: pytest.MonkeyPatch, number: int, num_harmed: int
) -> None:
    """One replica or two of three are killed or stopped: nothing is lost, each answer has one receipt."""
    pool = Pool([scripted_options(tmp_path / str(each), info=INFO, deadlines=QUICK) for each in range(NUM_REPLICAS)])
    async with asyncio.timeout(60):
        await pool.start()
        try:
            await until(lambda: len(pool._up()) == NUM_REPLICAS)
            ends, num_receipts, asked = await streams_of(
                front, monkeypatch, pool, lambda: harm(number)(pool, num_harmed)
            )
            await until(lambda: len(pool._up()) == NUM_REPLICAS)  # service is back by itself
        finally:
            await pool.close()
    assert ends["whole"] >= NUM_STREAMS - 2 * SLOTS
    assert ends.total() == NUM_STREAMS
    assert num_receipts == NUM_STREAMS - ends["not let in"]
    assert asked <= 1.1 * NUM_STREAMS


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mute", "garbage", "full"])
async def test_a_replica_that_is_of_no_use_harms_few(
    tmp_path: Path, front: MakeFront, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """It takes what it is sent and says nothing, or rubbish, or ends of it, whenever it is started: after the first
    few, others are asked."""
    modes = [mode, *["well"] * (NUM_REPLICAS - 1)]
    pool = Pool([scripted_options(tmp_path / str(n), each, info=INFO, deadlines=QUICK) for n, each in enumerate(modes)])
    async with asyncio.timeout(90):
        await pool.start()
        try:
            await until(lambda: len(pool._up()) == NUM_REPLICAS)
            ends, num_receipts, asked = await streams_of(front, monkeypatch, pool, lambda: None)
        finally:
            await pool.close()
    print(mode, ends, asked)
    assert ends["whole"] >= NUM_STREAMS - SLOTS
    assert num_receipts == NUM_STREAMS
    assert asked <= 1.1 * NUM_STREAMS


@pytest.mark.slow
async def test_when_all_die_engines_are_asked_a_tenth_more_at_most(
    tmp_path: Path, front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every replica ends of whatever it is sent: everybody hears so, and nothing goes round in circles."""
    pool = Pool([scripted_options(tmp_path / str(n), "full", info=INFO, deadlines=QUICK) for n in range(NUM_REPLICAS)])
    async with asyncio.timeout(90):
        await pool.start()
        try:
            ends, num_receipts, asked = await streams_of(front, monkeypatch, pool, lambda: None)
        finally:
            await pool.close()
    print(ends, asked)
    assert ends["whole"] == 0
    assert ends.total() == NUM_STREAMS
    assert num_receipts == NUM_STREAMS - ends["not let in"]
    assert asked <= 1.1 * NUM_STREAMS
