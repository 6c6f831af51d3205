"""The main path of an answer. Its steps carry these numbers in the architecture, here and in the tests:

1 parse         the dialect, at the edge                                    (web)
2 authenticate  key → caller                                                `KeyRing.caller_of`
3 label         what was declared, what the text calls for, the model's     (web) `Controls.label`
4 decide        permit or forbid by policy; forbid → refusal receipt        `Controls.decide`
5 admit         quota and budget, then the tenant's fair turn               `Allowance`, `Admission.turn`
6 route         to the model's engine, and there to a replica that is up    `Router.route`, `Engine`
7 generate      in the sealed engine, under the salt of tenant and label    `Engine`
8 stream        while the answer is collected                               (web)
9 record        durable first; only then is the answer complete             `Recorder`
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal, NamedTuple, cast

from allod.core.errors import Denied, Invalid
from allod.core.labels import Labelled
from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Pieces, Usage
from allod.engine.engine import Engine, EngineInfo
from allod.engine.salts import cache_salt
from allod.govern.tenancy.keys import Caller, KeyRing
from allod.serve import tools
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.serve.execution import AcceptedRequest, Execution
from allod.serve.recorder import Recorder
from allod.serve.request import Request
from allod.serve.router import Candidate, Router
from allod.serve.schemas.judge import Judge, SchemaQuestion
from allod.serve.schemas.size import check_size
from allod.serve.served_model import ServedModel

SCHEMA_PARAM = "response_format.json_schema.schema"
LONGEST_OPENING = 16  # characters that tell whether text may be a call


class _Plan(NamedTuple):
    """A chat under its own label: who answers it, what the engine gets of it, and which schemas must be good before."""

    request: Request
    candidate: Candidate
    prepared: Chat
    schemas: Sequence[SchemaQuestion]

    @property
    def chat(self) -> Chat:
        """What the client asked for."""
        return cast(Chat, self.request.task)


class Gateway:
    """Answers requests. A `Request` that comes in has passed steps 1 and 2, and carries its declared label."""

    def __init__(
        self,
        *,
        router: Router,
        keys: KeyRing,
        controls: Controls,
        allowance: Allowance,
        recorder: Recorder,
        salt_secret: bytes,
        judge: Judge,
    ) -> None:
        self.router = router
        self.keys = keys
        self.controls = controls
        self.allowance = allowance
        self.recorder = recorder
        self.judge = judge
        self._salts = lru_cache(maxsize=4096)(partial(cache_salt, salt_secret))

    def check(self, engine: Engine | None = None) -> None:
        """Raise Unavailable, with the reason, while no request to `engine` would be let in; None: to any of them.

        Tenants' keys may be too old, the clock wrong, the log failing, a control unchecked, or the engine lost.
        `/readyz` asks this as requests do.
        """
        self.keys.check_news()
        self.controls.check()
        self.recorder.check()
        (self.router if engine is None else engine).check_ready()

    async def answer(self, request: Request) -> Labelled[Completion]:
        """A whole answer, recorded."""
        plan = await self._plan(request)  # 3, 6
        async with await self._accept(*plan) as work:  # 4, 5
            engine, salt = plan.candidate.engine, self._salt_of(plan.request)
            completion = await engine.complete(plan.prepared, salt=salt, tally=work.tally)  # 7
            work.note_counted(completion.usage)
            completion = await self._interpret(plan, completion)
            await plan.request.give_way_if_long()
        await work.record(completion.committed_bytes(), completion.finish)  # 9
        return Labelled(completion, plan.request.label)

    async def stream(self, request: Request) -> Labelled[AsyncGenerator[Pieces | Completion, None]]:
        """Pieces as they come, then the Completion, which comes only once its receipt is durable."""
        plan = await self._plan(request)  # 3, 6
        return Labelled(self._stream(plan), plan.request.label)

    async def embed(self, request: Request, write: Callable[[Embeddings], bytes]) -> Labelled[bytes]:
        """The body that `write` makes of the vectors, recorded: for embeddings the receipt commits to the body."""
        embed = cast(Embed, request.task)
        candidate = self.find_candidate(request.caller, embed.model)  # 6
        if self.router.models[embed.model].base:
            raise Invalid(
                f"{embed.model} answers chats and has no embeddings", code="unsupported_by_model", param="model"
            )
        for text in embed.texts:
            _check_length(candidate.engine.info, (text,), param="input")
        request = await self._with_label(request)  # 3
        async with await self._accept(request, candidate, embed) as work:  # 4, 5
            made = await candidate.engine.embed(embed, tally=work.tally)  # 7
            work.note_counted(made.usage)
            body = write(made)
        await work.record(body, "stop")  # 9
        return Labelled(body, request.label)

    async def _stream(self, plan: _Plan) -> AsyncGenerator[Pieces | Completion, None]:
        completion = None
        async with (
            await self._accept(*plan) as work,  # 4, 5
            aclosing(self._pieces(plan, work)) as pieces,  # 7
        ):
            async for item in pieces:
                if isinstance(item, Completion):
                    completion = item
                else:
                    work.note_sent(item)
                    yield item  # 8
        completion = cast(Completion, completion)
        await work.record(completion.committed_bytes(), completion.finish)  # 9
        yield completion

    async def _plan(self, request: Request) -> _Plan:
        """Step 3 of a chat that is known to be within bounds, and what is to be done for it.

        A long one gives way between the steps over it.
        """
        chat = cast(Chat, request.task)
        candidate = self.find_candidate(request.caller, chat.model)  # 6, as it is now: what follows is about this one
        await self._check_chat(chat, candidate.engine.info)
        await request.give_way_if_long()
        prepared = tools.prepare(chat)
        await request.give_way_if_long()
        return _Plan(await self._with_label(request), candidate, prepared, _schemas_of(chat, prepared))

    async def _with_label(self, request: Request) -> Request:
        """Step 3, by what the caller says: the strings themselves, not the JSON that a prompt makes of them."""
        label = await self.controls.label(request.label, request.task.strings(), request.task.model)
        await request.give_way_if_long()
        return request if label is request.label else replace(request, label=label)

    async def _check_chat(self, chat: Chat, engine: EngineInfo) -> None:
        if not engine.can_chat:
            raise Invalid(
                f"{chat.model} makes embeddings and answers no chats", code="unsupported_by_model", param="model"
            )
        said = (message.get("content") or "" for message in chat.messages)
        calls = (call["function"]["arguments"] for message in chat.messages for call in message.get("tool_calls") or ())
        _check_length(engine, (*said, *calls), param="messages")
        _check_length(engine, (tool.description for tool in chat.tools), param="tools")
        await tools.check_tools(chat)
        if chat.schema is not None:
            await check_size(chat.schema, param=SCHEMA_PARAM)

    async def _accept(
        self, request: Request, candidate: Candidate, prepared: Chat | Embed, schemas: Sequence[SchemaQuestion] = ()
    ) -> Execution:
        """Steps 4 and the first half of 5. Raises Denied once the refusal's receipt is durable."""
        self.check(candidate.engine)
        await self.recorder.prepare(request)
        engine = candidate.engine.info  # decided on now, and told to whoever answers
        action: Literal["chat", "embed"] = "chat" if isinstance(prepared, Chat) else "embed"
        decision = self.controls.decide(request.caller, action, request.label, prepared.model)
        if not decision.permitted:
            await self.allowance.count_refusal(request)
            await self.recorder.record_refusal(request, decision, engine.place)
            rules = ", ".join(decision.rules) or "no rule permits it"
            raise Denied(f"forbidden by policy ({rules}): {decision.reason}", code="policy_denied", is_recorded=True)
        held = await self.allowance.hold(request, prepared, engine.context_tokens)
        try:
            await request.give_way_if_long()
            await self.judge.check(request.caller.tenant.id, schemas)
        except BaseException:
            self.allowance.settle(held, Usage(), 0)  # a schema that is refused is a request, too
            raise
        return Execution(
            AcceptedRequest(request, decision, held, engine),
            admission=candidate.admission,
            allowance=self.allowance,
            recorder=self.recorder,
        )

    def _salt_of(self, request: Request) -> str:
        return self._salts(request.caller.tenant.id, request.label)

    def models_for(self, caller: Caller) -> dict[str, ServedModel]:
        """The models that this caller's key and tenant may use, by name: it is told of no others."""
        return {name: served for name, served in self.router.models.items() if _may_use(caller, name)}

    def find_candidate(self, caller: Caller, model: str) -> Candidate:
        """Step 6. To a key that may not use a model, it is as one that there is not: no receipt either, nor a charge.

        Raises Invalid (`model_not_found`).
        """
        if model not in self.router.models or not _may_use(caller, model):
            raise Invalid(
                f"the model {model!r} is not served here",
                code="model_not_found",
                param="model",
                hint=f"there is {', '.join(map(repr, self.models_for(caller))) or 'none that this key may use'}",
            )
        return self.router.route(model)

    async def _interpret(self, plan: _Plan, completion: Completion) -> Completion:
        """What the client asked for: calls where it asked for calls, JSON that keeps its schema where it gave one."""
        chat, judged = plan.chat, partial(self.judge.verdict, plan.request.caller.tenant.id)
        completion = await tools.interpret(chat, completion, schema=plan.prepared.schema, judged=judged)
        if chat.schema is not None and not completion.tool_calls and not tools.is_forced(chat):
            verdict = await judged(chat.schema or {"type": "object"}, completion.content or "", True)
            if tools.is_broken(verdict, completion):
                message = "the model's answer does not satisfy the schema"
                raise tools.not_kept(verdict, chat, message, code="schema_not_kept", param=SCHEMA_PARAM)
        return completion

    async def _pieces(self, plan: _Plan, work: Execution) -> AsyncGenerator[Pieces | Completion, None]:
        """The engine's pieces, less what may turn out to be a tool call, and the Completion that was asked for."""
        held: list[Piece] = []
        start = ""
        chat, engine, salt = plan.chat, plan.candidate.engine, self._salt_of(plan.request)
        holding = tools.offers_tools(chat)
        async with aclosing(engine.stream(plan.prepared, salt=salt, tally=work.tally)) as stream:
            async for item in stream:
                work.note_progress()
                if isinstance(item, Completion):
                    work.note_counted(item.usage)
                    completion = await self._interpret(plan, item)
                    if not completion.tool_calls:
                        if held:
                            yield held
                    elif not holding:  # its text has gone out already: it is part of the answer, and of the receipt
                        completion = replace(completion, content=item.content)
                    yield completion
                    return
                if holding:
                    held += item
                    start = "".join([start, *(piece.text for piece in item)]).lstrip()[:LONGEST_OPENING]
                    holding = tools.is_forced(chat) or tools.could_be_call(start)
                    if holding:
                        continue
                    item, held = held, []
                yield item


def _may_use(caller: Caller, model: str) -> bool:
    return caller.scope.models is None or model in caller.scope.models


def _check_length(engine: EngineInfo, texts: Iterable[str], *, param: str) -> None:
    """Refuse at once what cannot fit, however it is cut into tokens: counting them takes the engine seconds.

    No text takes less than a token.
    """
    if engine.max_token_chars is None:
        return
    lengths = [len(text) for text in texts]
    if sum(max(1, -(-length // engine.max_token_chars)) for length in lengths) > engine.context_tokens:
        said = f"{sum(lengths)} characters in {len(lengths)} texts"
        raise Invalid(
            f"{said} are more than {engine.context_tokens} tokens can hold",
            code="context_length_exceeded",
            param=param,
        )


def _schemas_of(chat: Chat, prepared: Chat) -> list[SchemaQuestion]:
    """The schemas of a chat that are to be known good before its turn."""
    own = [] if chat.schema is None else [SchemaQuestion(chat.schema, SCHEMA_PARAM, is_grammar=True)]
    return own + tools.schemas_of(chat, prepared)
