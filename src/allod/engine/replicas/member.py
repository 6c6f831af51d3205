"""A replica as its pool sees it: what it works on, how it has done, and whether it is asked."""

from __future__ import annotations

from allod.core.errors import Unavailable
from allod.engine.engine import ReplicaState, ReplicaStatus
from allod.engine.replicas.replica import Replica, StartedEngine
from allod.engine.replicas.stopwatch import Stopwatch


class Suspicion:
    """Of a replica that fails what it is sent. It is asked last for `least_s`, so that its watcher has looked at it by
    then, and for twice as long each time that it fails again without an answer between."""

    MOST_S = 60.0

    def __init__(self, least_s: float) -> None:
        self._least_s = self._next_s = least_s
        self._until_s = 0.0

    def raise_at(self, now_s: float) -> None:
        """It has failed now."""
        self._until_s = now_s + self._next_s
        self._next_s = min(2 * self._next_s, self.MOST_S)

    def clear(self) -> None:
        """It has answered."""
        self._next_s, self._until_s = self._least_s, 0.0

    def holds_at(self, now_s: float) -> bool:
        """Whether others are asked before it."""
        return now_s < self._until_s


class Member:
    """The `number`-th replica of a pool, from 1. While it `is_draining` it is sent nothing new."""

    def __init__(self, number: int, replica: Replica, least_s: float) -> None:
        self.number = number
        self.replica = replica
        self.suspicion = Suspicion(least_s)
        self.stopwatch = Stopwatch()
        self.is_draining = False
        self.num_running = 0  # requests that it has been sent and has not ended
        self._num_answered = self._num_failed = 0
        self._fault = ""  # the last

    @property
    def is_up(self) -> bool:
        """Whether it may be sent something."""
        return self.replica.engine is not None and not self.is_draining

    def send(self) -> StartedEngine:
        """The engine of one that was chosen because it is up, in this same turn of the loop: it has one more."""
        assert self.replica.engine is not None
        self.num_running += 1
        return self.replica.engine

    def note_answer(self) -> None:
        """It has answered what it was sent."""
        self._num_answered += 1
        self.suspicion.clear()

    def note_failure(self, error: Unavailable, now_s: float) -> None:
        """It has failed what it was sent, by its own fault."""
        self._num_failed += 1
        self._fault = error.message
        self.suspicion.raise_at(now_s)

    def status(self, now_s: float) -> ReplicaStatus:
        """`now_s` by the loop's clock."""
        replica, info = self.replica, self.replica.info
        state, why = self._state(now_s)
        process = replica.process
        return ReplicaStatus(
            number=self.number,
            state=state,
            why=why,
            engine=info.name,
            slots=info.slots,
            num_running=self.num_running,
            num_answered=self._num_answered,
            num_failed=self._num_failed,
            num_starts=replica.num_starts,
            pace=self.stopwatch.read(now_s),
            started_ms=replica.started_ms if replica.engine is not None else None,
            pid=None if process is None else process.pid,
            seal=info.seal,
            seal_proof=info.seal_proof if replica.engine is not None else None,
        )

    def _state(self, now_s: float) -> tuple[ReplicaState, str]:
        if self.replica.engine is None:
            return ("starting" if self.replica.is_coming else "down"), self.replica.reason
        if self.is_draining:
            return "draining", "an administrator asked for it"
        if self.suspicion.holds_at(now_s):
            return "suspect", self._fault
        return "up", ""
