"""One accepted request at the engine: its turn, what it has used, and what is written and charged when it ends.

However it ends, its place is given back, and three get one and the same count of tokens: the fair queue, the tenant's
limits, and the receipt, which the ledger adds up. It is the engine's own count; where the engine was lost, the last
that it gave, and nothing where it gave none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from allod.core.errors import Unavailable
from allod.core.requests import Pieces, Usage
from allod.core.statements.shapes import is_cached, is_tokens
from allod.engine.engine import EngineInfo, Tally
from allod.govern.policy.decision import Decision
from allod.serve.admission import Admission, Turn
from allod.serve.allowance import Allowance, RequestHold
from allod.serve.recorder import EngineAnswer, Recorder
from allod.serve.request import Request


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request that policy permits and that its tenant can afford, and the engine that it is meant for."""

    request: Request
    decision: Decision
    held: RequestHold
    engine: EngineInfo


class Execution:
    """`async with` it for the request's turn at the engine."""

    __slots__ = (
        "_accepted",
        "_admission",
        "_allowance",
        "_micros",
        "_recorder",
        "_sent",
        "_start_s",
        "_turn",
        "_usage",
        "engine_ms",
        "tally",
    )
    _turn: Turn

    def __init__(
        self, accepted: AcceptedRequest, *, admission: Admission, allowance: Allowance, recorder: Recorder
    ) -> None:
        self._accepted = accepted
        self._admission = admission
        self._allowance = allowance
        self._recorder = recorder
        self._sent: list[str] = []
        self._usage: Usage | None = None
        self._start_s = 0.0
        self._micros = 0
        self.engine_ms = 0
        self.tally = Tally(accepted.engine)  # the engine that answers writes what it has computed, and that it did

    async def __aenter__(self) -> Execution:
        tenant, held = self._accepted.request.caller.tenant, self._accepted.held
        turn = self._admission.turn(
            tenant.id,
            weight=tenant.weight,
            priority=tenant.priority,
            prompt_tokens=held.prompt_tokens,
            max_tokens=held.max_tokens,
        )
        try:
            self._turn = await turn.__aenter__()
        except BaseException:
            self._allowance.release(held)
            raise
        self._start_s = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine_ms = max(0, round((time.monotonic() - self._start_s - self.tally.waited_s) * 1000))
        usage = self._usage or _tellable(self.tally.usage)
        if self._usage is None:
            self._turn.finish_early(usage or Usage())
        await self._turn.__aexit__(kind, error, trace)
        self._micros = self._allowance.settle(self._accepted.held, usage or Usage(), self.engine_ms)
        if error is not None:
            self._recorder.record_unfinished(
                self._accepted.request,
                self._accepted.decision,
                "".join(self._sent),
                made_by=self.tally.made_by,
                reason=error,
                usage=usage,
                engine_ms=self.engine_ms,
                micros=self._micros,
            )

    def note_sent(self, pieces: Pieces) -> None:
        """Text that goes to the client."""
        self._sent += [piece.text for piece in pieces]

    def note_progress(self) -> None:
        """The engine has said how far it is."""
        self._turn.used(self.tally.completion_tokens)

    def note_counted(self, usage: Usage) -> None:
        """The engine is done, and this is what it counted. Raises Unavailable (`not_recordable`) for the impossible.

        No tokens are charged then, by limits and ledger alike.
        """
        if _tellable(usage) is None:
            self.tally.is_known = False
            raise Unavailable(f"no receipt can say what the engine counted: {usage}", code="not_recordable")
        self._usage = usage
        self._turn.finish(usage)

    async def record(self, answer: bytes, finish: str) -> None:
        """Step 9: return once the receipt is durable."""
        answered = EngineAnswer(answer, finish, self.tally.made_by, self._usage, self.engine_ms, self._micros)
        await self._recorder.record_answer(self._accepted.request, self._accepted.decision, answered)


def _tellable(usage: Usage | None) -> Usage | None:
    """What the engine counted, or None where no receipt can say it."""
    if usage is None or not is_cached(usage.cached_tokens):
        return None
    return usage if is_tokens(usage.prompt_tokens) and is_tokens(usage.completion_tokens) else None
