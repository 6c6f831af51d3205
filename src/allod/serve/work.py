"""One accepted request at the engine: its turn, what it has used, and what is written and charged when it ends.

However it ends, its place is given back, its tenant is charged what was used, and a receipt says how far it came.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from allod.core.errors import Invalid
from allod.core.requests import Request, Usage
from allod.govern.policy import Decision
from allod.govern.tenants import Tenant
from allod.serve.admission import Admission, Turn
from allod.serve.allowance import Allowance, Held
from allod.serve.recorder import Answered, Recorder


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that policy permits and that its tenant can afford."""

    request: Request
    tenant: Tenant
    decision: Decision
    held: Held


class Work:
    """`async with` it for the request's turn at the engine."""

    __slots__ = (
        "_accepted",
        "_admission",
        "_allowance",
        "_recorder",
        "_sent",
        "_start_s",
        "_turn",
        "_usage",
        "engine_ms",
    )
    _turn: Turn

    def __init__(self, accepted: Accepted, *, admission: Admission, allowance: Allowance, recorder: Recorder) -> None:
        self._accepted = accepted
        self._admission = admission
        self._allowance = allowance
        self._recorder = recorder
        self._sent: list[str] = []
        self._usage: Usage | None = None
        self._start_s = 0.0
        self.engine_ms = 0

    async def __aenter__(self) -> Work:
        tenant, held = self._accepted.tenant, self._accepted.held
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
        self.engine_ms = round((time.monotonic() - self._start_s) * 1000)
        await self._turn.__aexit__(kind, error, trace)
        self._allowance.settle(self._accepted.held, self._usage or self._supposed(error), self.engine_ms)
        if error is not None:
            usage = self._usage or self._sent_so_far(error)
            self._recorder.record_unfinished(
                self._accepted.request,
                self._accepted.decision,
                "".join(self._sent),
                reason=error,
                usage=usage,
                engine_ms=self.engine_ms,
            )

    @property
    def tenant_id(self) -> str:
        """Whose request it is."""
        return self._accepted.tenant.id

    def piece(self, text: str) -> None:
        """Text that goes to the client: one token of the answer, as engines send them."""
        self._sent.append(text)
        self._turn.used(len(self._sent))

    def counted(self, usage: Usage) -> None:
        """The engine is done, and this is what it counted."""
        self._usage = usage
        self._turn.finish(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)

    async def record(self, answer: bytes, finish: str) -> None:
        """Step 9: return once the receipt is durable."""
        answered = Answered(answer, finish, self._usage, self.engine_ms)
        await self._recorder.record_answer(self._accepted.request, self._accepted.decision, answered)

    def _sent_so_far(self, error: BaseException) -> Usage | None:
        """What the receipt says where the engine's count was lost: the prompt as it was estimated, the pieces sent.

        None where nothing was sent and it was not the client who ended it: then nobody owes anything.
        """
        if not self._sent and isinstance(error, Exception):
            return None
        return Usage(self._accepted.held.prompt_tokens, len(self._sent))

    def _supposed(self, error: BaseException | None) -> Usage:
        """What limits are charged where the engine's count was lost: who leaves early does not get off free.

        What the engine refused outright cost nothing.
        """
        held = self._accepted.held
        if isinstance(error, Invalid) and not self._sent:
            return Usage()
        return Usage(held.prompt_tokens, len(self._sent) or held.max_tokens)
