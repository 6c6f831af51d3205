"""One queue of tenants by tokens: the Virtual Token Counter, as steps over values.

From Sheng et al., "Fairness in Serving Large Language Models" (OSDI '24; arXiv 2401.00588), with its weights and its
length prediction. A tenant's counter grows by the cost of its tokens over its weight, and the next turn is the waiting
tenant's whose counter is lowest. Whoever comes back from idle is lifted to those who are busy: having asked for nothing
is no credit. A turn is charged for the answer that its tenant usually gets, and corrected as tokens come and at its
end: otherwise whoever is behind would be given every place at once.

Costs are in prompt tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

PROMPT_COST = 1
COMPLETION_COST = 2  # a token of the answer takes a step of its own
FIRST_GUESS_TOKENS = 256  # an answer's length, before any has been seen
MEMORY = 32  # turns over which a mean is taken


def cost_of(prompt_tokens: int, completion_tokens: int) -> int:
    """What these tokens cost."""
    return PROMPT_COST * prompt_tokens + COMPLETION_COST * completion_tokens


@dataclass(slots=True, eq=False)
class Line:
    """One tenant at one priority. `counter` and `unspent` are costs over the weight, `service` is a plain cost.

    `counter` has been charged, of which `unspent` for tokens that are foreseen and not yet made.
    """

    tenant: str
    weight: int = 1
    counter: float = 0.0
    unspent: float = 0.0
    service: int = 0
    num_running: int = 0
    waiting: dict[Ticket, None] = field(default_factory=dict)  # in order of arrival
    waiting_cost: int = 0
    mean_tokens: float = FIRST_GUESS_TOKENS
    num_seen: int = 0
    mark: int = 0  # of its one valid entry among those who wait; 0: none

    def foresee(self, max_tokens: int) -> int:
        """How long its next answer will be, in tokens."""
        return min(max_tokens, round(self.mean_tokens))

    def learn(self, num_tokens: int) -> None:
        """One more answer was that long."""
        self.num_seen = min(self.num_seen + 1, MEMORY)
        self.mean_tokens += (num_tokens - self.mean_tokens) / self.num_seen


@dataclass(slots=True, eq=False)
class Ticket:
    """One request, waiting (`started_s` is None) or running. What has been charged so far: `prompt` and `charged`."""

    line: Line
    queue: FairQueue
    number: int
    weight: int
    prompt_tokens: int
    max_tokens: int
    cost: int  # as foreseen on arrival
    arrived_s: float
    started_s: float | None = None
    prompt: int = 0
    charged: int = 0
    made: int = 0
    is_owed: bool = False  # batch, and given a turn while interactive requests waited


class FairQueue:
    """The lines of one priority. Steps take O(log n) of the lines that wait, amortised."""

    def __init__(self, *, num_remembered: int) -> None:
        self.floor = 0.0  # nobody comes back below it; it never falls
        self.num_waiting = 0
        self.waiting_cost = 0
        self.waiting_weight = 0  # of the lines that wait
        self._num_remembered = num_remembered
        self._busy: dict[str, Line] = {}
        self._idle: OrderedDict[str, Line] = OrderedDict()  # least recently busy first
        self._heap: list[tuple[float, int, Line]] = []
        self._marks = count(1)
        self._last: Line | None = None

    def rank(self, line: Line) -> float:
        """Lines are served by this, lowest first. Only `charge` may lower it."""
        return line.counter

    def lines(self) -> Iterator[Line]:
        """All that are remembered, those with nothing waiting or running last."""
        yield from self._busy.values()
        yield from self._idle.values()

    def line(self, tenant: str, weight: int) -> Line:
        """The tenant's line, lifted to those who are busy if it has nothing waiting."""
        line = self._busy.get(tenant)
        if line is None:
            line = self._busy[tenant] = self._idle.pop(tenant) if tenant in self._idle else Line(tenant)
        if line.waiting:
            self.waiting_weight += weight - line.weight
        else:
            busy = self.first() or self._last
            if busy is not None:  # by what it has truly had: what is only foreseen may yet be given back
                self.floor = max(self.floor, busy.counter - busy.unspent)
            line.counter = max(line.counter, self.floor)
        line.weight = weight
        return line

    def rest(self, line: Line) -> None:
        """Note that a line may have become idle. Beyond `num_remembered` the one longest idle is forgotten.

        It gains nothing by that: the floor rises to its counter, if it is not there already.
        """
        if line.waiting or line.num_running:
            return
        del self._busy[line.tenant]
        self._idle[line.tenant] = line
        if len(self._idle) > self._num_remembered:
            _, forgotten = self._idle.popitem(last=False)
            self.floor = max(self.floor, forgotten.counter)

    def wait(self, ticket: Ticket) -> None:
        """Put a request at the end of its line."""
        line = ticket.line
        line.waiting[ticket] = None
        line.waiting_cost += ticket.cost
        self.num_waiting += 1
        self.waiting_cost += ticket.cost
        if len(line.waiting) == 1:
            self.waiting_weight += line.weight
            self._enter(line)

    def take(self, ticket: Ticket) -> None:
        """Take a request out of its line, to run or because it has given up."""
        line = ticket.line
        del line.waiting[ticket]
        line.waiting_cost -= ticket.cost
        self.num_waiting -= 1
        self.waiting_cost -= ticket.cost
        if not line.waiting:
            self.waiting_weight -= line.weight
            line.mark = 0
            self._last = line

    def first(self) -> Line | None:
        """The line whose turn is next, if any waits."""
        heap = self._heap
        while heap:
            rank, mark, line = heap[0]
            if mark != line.mark:
                heappop(heap)
            elif (risen := self.rank(line)) > rank:
                line.mark = next(self._marks)
                heapreplace(heap, (risen, line.mark, line))
            else:
                return line
        return None

    def start(self, ticket: Ticket) -> int:
        """Charge what the request is foreseen to cost, and return it."""
        line = ticket.line
        line.num_running += 1
        if not line.waiting:
            self._last = line
        return self.charge(ticket, prompt=ticket.prompt_tokens, charged=line.foresee(ticket.max_tokens), made=0)

    def charge(self, ticket: Ticket, *, prompt: int, charged: int, made: int) -> int:
        """Bring the account of a turn to these tokens; the cost by which its charge changed."""
        line = ticket.line
        more = cost_of(prompt - ticket.prompt, charged - ticket.charged)
        spent = cost_of(prompt - ticket.prompt, made - ticket.made)
        ticket.prompt, ticket.charged, ticket.made = prompt, charged, made
        line.counter += more / ticket.weight
        line.unspent += (more - spent) / ticket.weight
        line.service += spent
        if more < 0 and line.waiting:
            self._enter(line)
        return more

    def _enter(self, line: Line) -> None:
        """Let the line stand where its rank puts it; an entry that it has already is void by its mark."""
        line.mark = next(self._marks)
        heappush(self._heap, (self.rank(line), line.mark, line))
        if len(self._heap) > 64 + 2 * self.num_waiting:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].mark]
            heapify(self._heap)
