"""OpenAI's paths: `/v1/chat/completions`, `/v1/embeddings`, `/v1/models`."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from allod.core.errors import Invalid
from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Request
from allod.serve.gateway import Gateway
from allod.web.asgi import Call
from allod.web.http import EVENTS, JSON, read_body, unless_client_leaves
from allod.web.labels import label_of
from allod.web.metrics import Metrics
from allod.web.openai import read, write

MODELS_PREFIX = "/v1/models/"


class OpenAI:
    """Handlers of the dialect, over one gateway."""

    def __init__(self, gateway: Gateway, *, metrics: Metrics, body_limit_bytes: int, started_s: int) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._body_limit_bytes = body_limit_bytes
        self._started_s = started_s

    async def chat_completions(self, call: Call) -> None:
        """`POST /v1/chat/completions`."""
        body = await read_body(call.receive, limit_bytes=self._body_limit_bytes)
        asked = read.read_chat(body)
        request = _request(call, asked.chat, body)
        writer = write.AnswerWriter(
            id=f"chatcmpl-{call.id}",
            model=asked.chat.model,
            created_s=call.start_ms // 1000,
            include_usage=asked.include_usage,
        )
        if asked.stream:
            await unless_client_leaves(call.receive, self._stream(call, request, writer))
        else:
            completion = await unless_client_leaves(call.receive, self._gateway.answer(request))
            self._count(completion)
            await call.respond(200, writer.whole(completion), (*JSON, _receipt(call)))

    async def embeddings(self, call: Call) -> None:
        """`POST /v1/embeddings`."""
        body = await read_body(call.receive, limit_bytes=self._body_limit_bytes)
        asked = read.read_embed(body)

        def write_body(made: Embeddings) -> bytes:
            self._metrics.count_tokens(prompt=made.usage.prompt_tokens, completion=0)
            return write.embeddings(asked.embed.model, made, as_base64=asked.base64)

        work = self._gateway.embed(_request(call, asked.embed, body), write_body)
        await call.respond(200, await unless_client_leaves(call.receive, work), (*JSON, _receipt(call)))

    async def models(self, call: Call) -> None:
        """`GET /v1/models` and `GET /v1/models/{id}`."""
        served = self._gateway.model
        info = self._gateway.engine.info
        entry = {
            **write.model(served.name, created_s=self._started_s, owner=served.owner),
            "allod": {
                "licence": served.licence,
                "publisher": served.owner,
                "country": served.country,
                "informative": served.informative,
                "digest": served.digest,
                "context_tokens": info.context_tokens,
            },
        }
        if call.path.startswith(MODELS_PREFIX):
            if call.path.removeprefix(MODELS_PREFIX) != served.name:
                raise Invalid("there is no such model here", code="model_not_found", param="model")
            await call.respond(200, msgspec.json.encode(entry))
        else:
            await call.respond(200, msgspec.json.encode({"object": "list", "data": [entry]}))

    async def _stream(self, call: Call, request: Request, writer: write.AnswerWriter) -> None:
        """Headers go out with the first thing there is to say, so that an early error still has a status."""
        async with aclosing(self._gateway.stream(request)) as answer:
            async for item in answer:
                if not call.started:
                    call.started = True
                    headers = [*EVENTS, (b"x-request-id", call.id.encode()), _receipt(call)]
                    await call.send({"type": "http.response.start", "status": 200, "headers": headers})
                    await _send(call, writer.first())
                if isinstance(item, Piece):
                    await _send(call, writer.piece(item))
                else:
                    self._count(item)
                    await _send(call, writer.last(item))
        await call.send({"type": "http.response.body", "body": b""})

    def _count(self, completion: Completion) -> None:
        usage = completion.usage
        self._metrics.count_tokens(prompt=usage.prompt_tokens, completion=usage.completion_tokens)


async def _send(call: Call, body: bytes) -> None:
    await call.send({"type": "http.response.body", "body": body, "more_body": True})


def _request(call: Call, task: Chat | Embed, body: bytes) -> Request:
    assert call.tenant is not None  # these routes are not open
    label = label_of(call.headers, call.tenant.default_label)
    return Request(call.id, call.tenant.name, label, task, body, call.start_ms)


def _receipt(call: Call) -> tuple[bytes, bytes]:
    """The receipt has the request's own id: one random number names both."""
    return (b"x-allod-receipt", call.id.encode())
