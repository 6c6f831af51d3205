"""OpenAI's paths: `/v1/chat/completions`, `/v1/embeddings`, `/v1/models`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from allod.core.errors import Invalid, Unavailable
from allod.core.labels import Label
from allod.core.requests import Completion, Embeddings
from allod.govern.tenancy.keys import Caller
from allod.serve.gateway import Gateway
from allod.serve.request import Request
from allod.serve.served_model import ServedModel
from allod.web.http.asgi import Call
from allod.web.http.exchange import EVENTS, JSON, Headers
from allod.web.http.labels import label_headers, label_of
from allod.web.http.metrics import Metrics
from allod.web.openai import read, write

_Asked = TypeVar("_Asked", read.ChatCall, read.EmbedCall)


class OpenAI:
    """Handlers of the dialect, over one gateway."""

    def __init__(
        self, gateway: Gateway, *, metrics: Metrics, body_limit_bytes: int, answer_s: float, started_s: int
    ) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._body_limit_bytes = body_limit_bytes
        self._answer_s = answer_s
        self._started_s = started_s

    async def chat_completions(self, call: Call) -> None:
        """`POST /v1/chat/completions`."""
        asked, request = await self._read(call, read.read_chat)
        info = self._gateway.find_candidate(request.caller, asked.task.model).engine.info
        writer = write.AnswerWriter(
            id=f"chatcmpl-{call.id}",
            model=asked.task.model,
            created_s=call.start_ms // 1000,
            fingerprint=write.fingerprint(info.build, info.config),
            include_usage=asked.include_usage,
        )
        if asked.stream:
            await call.unless_client_leaves(self._stream(call, request, writer))
        else:
            answer = await call.unless_client_leaves(self._gateway.answer(request))
            self._count(answer.value)
            await call.respond(200, writer.whole(answer.value), (*JSON, *_about(call, answer.label)))

    async def embeddings(self, call: Call) -> None:
        """`POST /v1/embeddings`."""
        asked, request = await self._read(call, read.read_embed)

        def write_body(made: Embeddings) -> bytes:
            self._metrics.count_tokens(prompt=made.usage.prompt_tokens, completion=0)
            return write.embeddings(asked.task.model, made, as_base64=asked.base64)

        answer = await call.unless_client_leaves(self._gateway.embed(request, write_body))
        await call.respond(200, answer.value, (*JSON, *_about(call, answer.label)))

    async def models(self, call: Call) -> None:
        """`GET /v1/models`."""
        entries = [self._entry(served) for served in self._gateway.models_for(_caller(call)).values()]
        await call.respond(200, msgspec.json.encode({"object": "list", "data": entries}))

    async def model(self, call: Call, name: str) -> None:
        """`GET /v1/models/{id}`."""
        served = self._gateway.models_for(_caller(call)).get(name)
        if served is None:
            raise Invalid("there is no such model here", code="model_not_found", param="model")
        await call.respond(200, msgspec.json.encode(self._entry(served)))

    def _entry(self, served: ServedModel) -> dict[str, Any]:
        return {
            **write.model(served.name, created_s=self._started_s, owner=served.owner),
            "allod": {
                "licence": served.licence,
                "publisher": served.owner,
                "country": served.country,
                "informative": served.informative,
                "digest": served.digest,
                "base": served.base or None,
                "context_tokens": self._gateway.router.route(served.name).engine.info.context_tokens,
            },
        }

    async def _stream(self, call: Call, request: Request, writer: write.AnswerWriter) -> None:
        """Headers go out with the first thing there is to say, so that an early error still has a status.

        From then on a client has `answer_s` to read it all: one that reads a little now and then keeps no slot longer.
        """
        answer = await self._gateway.stream(request)
        try:
            async with asyncio.timeout(None) as limit, aclosing(answer.value) as items:
                async for item in items:
                    if not call.started:
                        call.started = True
                        limit.reschedule(asyncio.get_running_loop().time() + self._answer_s)
                        headers = [*EVENTS, (b"x-request-id", call.id.encode()), *_about(call, answer.label)]
                        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
                        await _send_part(call, writer.first())
                    if isinstance(item, Completion):
                        self._count(item)
                        await _send_part(call, writer.last(item))
                    else:
                        await _send_part(call, writer.pieces(item))
        except TimeoutError:
            raise Unavailable("the answer was not read in time", code="client_slow", retry_after_s=1) from None
        await call.send({"type": "http.response.body", "body": b""})

    async def _read(self, call: Call, parse: Callable[[bytes], _Asked]) -> tuple[_Asked, Request]:
        """What `parse` makes of the body, and the request for it under its declared label."""
        body = await call.read_body(limit_bytes=self._body_limit_bytes)
        asked, caller = parse(body), _caller(call)
        label = label_of(call.headers, caller.label, self._gateway.controls.nation)
        request = Request(call.id, caller, label, asked.task, body, call.start_ms)
        await request.give_way_if_long()
        return asked, request

    def _count(self, completion: Completion) -> None:
        usage = completion.usage
        self._metrics.count_tokens(prompt=usage.prompt_tokens, completion=usage.completion_tokens)


async def _send_part(call: Call, part: bytes) -> None:
    """Waits while the client is behind."""
    await call.send({"type": "http.response.body", "body": part, "more_body": True})


def _caller(call: Call) -> Caller:
    assert call.caller is not None  # these routes are not open
    return call.caller


def _about(call: Call, label: Label) -> Headers:
    """The answer's label, and its receipt's id: the request's own, one random number names both."""
    return (*label_headers(label), (b"x-allod-receipt", call.id.encode()))
