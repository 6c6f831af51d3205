"""Step 9: turn what happened into a statement, and wait until it is durable.

The log's writer has a thread of its own; its results come back into the event loop once per batch.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from allod.core.canonical import digest_of
from allod.core.digests import digest_of_bytes
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.labels import Label
from allod.core.requests import Chat, Embed, Usage, chat_answer
from allod.core.statements.receipt import (
    AnswerPart,
    EnginePart,
    MeterPart,
    ModelPart,
    PolicyPart,
    Receipt,
    RequestPart,
    SealPart,
    SitePart,
    statement_bytes,
)
from allod.core.times import day_of
from allod.engine.engine import EngineInfo, EnginePlace
from allod.govern.policy.decision import Decision
from allod.prove.receipts.clock import Clock
from allod.prove.receipts.commitments import commitment, nonce_of
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.writer import Done, LogWriter, Outcome
from allod.serve.request import Request

# Turns of the event loop that a statement waits for company: microseconds to a lone one. Each batch costs the writer's
# thread a wake-up, a signature and an fdatasync, as much CPU as an answer does; docs/log.md has the measurement.
GATHER_TURNS = 3


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What came of a permitted request, and of which engine. `answer` is what the receipt commits to; `usage` None:
    nobody counted."""

    answer: bytes
    finish: str
    made_by: EngineInfo
    usage: Usage | None
    engine_ms: int = 0
    micros: int = 0  # what the tenant was charged


class Recorder:
    """Writes statements about what engines answered."""

    def __init__(self, *, writer: LogWriter, day_keys: DayKeys, clock: Clock) -> None:
        self._writer = writer
        self._day_keys = day_keys
        self._clock = clock
        self._gathered: list[tuple[bytes, str, Callable[[Outcome], None]]] = []
        self._numbers = itertools.count()
        self._parts = lru_cache(maxsize=64)(_parts_of)
        self._site = lru_cache(maxsize=64)(_site_part)
        self._policy = lru_cache(maxsize=64)(_policy_part)

    def check(self) -> None:
        """Raise Unavailable, with the reason, while nothing could be recorded: the clock is wrong, the log fails."""
        self._clock.now_ms()
        self._writer.check()

    async def prepare(self, request: Request) -> None:
        """Have the tenant's key of the day in memory. Raises Unavailable where it can be neither read nor made."""
        day, tenant = day_of(request.start_ms), request.caller.tenant.id
        if self._day_keys.known(tenant, day) is None:
            await asyncio.to_thread(self._day_keys.use, tenant, day)

    async def record_answer(self, request: Request, decision: Decision, answered: EngineAnswer) -> None:
        """Return once the receipt is durable. Raises Unavailable if it cannot be made so.

        An answer of which no receipt can tell, since its engine counted the impossible, is noted as one that broke off.
        """
        try:
            statement = self._statement(request, decision, answered)
        except Invalid as error:
            reason = Unavailable(f"no receipt can say what the engine answered: {error.message}", code="not_recordable")
            self.record_unfinished(
                request,
                decision,
                answered.answer,
                made_by=answered.made_by,
                reason=reason,
                engine_ms=answered.engine_ms,
                micros=answered.micros,
            )
            raise reason from error
        await self._append(request.id, statement)

    async def record_refusal(self, request: Request, decision: Decision, place: EnginePlace) -> None:
        """The same for a request that policy forbids at that place."""
        await self._append(request.id, self._statement(request, decision, place))

    def record_unfinished(
        self,
        request: Request,
        decision: Decision,
        sent: str | bytes,
        *,
        made_by: EngineInfo,
        reason: BaseException,
        usage: Usage | None = None,
        engine_ms: int = 0,
        micros: int = 0,
    ) -> None:
        """Note an answer that broke off, as far as it was sent. Nobody waits for it, and nobody was promised it."""
        finish = "cancelled" if isinstance(reason, (asyncio.CancelledError, GeneratorExit)) else "error"
        with suppress(AllodError):  # what ended the answer matters more than that it cannot be noted
            answer = sent if isinstance(sent, bytes) else chat_answer(sent)
            answered = EngineAnswer(answer, finish, made_by, usage, engine_ms, micros)
            self._writer.submit(self._statement(request, decision, answered), request.id, lambda outcome: None)

    async def _append(self, receipt_id: str, statement: bytes) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle(result: Outcome) -> None:
            if future.done():
                return
            if isinstance(result, AllodError):
                future.set_exception(result)
            else:
                future.set_result(None)

        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._hand_over, GATHER_TURNS)
        self._gathered.append((statement, receipt_id, settle))
        await future

    def _hand_over(self, turns: int) -> None:
        """Give the writer's thread what has gathered, after some more turns of the loop."""
        if turns:
            asyncio.get_running_loop().call_soon(self._hand_over, turns - 1)
            return
        gathered, self._gathered = self._gathered, []
        for statement, receipt_id, settle in gathered:
            try:
                self._writer.submit(statement, receipt_id, settle)
            except AllodError as error:
                settle(error)

    def _statement(self, request: Request, decision: Decision, outcome: EngineAnswer | EnginePlace) -> bytes:
        """Of an answer, or of a refusal at that place."""
        answered = outcome if isinstance(outcome, EngineAnswer) else None
        usage = answered.usage if answered is not None else None
        model, engine, seal = self._parts(answered.made_by, request.task.model) if answered else (None, None, None)
        place = outcome.made_by.place if isinstance(outcome, EngineAnswer) else outcome
        params = _params(request.task)
        day, tenant = day_of(request.start_ms), request.caller.tenant.id
        day_key = self._day_keys.use(tenant, day)
        key_name = self._day_keys.key_name(tenant, day, request.caller.key.id)
        salt = day_key.salt(request.id)
        nonce = nonce_of(salt)
        made = None
        if answered is not None:
            tokens = usage.completion_tokens if usage else None
            made = AnswerPart(commitment("answer", salt, answered.answer), tokens, answered.finish)
        asked = commitment("request", salt, request.body)
        end_ms = max(self._clock.end_ms(), request.start_ms)
        return statement_bytes(
            Receipt(
                id=request.id,
                seq=next(self._numbers),
                nonce=nonce,
                start_ms=request.start_ms,
                end_ms=end_ms,
                request=RequestPart(asked, usage.prompt_tokens if usage else None, params),
                answer=made,
                policy=self._policy(decision, request.label),
                site=self._site(place),
                tenant=day_key.pseudonym,
                model=model,
                engine=engine,
                seal=seal,
                meter=self._meter(key_name, answered),
            )
        )

    def _meter(self, key: str, answered: EngineAnswer | None) -> MeterPart:
        if answered is None:
            return MeterPart(key)
        usage = answered.usage or Usage()
        return MeterPart(key, answered.engine_ms, usage.cached_tokens, answered.micros)


def deliver_in(loop: asyncio.AbstractEventLoop, waiting: list[Done], outcome: Outcome) -> None:
    """From the writer's thread into the event loop, once for the whole batch."""

    def settle() -> None:
        for done in waiting:
            done(outcome)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)


def _parts_of(info: EngineInfo, model_name: str) -> tuple[ModelPart, EnginePart, SealPart]:
    """`digest` is of the file that the engine loaded; what it put over it for this name stands beside it."""
    adapters = tuple(each.digest for each in info.adapters if each.name == model_name)
    return (
        ModelPart(name=model_name, digest=info.model_digest, template=info.template_digest, adapters=adapters),
        EnginePart(name=info.name, build=info.build, config=info.config, replay=info.replay),
        SealPart(kind=info.seal, proof=info.seal_proof),
    )


def _site_part(place: EnginePlace) -> SitePart:
    return SitePart(place.site, place.jurisdiction)


def _policy_part(decision: Decision, label: Label) -> PolicyPart:
    return PolicyPart(
        digest=decision.policy,
        label=label.as_json(),
        decision="permit" if decision.permitted else "forbid",
        rules=decision.rules,
    )


def _params(task: Chat | Embed) -> dict[str, int | str | bool | None]:
    """How the answer was asked for, in integers; texts and schemas only by their digest."""
    if not isinstance(task, Chat):
        return {"num_texts": len(task.texts)}
    sampling = task.sampling
    params: dict[str, int | str | bool | None] = {
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "temperature_milli": round(sampling.temperature * 1000),
        "top_p_milli": round(sampling.top_p * 1000),
    }
    if sampling.stop:
        params["stop"] = digest_of(sampling.stop)
    if task.schema is not None:
        schema = json.dumps(task.schema, sort_keys=True, separators=(",", ":"))
        params["schema"] = digest_of_bytes(schema.encode())
    if task.tools:
        params["num_tools"] = len(task.tools)
    return params
