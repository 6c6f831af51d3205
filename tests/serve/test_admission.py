"""Turns, awaited: bounded, fair to tenants, whoever is chosen is woken and nobody else, and no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from allod.core.errors import Unavailable
from allod.core.requests import Usage
from allod.serve.admission import Admission, Turn


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
        self.turns: dict[int, Turn] = {}

    def arrive(self, number: int, tenant: str = "a") -> None:
        self.leave[number] = asyncio.Event()
        self.tasks[number] = asyncio.create_task(self._stay(number, tenant))

    async def _stay(self, number: int, tenant: str) -> None:
        async with self.admission.turn(tenant, prompt_tokens=5, max_tokens=20) as self.turns[number]:
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


async def test_one_tenant_is_served_in_order() -> None:
    """A turn that is given back goes to whoever of the tenant has waited longest."""
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
        async with guests.admission.turn("a"):
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
        async with guests.admission.turn("a"):
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


async def test_a_turn_given_to_somebody_who_has_just_left_goes_on() -> None:
    """Cancelled in the very moment before it is chosen, it passes the place on."""
    guests = Guests(Admission(num_running=1, num_waiting=2))
    for number in range(3):
        guests.arrive(number)
    await settle()
    guests.leave[0].set()
    guests.tasks[1].cancel()
    await settle()
    assert guests.running == [2]
    assert not guests.tasks[0].exception()
    await guests.end()


async def test_failing_inside_gives_the_turn_back() -> None:
    """Whatever is raised during a turn."""
    admission = Admission(num_running=1, num_waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with admission.turn("a"):
                raise ZeroDivisionError
    assert admission.inside == 0
    async with admission.turn("a"):
        assert admission.inside == 1


async def test_another_tenant_need_not_wait_for_a_whole_crowd() -> None:
    """It came last, and has the next turn."""
    guests = Guests(Admission(num_running=1, num_waiting=100))
    for number in range(20):
        guests.arrive(number)
    guests.arrive(20, "b")
    await settle()
    guests.leave[0].set()
    await settle()
    assert guests.running == [20]
    await guests.end()


async def test_a_place_has_its_next_owner_before_it_is_given_back() -> None:
    """Whoever comes in the same moment cannot slip in, and only the one chosen is woken."""
    admission = Admission(num_running=1, num_waiting=10)
    guests = Guests(admission)
    async with admission.turn("a"):
        guests.arrive(1, "b")
        guests.arrive(2, "c")
        await settle()
    late = asyncio.create_task(admission.turn("d").__aenter__())
    assert [(one.tenant, one.num_running) for one in admission.snapshots() if one.num_running] == [("b", 1)]
    await settle()
    assert guests.running == [1]
    assert not late.done()
    late.cancel()
    await guests.end()


async def test_a_thousand_connections_of_one_tenant() -> None:
    """Most are refused at once, with when to come back; the others wait, and another tenant still gets its turn."""
    guests = Guests(Admission(num_running=2, num_waiting=64))
    for number in range(1000):
        guests.arrive(number)
    guests.arrive(1000, "b")
    await settle()
    refused = [task.exception() for task in guests.tasks.values() if task.done()]
    assert len(refused) == 1000 - 2 - 52
    assert all(isinstance(error, Unavailable) and error.retry_after_s == 1 for error in refused)
    guests.leave[0].set()
    await settle()
    assert guests.running == [1, 1000]
    await guests.end()


async def test_whoever_is_cancelled_while_waiting_is_charged_nothing() -> None:
    """Whether before its turn came or in the same moment: a line of leavers leaves nothing behind."""
    guests = Guests(Admission(num_running=1, num_waiting=100))
    guests.arrive(0)
    for number in range(1, 20):
        guests.arrive(number, "b")
    await settle()
    guests.leave[0].set()
    for number in range(1, 20):
        guests.tasks[number].cancel()
        await asyncio.sleep(0)
    await settle()
    assert guests.admission.inside == 0
    assert {one.tenant: one.service for one in guests.admission.snapshots()}["b"] == 0


async def test_a_turn_tells_what_it_used() -> None:
    """While it streams and at its end; `snapshot` shows the cost of the tokens so far."""
    admission = Admission(num_running=1, num_waiting=0)
    async with admission.turn("a", weight=3, prompt_tokens=10, max_tokens=100) as turn:
        turn.used(1)
        turn.used(7)
        (running,) = admission.snapshots()
        assert (running.weight, running.num_running, running.service) == (3, 1, 10 + 2 * 7)
        turn.finish(Usage(12, 8))
    (idle,) = admission.snapshots()
    assert (idle.num_running, idle.service) == (0, 12 + 2 * 8)


async def test_who_would_wait_too_long_is_refused() -> None:
    """Once the pace is known; with how long it would have been, rounded up."""
    guests = Guests(Admission(num_running=1, num_waiting=100, max_wait_s=0.1))
    guests.arrive(0)
    guests.arrive(1)
    await asyncio.sleep(0.08)
    guests.leave[0].set()
    await settle()
    with pytest.raises(Unavailable, match="it would wait") as caught:
        for number in range(2, 9):
            guests.arrive(number)
            await settle()
            if guests.tasks[number].done():
                await guests.tasks[number]
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after_s == 1
    await guests.end()


async def test_a_wait_that_was_foreseen_wrongly_ends_all_the_same() -> None:
    """On arrival nobody knew how long the place would be kept; after `max_wait_s` the request hears so, and is gone."""
    admission = Admission(num_running=1, num_waiting=4, max_wait_s=0.05)
    async with admission.turn("a"):
        with pytest.raises(Unavailable) as caught:
            async with admission.turn("b"):
                pass
        assert (caught.value.code, admission.inside) == ("overloaded", 1)
    async with asyncio.timeout(1), admission.turn("b"):
        pass


async def test_places_that_come_are_taken_at_once_and_places_that_go_are_given_back() -> None:
    """Who waits runs as soon as there is room; nobody who runs is stopped, and no turn begins until few enough run."""
    guests = Guests(Admission(num_running=1, num_waiting=10))
    for number in range(6):
        guests.arrive(number)
    await settle()
    guests.admission.resize(4)
    await settle()
    assert guests.running == [0, 1, 2, 3]
    guests.admission.resize(2)
    for number in (0, 1):
        guests.leave[number].set()
        await settle()
    assert guests.running == [2, 3]
    assert guests.admission.inside == 4
    guests.leave[2].set()
    await settle()
    assert guests.running == [3, 4]
    await guests.end()
    assert guests.admission.inside == 0
    guests.arrive(7)
    await settle()
    assert guests.running == [7]
    await guests.end()
