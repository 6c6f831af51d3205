"""A replica as its pool sees it: what it works on, how it has done, and whether it is asked."""

from __future__ import annotations

from allod.core.errors import Unavailable
from allod.core.requests import Usage
from allod.engine.engine import ReplicaState, ReplicaStatus
from allod.engine.replicas.choose import ReplicaLoad
from allod.engine.replicas.replica import Replica
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


class Sent:
    """A request that a replica was sent, at `engine`. `end` it, whatever happens."""

    __slots__ = ("_answer_tokens", "_prompt_tokens", "engine", "member")

    def __init__(self, member: Member, prompt_tokens: int, answer_tokens: int) -> None:
        engine = member.replica.engine
        assert engine is not None
        self.member = member
        self.engine = engine
        self._prompt_tokens = prompt_tokens
        self._answer_tokens = answer_tokens
        member.num_running += 1
        member.work += prompt_tokens + answer_tokens

    def note_begun(self) -> None:
        """The answer has begun: its prompt is no work any more."""
        self.member.work -= self._prompt_tokens
        self._prompt_tokens = 0

    def end(self) -> None:
        """It works on it no longer."""
        self.member.num_running -= 1
        self.member.work -= self._prompt_tokens + self._answer_tokens


class Member:
    """The `number`-th replica of a pool, from 1. While it `is_draining` it is sent nothing new."""

    def __init__(self, number: int, replica: Replica, least_s: float) -> None:
        self.number = number
        self.replica = replica
        self.suspicion = Suspicion(least_s)
        self.stopwatch = Stopwatch()
        self.is_draining = False
        self.num_running = 0  # requests that it has been sent and has not ended
        self.work = 0  # in tokens, of these: to be computed of prompts, and foreseen of answers
        self._num_answered = self._num_failed = 0
        self._fault = ""  # the last

    @property
    def is_up(self) -> bool:
        """Whether it may be sent something."""
        return self.replica.engine is not None and not self.is_draining

    def load(self, now_s: float) -> ReplicaLoad:
        """What it has to do, for who chooses among several; `now_s` by the loop's clock."""
        return ReplicaLoad(
            number=self.number - 1,
            work=self.work,
            num_running=self.num_running,
            slots=self.replica.info.slots,
            is_suspect=self.suspicion.holds_at(now_s),
        )

    def send(self, prompt_tokens: int, answer_tokens: int) -> Sent:
        """It was chosen because it is up, in this same turn of the loop: it has one request more, of so much work."""
        return Sent(self, prompt_tokens, answer_tokens)

    def note_answer(self, usage: Usage | None, now_s: float) -> None:
        """It has answered what it was sent; `usage` is of a chat's answer, None of vectors."""
        if usage is not None:
            self.stopwatch.note_answer(usage, now_s)
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
