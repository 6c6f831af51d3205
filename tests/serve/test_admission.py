"""The line in front of the engine: bounded, first come first served, and no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from allod.core.errors import Unavailable
from allod.serve.admission import Admission


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class Guests:
    """Requests that hold their turn until told to leave."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.running: list[int] = []
        self.order: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def arrive(self, number: int) -> None:
        self.leave[number] = asyncio.Event()
        self.tasks[number] = asyncio.create_task(self._stay(number))

    async def _stay(self, number: int) -> None:
        async with self.admission.turn():
            self.running.append(number)
            self.order.append(number)
            try:
                await self.leave[number].wait()
            finally:
                self.running.remove(number)

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_no_more_run_than_may() -> None:
    """Five come, two run, three wait."""
    guests = Guests(Admission(num_running=2, num_waiting=10))
    for number in range(5):
        guests.arrive(number)
    await settle()
    assert guests.running == [0, 1]
    assert guests.admission.inside == 5
    await guests.end()


async def test_first_come_first_served() -> None:
    """A turn that is given back goes to whoever has waited longest."""
    guests = Guests(Admission(num_running=1, num_waiting=10))
    for number in range(5):
        guests.arrive(number)
    for number in range(5):
        await settle()
        assert guests.running == [number]
        guests.leave[number].set()
    await settle()
    assert guests.order == [0, 1, 2, 3, 4]
    await guests.end()


async def test_a_full_line_says_no_at_once() -> None:
    """With a code and a promise of when to come back; and those inside are not disturbed."""
    guests = Guests(Admission(num_running=1, num_waiting=1))
    guests.arrive(0)
    guests.arrive(1)
    await settle()
    with pytest.raises(Unavailable) as caught:
        async with guests.admission.turn():
            pass
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after_s is not None
    assert guests.admission.inside == 2
    await guests.end()


async def test_with_no_line_only_those_run_who_can() -> None:
    """`num_waiting` of 0 means that nobody waits."""
    guests = Guests(Admission(num_running=1, num_waiting=0))
    guests.arrive(0)
    await settle()
    with pytest.raises(Unavailable):
        async with guests.admission.turn():
            pass
    await guests.end()


async def test_whoever_gives_up_waiting_frees_a_place() -> None:
    """A cancelled wait is no longer inside, and the next in line is not skipped."""
    guests = Guests(Admission(num_running=1, num_waiting=2))
    for number in range(3):
        guests.arrive(number)
    await settle()
    guests.tasks[1].cancel()
    await settle()
    assert guests.admission.inside == 2
    guests.leave[0].set()
    await settle()
    assert guests.running == [2]
    await guests.end()


async def test_a_turn_that_was_just_given_is_not_lost_by_cancelling() -> None:
    """Cancelled in the moment between being woken and running, it passes to the next."""
    guests = Guests(Admission(num_running=1, num_waiting=2))
    for number in range(3):
        guests.arrive(number)
    await settle()
    guests.leave[0].set()
    for _ in range(10):
        if not guests.running:
            break
        await asyncio.sleep(0)
    assert guests.running == []
    guests.tasks[1].cancel()
    await settle()
    assert guests.running == [2]
    await guests.end()


async def test_failing_inside_gives_the_turn_back() -> None:
    """Whatever is raised during a turn."""
    admission = Admission(num_running=1, num_waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with admission.turn():
                raise ZeroDivisionError
    assert admission.inside == 0
    async with admission.turn():
        assert admission.inside == 1
