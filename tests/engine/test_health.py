"""Whether an engine is of use, by its words and by what the kernel says of its process: real processes, no engine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.serve.conftest import until

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.engine.replicas.health import Health

SLEEPING = "import time; time.sleep(60)"
COMPUTING = "while True: pass"
IN_A_THREAD = "import threading; threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start(); " + (
    "threading.Event().wait(60)"
)
PATIENT = Deadlines(probe_s=1, still_s=1, hung_s=60)


class Mute:
    """An engine that answers no probe, or each at once. `speaks`: it says something to somebody all the time."""

    is_stuck = False

    def __init__(self, *, speaks: bool = False, answers: bool = False) -> None:
        self._speaks = speaks
        self._answers = answers
        self._said_s = asyncio.get_running_loop().time()
        self.num_probes = 0

    @property
    def heard_s(self) -> float:
        return asyncio.get_running_loop().time() if self._speaks else self._said_s

    async def probe(self) -> None:
        self.num_probes += 1
        if self._answers:
            self._said_s = asyncio.get_running_loop().time()
            return
        await asyncio.sleep(60)
        raise Unavailable("it said nothing", code="engine_silent")


class Watch:
    """Looks at the engine all the while; `faults` are what was found."""

    def __init__(
        self, process: subprocess.Popen[bytes], engine: Mute, deadlines: Deadlines, has_accelerators: bool
    ) -> None:
        self.process = process
        self.engine = engine
        self.faults: list[str] = []
        self._health = Health(engine, process.pid, deadlines, spare_bytes=1 << 30, has_accelerators=has_accelerators)

    async def look(self) -> None:
        while True:
            if fault := await self._health.fault():
                self.faults.append(fault)
            await asyncio.sleep(0.05)

    def close(self) -> None:
        self._health.close()


@asynccontextmanager
async def watched(
    program: str,
    deadlines: Deadlines = PATIENT,
    *,
    speaks: bool = False,
    answers: bool = False,
    has_accelerators: bool = False,
) -> AsyncIterator[Watch]:
    process = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-S", "-c", program])
    watch = Watch(process, Mute(speaks=speaks, answers=answers), deadlines, has_accelerators)
    looking = asyncio.create_task(watch.look())
    try:
        yield watch
    finally:
        looking.cancel()
        watch.close()
        process.kill()
        await asyncio.to_thread(process.wait)


async def test_one_that_owes_a_word_and_computes_nothing_is_hung_soon() -> None:
    """It is deadlocked, or waits for what does not come: nobody waits for it as for one that is busy."""
    async with watched(SLEEPING) as watch:
        await until(lambda: bool(watch.faults))
    assert watch.engine.num_probes == 1
    assert watch.faults[0] == "said and computed nothing although it was asked for 1 s"


@pytest.mark.parametrize("program", [COMPUTING, IN_A_THREAD], ids=["computing", "computing in a thread"])
async def test_one_that_computes_is_only_busy(program: str) -> None:
    """Though it owes a word, and its main thread sleeps."""
    async with watched(program) as watch:
        await until(lambda: watch.engine.num_probes == 1)
        await asyncio.sleep(2.5)
    assert watch.faults == []


async def test_one_that_sleeps_in_a_call_of_its_accelerators_driver_is_only_busy() -> None:
    """It owes a word and uses no processor time for longer than any other may, and another computes for it; but it too
    has an end."""
    async with watched(SLEEPING, replace(PATIENT, hung_s=4), has_accelerators=True) as watch:
        await until(lambda: watch.engine.num_probes == 1)
        await asyncio.sleep(2.5)
        assert watch.faults == []
        await until(lambda: bool(watch.faults))
    assert watch.faults[0] == "said nothing for 4 s although it was asked"


async def test_one_with_accelerators_that_is_stopped_is_hung_soon() -> None:
    """That, the kernel knows of it as of any other."""
    async with watched(SLEEPING, speaks=True, has_accelerators=True) as watch:
        os.kill(watch.process.pid, signal.SIGSTOP)
        await until(lambda: bool(watch.faults))
    assert watch.faults[0] == "was stopped for 1 s"


async def test_one_that_nobody_asked_anything_may_rest() -> None:
    """An idle engine computes nothing, and nothing is wrong with it."""
    async with watched(SLEEPING, speaks=True) as watch:
        await asyncio.sleep(2.5)
    assert watch.faults == []


async def test_one_that_answers_in_the_same_tick_of_the_clock_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop's clock goes by milliseconds, and an idle engine needs less: it owes nothing after that."""
    loop = asyncio.get_running_loop()
    exact = loop.time
    monkeypatch.setattr(loop, "time", lambda: int(exact() * 10) / 10)
    async with watched(SLEEPING, answers=True) as watch:
        await until(lambda: watch.engine.num_probes == 3)
    assert watch.faults == []


@pytest.mark.parametrize("program", [SLEEPING, COMPUTING], ids=["sleeping", "computing"])
async def test_a_stopped_process_is_hung_soon(program: str) -> None:
    """Whatever it did and whoever heard of it a moment ago: it will not do any more."""
    async with watched(program, speaks=True) as watch:
        os.kill(watch.process.pid, signal.SIGSTOP)
        await until(lambda: bool(watch.faults))
    assert watch.faults[0] == "was stopped for 1 s"


async def test_one_that_was_stopped_for_a_moment_goes_on() -> None:
    """Somebody looked into it."""
    async with watched(COMPUTING, replace(PATIENT, still_s=3), speaks=True) as watch:
        for _ in range(10):
            os.kill(watch.process.pid, signal.SIGSTOP)
            await asyncio.sleep(0.3)
            os.kill(watch.process.pid, signal.SIGCONT)
            await asyncio.sleep(0.1)
    assert watch.faults == []


async def test_one_that_computes_and_says_nothing_for_long_is_hung() -> None:
    """Busy or not: who asked something has an answer at last."""
    async with watched(COMPUTING, replace(PATIENT, hung_s=2)) as watch:
        await until(lambda: bool(watch.faults))
    assert watch.faults[0] == "said nothing for 2 s although it was asked"


async def test_a_process_that_cannot_be_looked_at_is_left_alone() -> None:
    """What is not known is no reason to end anything."""
    nobody = 2**22 + 1  # beyond the highest number of a process
    assert await Health(Mute(speaks=True), nobody, PATIENT, spare_bytes=0).fault() is None
