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
from typing import Literal, cast

from allod.core.errors import Denied, Invalid
from allod.core.labels import Labelled
from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Pieces, Request, Usage
from allod.engine.engine import Engine
from allod.engine.giving_way import give_way_if_long
from allod.engine.salts import cache_salt
from allod.govern.tenancy.keys import Caller, KeyRing
from allod.serve import tools
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.serve.execution import Accepted, Execution
from allod.serve.recorder import Recorder
from allod.serve.router import Router
from allod.serve.schemas.judge import Asked, Judge
from allod.serve.schemas.size import check_size
from allod.serve.served_model import ServedModel

SCHEMA_PLACE = "response_format.json_schema.schema"
LONGEST_OPENING = 16  # characters that tell whether text may be a call


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
        self._salt_of = lru_cache(maxsize=4096)(partial(cache_salt, salt_secret))

    def check(self, model: str | None = None) -> None:
        """Raise Unavailable, with the reason, while no request to `model` would be let in; None: to any of the models.

        Tenants' keys may be too old, the clock wrong, the log failing, a control unchecked, or the engine lost.
        `/readyz` asks this as requests do.
        """
        self.keys.check_news()
        self.recorder.check()
        self.controls.check()
        if model is None:
            self.router.check_ready()
        else:
            self.router.route(model).engine.check_ready()

    async def answer(self, caller: Caller, request: Request) -> Labelled[Completion]:
        """A whole answer, recorded."""
        chat, prepared = await self._prepare(caller, request)
        request = await self._with_label(request)  # 3
        async with await self._accept(caller, request, prepared, _schemas_of(chat, prepared)) as work:  # 4, 5
            engine, salt = self.engine_of(prepared.model), self._salt(request)  # 6
            completion = await engine.complete(prepared, salt=salt, tally=work.tally)  # 7
            work.note_counted(completion.usage)
            completion = await self._interpret(work, chat, prepared, completion)
        await give_way_if_long(request.body)
        await work.record(completion.committed_bytes(), completion.finish)  # 9
        return Labelled(completion, request.label)

    async def stream(self, caller: Caller, request: Request) -> Labelled[AsyncGenerator[Pieces | Completion, None]]:
        """Pieces as they come, then the Completion, which comes only once its receipt is durable."""
        chat, prepared = await self._prepare(caller, request)
        request = await self._with_label(request)  # 3
        return Labelled(self._stream(caller, request, chat, prepared), request.label)

    async def embed(self, caller: Caller, request: Request, write: Callable[[Embeddings], bytes]) -> Labelled[bytes]:
        """The body that `write` makes of the vectors, recorded: for embeddings the receipt commits to the body."""
        embed = cast(Embed, request.task)
        if self.find_served(caller, embed.model).base:
            raise Invalid(
                f"{embed.model} answers chats and has no embeddings", code="unsupported_by_model", param="model"
            )
        for text in embed.texts:
            self._check_length(embed.model, (text,), param="input")
        request = await self._with_label(request)  # 3
        async with await self._accept(caller, request, embed) as work:  # 4, 5
            made = await self.engine_of(embed.model).embed(embed, tally=work.tally)  # 6, 7
            work.note_counted(made.usage)
        body = write(made)
        await work.record(body, "stop")  # 9
        return Labelled(body, request.label)

    async def _stream(
        self, caller: Caller, request: Request, chat: Chat, prepared: Chat
    ) -> AsyncGenerator[Pieces | Completion, None]:
        completion = None
        salt = self._salt(request)
        async with (
            await self._accept(caller, request, prepared, _schemas_of(chat, prepared)) as work,  # 4, 5
            aclosing(self._pieces(chat, prepared, work, salt)) as pieces,  # 6, 7
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

    async def _with_label(self, request: Request) -> Request:
        """Step 3, by what the caller says: the strings themselves, not the JSON that a prompt makes of them."""
        label = await self.controls.label(request.label, request.task.strings(), request.task.model)
        await give_way_if_long(request.body)
        return request if label is request.label else replace(request, label=label)

    def _salt(self, request: Request) -> str:
        return self._salt_of(request.tenant, request.label)

    async def _prepare(self, caller: Caller, request: Request) -> tuple[Chat, Chat]:
        """What is asked for, known to be within bounds, and what the engine will get of it."""
        chat = await self._check_chat(caller, request)
        await give_way_if_long(request.body)
        prepared = tools.prepare(chat)
        await give_way_if_long(request.body)
        return chat, prepared

    async def _check_chat(self, caller: Caller, request: Request) -> Chat:
        chat = cast(Chat, request.task)
        self.find_served(caller, chat.model)
        if not self.engine_of(chat.model).info.can_chat:
            raise Invalid(
                f"{chat.model} makes embeddings and answers no chats", code="unsupported_by_model", param="model"
            )
        said = (message.get("content") or "" for message in chat.messages)
        calls = (call["function"]["arguments"] for message in chat.messages for call in message.get("tool_calls") or ())
        self._check_length(chat.model, (*said, *calls), param="messages")
        self._check_length(chat.model, (tool.description for tool in chat.tools), param="tools")
        await tools.check_tools(chat)
        if chat.schema is not None:
            await check_size(chat.schema, param=SCHEMA_PLACE)
        return chat

    def _check_length(self, model: str, texts: Iterable[str], *, param: str) -> None:
        """Refuse at once what cannot fit, however it is cut into tokens: counting them takes the engine seconds.

        No text takes less than a token.
        """
        info = self.engine_of(model).info
        if info.max_token_chars is None:
            return
        lengths = [len(text) for text in texts]
        if sum(max(1, -(-length // info.max_token_chars)) for length in lengths) > info.context_tokens:
            said = f"{sum(lengths)} characters in {len(lengths)} texts"
            raise Invalid(
                f"{said} are more than {info.context_tokens} tokens can hold",
                code="context_length_exceeded",
                param=param,
            )

    async def _accept(
        self, caller: Caller, request: Request, prepared: Chat | Embed, asked: Sequence[Asked] = ()
    ) -> Execution:
        """Steps 4 and the first half of 5. Raises Denied once the refusal's receipt is durable."""
        candidate = self.router.route(prepared.model)  # 6, as it is now: all that follows is about this one
        engine = candidate.engine.info
        self.check(prepared.model)
        await self.recorder.prepare(request)
        action: Literal["chat", "embed"] = "chat" if isinstance(prepared, Chat) else "embed"
        decision = self.controls.decide(caller, action, request.label, prepared.model)
        if not decision.permitted:
            await self.allowance.count_refusal(caller.tenant, request)
            await self.recorder.record_refusal(request, decision, engine.place)
            rules = ", ".join(decision.rules) or "no rule permits it"
            raise Denied(f"forbidden by policy ({rules}): {decision.reason}", code="policy_denied", is_recorded=True)
        held = await self.allowance.hold(caller.tenant, request, prepared, engine.context_tokens)
        await give_way_if_long(request.body)
        try:
            await self.judge.check(request.tenant, asked)
        except BaseException:
            self.allowance.settle(held, Usage(), 0)  # a schema that is refused is a request, too
            raise
        return Execution(
            Accepted(request, caller.tenant, decision, held, engine),
            admission=candidate.admission,
            allowance=self.allowance,
            recorder=self.recorder,
        )

    def engine_of(self, model: str) -> Engine:
        """The engine that answers for that model, which is known to be served."""
        return self.router.route(model).engine

    def models_for(self, caller: Caller) -> dict[str, ServedModel]:
        """The models that this caller's key and tenant may use, by name: it is told of no others."""
        allowed = caller.scope.models
        return {name: served for name, served in self.router.models.items() if allowed is None or name in allowed}

    def find_served(self, caller: Caller, name: str) -> ServedModel:
        """The model. To a key that may not use it, it is as one that there is not: no receipt either, nor a charge."""
        models = self.models_for(caller)
        served = models.get(name)
        if served is None:
            raise Invalid(
                f"the model {name!r} is not served here",
                code="model_not_found",
                param="model",
                hint=f"there is {', '.join(map(repr, models)) or 'none that this key may use'}",
            )
        return served

    async def _interpret(self, work: Execution, chat: Chat, prepared: Chat, completion: Completion) -> Completion:
        """What the client asked for: calls where it asked for calls, JSON that keeps its schema where it gave one."""
        judged = partial(self.judge.verdict, work.tenant_id)
        completion = await tools.interpret(chat, completion, schema=prepared.schema, judged=judged)
        if chat.schema is not None and not completion.tool_calls and not tools.is_forced(chat):
            verdict = await judged(chat.schema or {"type": "object"}, completion.content or "", True)
            if tools.is_broken(verdict, completion):
                message = "the model's answer does not satisfy the schema"
                raise tools.not_kept(verdict, chat, message, code="schema_not_kept", param=SCHEMA_PLACE)
        return completion

    async def _pieces(
        self, chat: Chat, prepared: Chat, work: Execution, salt: str
    ) -> AsyncGenerator[Pieces | Completion, None]:
        """The engine's pieces, less what may turn out to be a tool call, and the Completion that was asked for."""
        held: list[Piece] = []
        start = ""
        holding = tools.offers_tools(chat)
        async with aclosing(self.engine_of(prepared.model).stream(prepared, salt=salt, tally=work.tally)) as stream:
            async for item in stream:
                work.note_progress()
                if isinstance(item, Completion):
                    work.note_counted(item.usage)
                    completion = await self._interpret(work, chat, prepared, item)
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


def _schemas_of(chat: Chat, prepared: Chat) -> list[Asked]:
    """The schemas of a chat that are to be known good before its turn."""
    own = [] if chat.schema is None else [Asked(chat.schema, SCHEMA_PLACE, is_grammar=True)]
    return own + tools.schemas_of(chat, prepared)
