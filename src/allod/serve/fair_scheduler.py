"""Whose turn is next: fair shares among tenants, two priorities, a bounded line, as steps over values.

What is promised, for U = the largest cost of all that can run at once (2 × its tokens at most, prompts included):
- Two tenants of one priority that both have requests waiting all the while get service, each over its weight, that
  differs by at most 2 × U over the smaller weight, however long it lasts. Nobody is passed over for ever.
- A place is never free while anybody waits.
- Priority 1 (batch) goes after priority 0, but while both wait it gets one part in `BATCH_PART` of what is charged: it
  is slowed, not starved. A turn that has begun is never taken back, so a batch turn may hold a place to its end.
- The line is bounded, and one tenant cannot fill it. Who would wait longer than `max_wait_s` is refused on arrival.

Time and token counts are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import ceil

from allod.core.errors import Unavailable
from allod.serve.fair_queue import MEMORY, FairQueue, Line, Ticket, cost_of

BATCH_PART = 8
CROWDING = 4  # a tenant may have this many requests waiting for each place in line that is still free


class Pace:
    """How fast all places together work, from the turns that ended while all were taken."""

    def __init__(self, num_running: int) -> None:
        self.num_running = num_running
        self._turns = self._cost = self._held_s = 0.0

    def add(self, cost: int, held_s: float) -> None:
        """A turn of that cost took so long."""
        keep = 1 - 1 / MEMORY
        self._turns = self._turns * keep + 1
        self._cost = self._cost * keep + cost
        self._held_s = self._held_s * keep + held_s

    def seconds_for(self, cost: float) -> float:
        """How long that cost takes, and until a place is free. 0 until something has been measured."""
        if not self._cost:
            return 0.0
        return self._held_s / self.num_running * (cost / self._cost + 1 / self._turns)


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One tenant at one priority, for a page that shows the turns. `share`: its weight among those who are busy."""

    tenant: str
    priority: int
    weight: int
    num_waiting: int
    num_running: int
    service: int  # cost of its tokens since it was last forgotten
    share: float


class Turns:
    """`num_running` turns at a time, `num_waiting` requests in line; `now_s` is any clock that does not go back."""

    queue_type = FairQueue

    def __init__(self, *, num_running: int, num_waiting: int, max_wait_s: float, num_remembered: int = 10_000) -> None:
        self.num_free = num_running  # below 0 while more run than may: places were taken away
        self._num_waiting = num_waiting
        self._max_wait_s = max_wait_s
        self._pace = Pace(num_running)
        self._numbers = count()
        self._first, self._batch = (self.queue_type(num_remembered=num_remembered) for _ in range(2))
        self._owed = 0.0  # cost of the turns that batch may have although interactive requests wait

    @property
    def num_running(self) -> int:
        """Turns that have begun and not ended."""
        return self._pace.num_running - self.num_free

    @property
    def num_waiting(self) -> int:
        return self._first.num_waiting + self._batch.num_waiting

    def arrive(
        self, tenant: str, *, weight: int, priority: int, prompt_tokens: int, max_tokens: int, now_s: float
    ) -> Ticket:
        """A request comes: it runs at once if a place is free, else it waits.

        Raises Unavailable (`overloaded`) when the line has no room for it or it would wait too long.
        """
        queue = self._batch if priority else self._first
        line = queue.line(tenant, weight)
        cost = cost_of(prompt_tokens, line.foresee(max_tokens))
        ticket = Ticket(line, queue, next(self._numbers), weight, prompt_tokens, max_tokens, cost, now_s)
        if self.num_free > 0:
            self.num_free -= 1
            self._start(ticket, now_s)
            return ticket
        try:
            self._check_room(line, queue)
        except Unavailable:
            queue.rest(line)
            raise
        if queue is self._batch and not queue.num_waiting:
            self._owed = 0.0  # what was not asked for while it was owed is gone
        queue.wait(ticket)
        return ticket

    def resize(self, num_running: int, now_s: float) -> list[Ticket]:
        """So many turns at a time from now on. Returned are the waiting requests that run now; no turn that has begun
        is taken back, so for a while more may run."""
        self.num_free += num_running - self._pace.num_running
        self._pace.num_running = num_running
        started = []
        while self.num_free > 0 and (following := self._next()) is not None:
            self.num_free -= 1
            self._begin(following, now_s)
            started.append(following)
        return started

    def use(self, ticket: Ticket, completion_tokens: int) -> None:
        """So many tokens of the answer have been made by now."""
        self._charge(ticket, ticket.prompt, max(ticket.charged, completion_tokens), completion_tokens)

    def correct(self, ticket: Ticket, *, prompt_tokens: int, completion_tokens: int) -> None:
        """The answer broke off, and cost this; how long answers are is not learnt from it."""
        self._charge(ticket, prompt_tokens, completion_tokens, completion_tokens)

    def finish(self, ticket: Ticket, *, prompt_tokens: int, completion_tokens: int) -> None:
        """The answer is whole, and cost this."""
        self.correct(ticket, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        if ticket.max_tokens:  # an embedding says nothing about the length of answers
            ticket.line.learn(completion_tokens)

    def leave(self, ticket: Ticket, now_s: float) -> Ticket | None:
        """A running request ends, and its place goes to the one returned: it runs now.

        Without `finish` before, it pays for the tokens that it reported; for what was foreseen if it reported none.
        """
        assert ticket.started_s is not None
        line, queue = ticket.line, ticket.queue
        made = ticket.made or ticket.charged
        self._charge(ticket, ticket.prompt, made, made)
        if self.num_free <= 0 and ticket.prompt + made:
            self._pace.add(cost_of(ticket.prompt, made), now_s - ticket.started_s)
        line.num_running -= 1
        queue.rest(line)
        following = self._next() if self.num_free >= 0 else None
        if following is None:
            self.num_free += 1
        else:
            self._begin(following, now_s)
        return following

    def void(self, ticket: Ticket) -> None:
        """A running request turned out to want nothing: it is charged nothing."""
        self._charge(ticket, 0, 0, 0)

    def give_up(self, ticket: Ticket) -> None:
        """A waiting request is withdrawn."""
        ticket.queue.take(ticket)
        ticket.queue.rest(ticket.line)

    def snapshots(self) -> list[QueueSnapshot]:
        """Every line that is remembered, those that are busy first."""
        found: list[QueueSnapshot] = []
        for priority, queue in enumerate((self._first, self._batch)):
            lines = [(line, bool(line.waiting or line.num_running)) for line in queue.lines()]
            whole = sum(line.weight for line, is_busy in lines if is_busy)
            found += [
                QueueSnapshot(
                    line.tenant,
                    priority,
                    line.weight,
                    len(line.waiting),
                    line.num_running,
                    line.service,
                    line.weight / whole if is_busy else 0.0,
                )
                for line, is_busy in lines
            ]
        return found

    def wait_s(self, line: Line, queue: FairQueue) -> float:
        """How long one more request of that line would wait, at the measured pace and its share; 0 if unmeasured."""
        first = queue.first()
        debt = max(0.0, line.counter - first.counter) * line.weight if first else 0.0
        weight = queue.waiting_weight + (0 if line.waiting else line.weight)
        ahead = min(queue.waiting_cost, (line.waiting_cost + debt) * weight / line.weight)
        if queue is self._batch:
            ahead = min(ahead * BATCH_PART, ahead + self._first.waiting_cost)
        return self._pace.seconds_for(ahead)

    def _check_room(self, line: Line, queue: FairQueue) -> None:
        wait_s = self.wait_s(line, queue)
        if len(line.waiting) >= CROWDING * (self._num_waiting - self.num_waiting):
            raise _overload("too many requests are waiting", wait_s)
        if wait_s > self._max_wait_s:
            raise _overload(f"it would wait {wait_s:.0f} s, and at most {self._max_wait_s:.0f} s are allowed", wait_s)

    def _begin(self, waiting: Ticket, now_s: float) -> None:
        waiting.queue.take(waiting)
        self._start(waiting, now_s)

    def _start(self, ticket: Ticket, now_s: float) -> None:
        ticket.started_s = now_s
        ticket.is_owed = ticket.queue is self._batch and self._first.num_waiting > 0
        self._settle(ticket, ticket.queue.start(ticket))

    def _charge(self, ticket: Ticket, prompt: int, charged: int, made: int) -> None:
        self._settle(ticket, ticket.queue.charge(ticket, prompt=prompt, charged=charged, made=made))

    def _settle(self, ticket: Ticket, more: int) -> None:
        """Keep the account between the priorities, which is moved only while both wait."""
        if ticket.is_owed:
            self._owed -= more
        elif self._batch.num_waiting and ticket.queue is self._first:
            self._owed += more / (BATCH_PART - 1)

    def _next(self) -> Ticket | None:
        """The request whose turn it is, still in its line."""
        first, batch = self._first.first(), self._batch.first()
        ticket = next(iter(first.waiting)) if first else None
        if batch is None:
            return ticket
        patient = next(iter(batch.waiting))
        return patient if ticket is None or self._owed >= patient.cost else ticket


def _overload(message: str, wait_s: float) -> Unavailable:
    return Unavailable(message, code="overloaded", retry_after_s=max(1, ceil(wait_s)))
