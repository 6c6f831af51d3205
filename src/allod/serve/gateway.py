"""The main path of an answer. Its steps carry these numbers in the architecture, here and in the tests:

1 parse         the dialect, at the edge                                    (web)
2 authenticate  key → tenant                                                `tenant_of`
3 label         what the caller declared, joined with the tenant's default  (web, core)
4 decide        permit or forbid; forbid → refusal receipt                  `_decide`
5 admit         a bounded queue                                             `Admission.turn`
6 route         to a replica that is up                                     (the engine port)
7 generate      in the sealed engine                                        `Engine`
8 stream        while the answer is collected                               (web)
9 record        durable first; only then is the answer complete             `Recorder`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import cast

from allod.core.errors import AllodError, Denied, Invalid
from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Request
from allod.govern.keys import KeyRing
from allod.govern.policy import decide
from allod.serve import schemas, tools
from allod.serve.admission import Admission
from allod.serve.engine import Engine
from allod.serve.recorder import Recorder

LONGEST_OPENING = 16  # characters that tell whether text may be a call


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients are told of the model. `informative` is False where its answers are not information."""

    name: str
    owner: str
    digest: str
    licence: str
    country: str
    informative: bool


class Gateway:
    """Answers requests. `keys.tenant_of` is step 2; a `Request` that comes in has passed steps 1 to 3."""

    def __init__(
        self, *, model: ServedModel, keys: KeyRing, engine: Engine, admission: Admission, recorder: Recorder
    ) -> None:
        self.model = model
        self.keys = keys
        self.engine = engine
        self.admission = admission
        self.recorder = recorder

    async def answer(self, request: Request) -> Completion:
        """A whole answer, recorded."""
        chat = await self._accepted_chat(request)
        async with self.admission.turn():
            try:
                completion = _interpreted(chat, await self.engine.complete(tools.prepare(chat)))
            except (AllodError, asyncio.CancelledError) as reason:
                self.recorder.record_unfinished(request, "", reason)
                raise
        await self.recorder.record_answer(request, completion.committed_bytes(), completion.usage, completion.finish)
        return completion

    async def stream(self, request: Request) -> AsyncGenerator[Piece | Completion, None]:
        """Pieces as they come, then the Completion, which comes only once its receipt is durable."""
        chat = await self._accepted_chat(request)
        sent: list[str] = []
        completion = None
        async with self.admission.turn(), aclosing(self._pieces(chat)) as pieces:
            try:
                async for item in pieces:
                    if isinstance(item, Completion):
                        completion = item
                    else:
                        sent.append(item.text)
                        yield item
            except (AllodError, asyncio.CancelledError, GeneratorExit) as reason:
                self.recorder.record_unfinished(request, "".join(sent), reason)
                raise
        completion = cast(Completion, completion)
        await self.recorder.record_answer(request, completion.committed_bytes(), completion.usage, completion.finish)
        yield completion

    async def embed(self, request: Request, write: Callable[[Embeddings], bytes]) -> bytes:
        """The body that `write` makes of the vectors, recorded: for embeddings the receipt commits to the body."""
        embed = cast(Embed, request.task)
        self._check_model(embed.model)
        await self._decide(request)
        async with self.admission.turn():
            try:
                made = await self.engine.embed(embed)
            except (AllodError, asyncio.CancelledError) as reason:
                self.recorder.record_unfinished(request, "", reason)
                raise
        body = write(made)
        await self.recorder.record_answer(request, body, made.usage, "stop")
        return body

    async def _accepted_chat(self, request: Request) -> Chat:
        chat = cast(Chat, request.task)
        self._check_model(chat.model)
        if not self.engine.info.can_chat:
            raise Invalid(
                f"{chat.model} makes embeddings and answers no chats", code="unsupported_by_model", param="model"
            )
        tools.check_tools(chat)
        if chat.schema is not None:
            schemas.compiled(chat.schema, param="response_format.json_schema.schema")
        await self._decide(request)
        return chat

    async def _decide(self, request: Request) -> None:
        await self.recorder.prepare(request)
        decision = decide(request.label)
        if not decision.permitted:
            await self.recorder.record_refusal(request)
            raise Denied(f"forbidden by policy: {decision.reason}", code="policy_denied")

    def _check_model(self, name: str) -> None:
        if name != self.model.name:
            raise Invalid(
                f"the model {name!r} is not served here",
                code="model_not_found",
                param="model",
                hint=f"there is {self.model.name!r}",
            )

    async def _pieces(self, chat: Chat) -> AsyncGenerator[Piece | Completion, None]:
        """The engine's pieces, less what may turn out to be a tool call, and the Completion that was asked for."""
        held: list[Piece] = []
        start = ""
        holding = tools.offers_tools(chat)
        async with aclosing(self.engine.stream(tools.prepare(chat))) as stream:
            async for item in stream:
                if isinstance(item, Completion):
                    completion = _interpreted(chat, item)
                    if not completion.tool_calls:
                        for piece in held:
                            yield piece
                    elif not holding:  # its text has gone out already: it is part of the answer, and of the receipt
                        completion = replace(completion, content=item.content)
                    yield completion
                    return
                if holding:
                    held.append(item)
                    start = (start + item.text).lstrip()[:LONGEST_OPENING]
                    holding = tools.is_forced(chat) or tools.could_be_call(start)
                    if holding:
                        continue
                    for piece in held:
                        yield piece
                    held.clear()
                else:
                    yield item


def _interpreted(chat: Chat, completion: Completion) -> Completion:
    """What the client asked for: calls where it asked for calls, JSON that keeps its schema where it gave one."""
    completion = tools.interpret(chat, completion)
    if chat.schema is not None and completion.finish == "stop":
        asked = chat.schema or {"type": "object"}
        schemas.check_kept(schemas.compiled(asked, param="response_format"), completion.content or "")
    return completion
