"""Slots: what one tenant computed is never reused for another, and no slot is idle while somebody waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Unavailable
from allod.engine.adapters.llama_slots import LONG_PROMPT, SlotLease, SlotQueue, Slots, common_prefix

SALTS = ("a", "b", "c")


def used(slots: Slots, salt: str, prompt: bytes) -> SlotLease:
    """A request that was answered."""
    lease = slots.take(salt, prompt)
    assert lease is not None
    lease.begun = True
    slots.give_back(lease)
    return lease


@dataclass
class Engine:
    """What really is in an engine's slots: whose prompt was computed there last."""

    content: dict[int, str] = field(default_factory=dict)

    def end(self, lease: SlotLease, ending: str) -> None:
        """A refused request leaves what was there; one cut short may have left its own; an answered one has."""
        if ending != "refused":
            self.content[lease.slot] = lease.salt
        lease.begun = ending == "answered"


Step = tuple[str, bytes] | tuple[int, str]
steps = st.one_of(
    st.tuples(st.sampled_from(SALTS), st.binary(max_size=3)),
    st.tuples(st.integers(0, 7), st.sampled_from(["answered", "cut short", "refused"])),
)


@given(num_slots=st.integers(1, 4), told=st.lists(steps, max_size=60))
def test_what_is_reused_is_always_of_the_requests_own_salt(num_slots: int, told: list[Step]) -> None:
    """However requests begin, end, fail and are cut short, and whatever the engine then holds."""
    slots, engine = Slots(num_slots), Engine()
    running: list[SlotLease] = []
    for what, how in told:
        if isinstance(what, str):
            assert isinstance(how, bytes)
            lease = slots.take(what, how)
            assert (lease is None) == (len(running) == num_slots)
            if lease is not None:
                assert not lease.reuse or engine.content[lease.slot] == lease.salt
                assert lease.slot not in {other.slot for other in running}
                running.append(lease)
        elif running:
            lease = running.pop(what % len(running))
            assert isinstance(how, str)
            engine.end(lease, how)
            slots.give_back(lease)


def test_a_conversation_goes_on_where_it_was() -> None:
    """Of several free slots of its salt a prompt takes the one that holds most of it, not the one used last."""
    slots = Slots(3)
    first = used(slots, "a", b"[one, two")
    second = used(slots, "a", b"(three, four")
    assert first.slot != second.slot
    again = slots.take("a", b"[one, two, three")
    assert again is not None
    assert (again.slot, again.reuse) == (first.slot, True)


def test_a_prompt_that_shares_nothing_does_not_push_out_its_tenants_other() -> None:
    """A second conversation takes an unused slot, as the engine itself would choose."""
    slots = Slots(2)
    first = used(slots, "a", b"x" * 100)
    assert used(slots, "a", b"y" * 100).slot != first.slot


def test_the_least_recently_used_slot_makes_room() -> None:
    """And one that holds nothing of use, because nobody knows whose it is, before any other."""
    slots = Slots(3)
    oldest = used(slots, "a", b"1")
    used(slots, "b", b"2")
    unknown = slots.take("c", b"3")
    assert unknown is not None
    slots.give_back(unknown)  # never begun
    assert used(slots, "d", b"4").slot == unknown.slot
    assert used(slots, "e", b"5").slot == oldest.slot


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
def test_a_short_prompt_is_computed_before_every_long_one(before: list[tuple[bool, bool]]) -> None:
    """The engine takes them in the order of slots; whatever these held before, long ones leave lower slots free."""
    slots = Slots(4)
    for number, (is_long, is_again) in enumerate(before):
        used(slots, "a", (b"%d " % (number // 2 if is_again else number)) * (2 * LONG_PROMPT if is_long else 1))
    prompts = (b"some words " * LONG_PROMPT, b"7" * (LONG_PROMPT + 1), b"0 ", b"z")
    first, second, *short = [lease.slot for prompt in prompts if (lease := slots.take("a", prompt)) is not None]
    assert max(short) < min(first, second)


def test_a_conversation_that_grew_long_goes_on_in_its_slot() -> None:
    """Little of it is left to compute, so nobody waits for it."""
    slots = Slots(2)
    first = used(slots, "a", b"x" * LONG_PROMPT)
    again = slots.take("a", b"x" * LONG_PROMPT + b"and on")
    assert again is not None
    assert (again.slot, again.reuse) == (first.slot, True)


def test_a_long_prompt_of_which_little_is_there_already_goes_up() -> None:
    """A common beginning with a new document behind it: others would wait for the document."""
    slots = Slots(4)
    begin = b"s" * 150
    assert used(slots, "a", begin).slot < 2
    long = slots.take("a", begin + b"d" * 9_000)
    assert long is not None
    assert long.slot >= 2


def test_a_refused_request_does_not_make_the_slot_its_own() -> None:
    """The engine refuses a prompt that is too long before it clears the slot: what another computed stays."""
    slots = Slots(1)
    used(slots, "a", b"secret")
    refused = slots.take("b", b"too long")
    assert refused is not None
    slots.give_back(refused)
    following = slots.take("b", b"secret")
    assert following is not None
    assert not following.reuse


@given(st.binary(), st.binary(), st.binary())
def test_a_common_prefix_is_as_long_as_it_gets(start: bytes, left: bytes, right: bytes) -> None:
    """Counted byte by byte it is the same."""
    one, other = start + left, start + right
    expected = 0
    while expected < min(len(one), len(other)) and one[expected] == other[expected]:
        expected += 1
    assert common_prefix(one, other) == expected


async def test_a_slot_that_is_given_back_is_the_next_ones_at_once() -> None:
    """In the order of asking; nobody who comes later finds it free."""
    queue = SlotQueue(Slots(1))
    lease = await queue.take("a", b"")
    order: list[str] = []

    async def ask(salt: str) -> SlotLease:
        mine = await queue.take(salt, b"")
        order.append(salt)
        return mine

    waiting = [asyncio.create_task(ask(salt)) for salt in "bc"]
    await asyncio.sleep(0)
    queue.give_back(lease)
    late = asyncio.create_task(ask("late"))
    await asyncio.sleep(0)
    assert order == ["b"]
    queue.give_back(await waiting[0])
    queue.give_back(await waiting[1])
    queue.give_back(await late)
    assert order == ["b", "c", "late"]


@pytest.mark.parametrize("when", ["while waiting", "as its slot comes", "one pass of the loop after"])
async def test_who_is_cancelled_holds_up_nobody(when: str) -> None:
    """Wherever in its wait: the slot goes to the next, and then to whoever asks."""
    queue = SlotQueue(Slots(1))
    lease = await queue.take("a", b"")
    cancelled, patient = (asyncio.create_task(queue.take(salt, b"")) for salt in "bc")
    await asyncio.sleep(0)
    if when == "while waiting":
        cancelled.cancel()
        await asyncio.sleep(0)
    if when == "one pass of the loop after":
        cancelled.cancel()
        queue.give_back(lease)
    else:
        queue.give_back(lease)
        cancelled.cancel()
    async with asyncio.timeout(1):
        queue.give_back(await patient)
        queue.give_back(await queue.take("d", b""))
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_who_waits_is_told_when_the_engine_is_closed() -> None:
    """As a lost engine, which is worth another try; slots given back afterwards are nobody's trouble."""
    queue = SlotQueue(Slots(1))
    lease = await queue.take("a", b"")
    waiting = asyncio.create_task(queue.take("b", b""))
    await asyncio.sleep(0)
    queue.close()
    queue.give_back(lease)
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.code == "engine_lost"
