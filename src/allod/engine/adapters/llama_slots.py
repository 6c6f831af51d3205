"""Which of an engine's slots a request takes, for an engine whose slots keep what they computed and know no salt.

A slot's computed prompt may be reused only by a request of the salt that it was computed under. `Slots` is the choice,
without a clock or a lock; `SlotQueue` hands slots out in order and makes callers wait for one.

Of several prompts such an engine computes the one in the lowest slot to its end before it begins with the next. So long
ones go into the upper half of the slots, and short ones below them: who asks a little does not wait for who asks much.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import dataclass

from allod.core.errors import Unavailable
from allod.engine.token_estimate import estimate_tokens

MIN_SIMILARITY = 0.1  # of a prompt that must be there already for its slot to be worth more than an older one
LONG_PROMPT = 64  # tokens to compute, estimated: a batch on a CPU


@dataclass(slots=True)
class SlotLease:
    """A slot while one request has it. `reuse`: what it holds is of the request's own salt.

    Set `begun` when the engine has begun to answer: only then is it certain that the slot's old content is gone. An
    engine that refuses a prompt (too long) leaves the one before where it was.
    """

    slot: int
    reuse: bool
    salt: str
    prompt: bytes
    begun: bool = False


@dataclass(slots=True, eq=False)
class _HeldPrefix:
    """A free slot and what it holds; salt None: nobody knows whose, so nobody reuses it."""

    slot: int
    salt: str | None = None
    prompt: bytes = b""


class Slots:
    """`num_slots` slots of one engine process, clean when it starts."""

    def __init__(self, num_slots: int) -> None:
        self._upper = num_slots // 2  # where the upper half begins
        self._free = [_HeldPrefix(slot) for slot in range(num_slots)]  # least recently used first
        self._held_before: dict[int, _HeldPrefix] = {}  # of busy slots
        self._long: set[int] = set()  # busy with a long prompt

    def take(self, salt: str, prompt: bytes) -> SlotLease | None:
        """The free slot that holds most of `prompt` under this salt, else the least recently used; None: all busy.

        A short prompt takes one below all long ones, and a new long one one of the upper half, where any is free.
        """
        if not self._free:
            return None
        held = self._choose(salt, prompt)
        self._free.remove(held)
        self._held_before[held.slot] = held
        return SlotLease(held.slot, reuse=held.salt == salt, salt=salt, prompt=prompt)

    def give_back(self, lease: SlotLease) -> None:
        """Free its slot, once the engine works on nothing of it any more."""
        before = self._held_before.pop(lease.slot)
        self._long.discard(lease.slot)
        if lease.begun:
            self._free.append(_HeldPrefix(lease.slot, lease.salt, lease.prompt))
        elif lease.reuse:
            self._free.append(before)  # what was there and what may have come are of the same salt
        else:
            self._free.insert(0, _HeldPrefix(lease.slot))

    def _choose(self, salt: str, prompt: bytes) -> _HeldPrefix:
        free = self._free
        if self._long and estimate_tokens(prompt) <= LONG_PROMPT:
            free = [held for held in free if held.slot < min(self._long)] or free
        held, length = _most_of(salt, prompt, free)
        left = len(prompt) - length
        if estimate_tokens(prompt[length:]) > LONG_PROMPT:
            upper = [other for other in free if other.slot >= self._upper]
            if left > length and held not in upper:  # what is there already saves less than others would wait
                held = upper[0] if upper else held if length else max(free, key=lambda other: other.slot)
            self._long.add(held.slot)
        return held


def _most_of(salt: str, prompt: bytes, free: list[_HeldPrefix]) -> tuple[_HeldPrefix, int]:
    """The slot that holds most of the prompt under this salt, and how many bytes; else the first, and 0."""
    best, longest, least = free[0], 0, MIN_SIMILARITY * len(prompt)
    for held in free:
        if held.salt == salt:
            length = len(prompt) if held.prompt == prompt else common_prefix(held.prompt, prompt)
            if length > max(longest, least):
                best, longest = held, length
    return best, longest


class SlotQueue:
    """Slots for callers who wait, first come, first served; a slot that is given back is the next one's at once."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._waiting: dict[asyncio.Future[SlotLease], tuple[str, bytes]] = {}  # in order; none while a slot is free

    async def take(self, salt: str, prompt: bytes) -> SlotLease:
        """A slot, which must be given back. Raises Unavailable when the engine is closed while waiting."""
        if not self._waiting and (lease := self._slots.take(salt, prompt)) is not None:
            return lease
        lease_to_come: asyncio.Future[SlotLease] = asyncio.get_running_loop().create_future()
        self._waiting[lease_to_come] = (salt, prompt)
        try:
            return await lease_to_come
        except asyncio.CancelledError:
            self._waiting.pop(lease_to_come, None)
            if not lease_to_come.cancelled():  # a slot had just been handed to it
                self.give_back(lease_to_come.result())
            raise

    def give_back(self, lease: SlotLease) -> None:
        """Free its slot and hand it to whoever waits next."""
        self._slots.give_back(lease)
        self._hand_out()

    def close(self) -> None:
        """Whoever waits is told that the engine is lost."""
        for lease_to_come in self._waiting:
            if not lease_to_come.done():
                lease_to_come.set_exception(Unavailable("the engine was closed", code="engine_lost", retry_after_s=1))
        self._waiting.clear()

    def _hand_out(self) -> None:
        while self._waiting:
            lease_to_come, (salt, prompt) = next(iter(self._waiting.items()))
            if not lease_to_come.done():  # it may have been cancelled a moment ago
                lease = self._slots.take(salt, prompt)
                if lease is None:
                    return
                lease_to_come.set_result(lease)
            del self._waiting[lease_to_come]


def common_prefix(left: bytes, right: bytes) -> int:
    """How many bytes both begin with. Halves the rest each time, so that comparing is the machine's, not Python's."""
    shorter = min(len(left), len(right))
    return bisect_left(range(1, shorter + 1), True, key=lambda length: left[:length] != right[:length])
