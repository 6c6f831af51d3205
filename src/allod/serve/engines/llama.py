"""llama.cpp's server behind the engine port, over a Unix socket.

Tools never reach it: llama.cpp accepts a forced tool call and does not enforce it (ggml-org/llama.cpp#27217), so
`allod.serve.tools` has turned them into a schema before a chat comes here. Nor do salts: it has none, so each chat
names its slot (`slots.py`). Every chat says of each adapter whether it applies, and slots keep what adapters computed
apart as they keep salts apart: a prompt has other keys and values under another adapter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Finish, Json, Piece, Usage
from allod.serve.engine import EngineInfo
from allod.serve.engines.http import Response, UnixHttp, whole
from allod.serve.engines.slots import SlotQueue, Slots, Turn
from allod.serve.schemas.grammar import grammar_of

CHAT_PATH = "/v1/chat/completions"
MAX_LINE_BYTES = 1 << 20


class _Delta(msgspec.Struct):
    content: str | None = None


class _TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[_TokenLogprob] = []


class _Logprobs(msgspec.Struct):
    content: list[_TokenLogprob] | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    logprobs: _Logprobs | None = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _CachedTokens | None = None


class _Error(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: int = 500


class _Answer(msgspec.Struct):
    """A response, or one event of a streamed one."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_answers = msgspec.json.Decoder(_Answer)
_vectors = msgspec.json.Decoder(_Vectors)
_encode = msgspec.json.Encoder().encode
_Kind = TypeVar("_Kind", _Answer, _Vectors)


class _Applied(NamedTuple):
    """What an adapter, or none, adds to a chat's body, and to the salt that its slots are chosen by."""

    body: bytes
    salt: str


class LlamaEngine:
    """One started llama.cpp server. `info` is what its launcher knows of it, `slots` what they hold (None: nothing)."""

    def __init__(self, info: EngineInfo, socket_path: str, slots: Slots | None = None) -> None:
        self.info = info
        self._bare = _Applied(_lora(info, ""), "")
        self._adapters = {each.name: _Applied(_lora(info, each.name), f" {each.digest}") for each in info.adapters}
        self._http = UnixHttp(socket_path)
        self._slots = SlotQueue(slots or Slots(info.slots))

    async def stream(self, chat: Chat, *, salt: str) -> AsyncGenerator[Piece | Completion, None]:
        texts: list[str] = []
        logprobs: list[Json] = []
        finish: str | None = None
        usage = _Usage()
        prompt = _encode(self.info.control_tokens.plain_messages(chat.messages))
        applied = self._adapters.get(chat.model, self._bare)
        body = applied.body + _encode(_chat_body(chat, prompt, stream=True))[1:]
        turn = await self._slots.take(salt + applied.salt, prompt)
        async with aclosing(self._events(body, turn)) as events:
            async for event in events:
                usage = event.usage or usage
                for choice in event.choices:
                    finish = choice.finish_reason or finish
                    if choice.delta is not None and choice.delta.content:
                        piece = Piece(choice.delta.content, _openai_logprobs(choice.logprobs, chat.top_logprobs))
                        texts.append(piece.text)
                        logprobs.extend(piece.logprobs)
                        yield piece
        if finish is None:
            raise Unavailable("the engine was lost in mid-answer", code="engine_lost", retry_after_s=1)
        yield Completion("".join(texts), _finish(finish), _usage(usage), logprobs=tuple(logprobs))

    async def complete(self, chat: Chat, *, salt: str) -> Completion:
        prompt = _encode(self.info.control_tokens.plain_messages(chat.messages))
        applied = self._adapters.get(chat.model, self._bare)
        body = applied.body + _encode(_chat_body(chat, prompt, stream=False))[1:]
        turn = await self._slots.take(salt + applied.salt, prompt)
        answer = _decoded(_answers, await whole(self._parts(body, turn)))
        if not answer.choices:
            raise Unavailable("the engine answered nothing", code="engine_response")
        choice = answer.choices[0]
        content = choice.message.content if choice.message is not None else None
        return Completion(
            content or "",
            _finish(choice.finish_reason or "stop"),
            _usage(answer.usage or _Usage()),
            logprobs=_openai_logprobs(choice.logprobs, chat.top_logprobs),
        )

    async def embed(self, embed: Embed) -> Embeddings:
        if not self.info.can_embed:
            raise Invalid(
                f"{embed.model} answers chats and has no embeddings", code="unsupported_by_model", param="model"
            )
        response = await self._http.request(
            "POST", "/v1/embeddings", _encode({"input": [self.info.control_tokens.plain(text) for text in embed.texts]})
        )
        answer = _decoded(_vectors, response)
        ordered = sorted(answer.data, key=lambda item: item.index)
        return Embeddings(tuple(tuple(item.embedding) for item in ordered), _usage(answer.usage or _Usage()))

    async def is_ready(self) -> bool:
        """Whether the server has loaded its model."""
        try:
            return (await self._http.request("GET", "/health")).status == 200
        except Unavailable:
            return False

    async def close(self) -> None:
        self._slots.close()
        await self._http.close()

    async def _events(self, body: bytes, turn: Turn) -> AsyncGenerator[_Answer, None]:
        """The events of a streamed answer, up to [DONE]."""
        status, buffer = 0, b""
        async with aclosing(self._parts(body, turn)) as parts:
            async for part in parts:
                if isinstance(part, int):
                    status = part
                    continue
                *lines, buffer = (buffer + part).split(b"\n") if status == 200 else [buffer + part]
                if len(buffer) > MAX_LINE_BYTES:
                    raise Unavailable("the engine's answer has a line without end", code="engine_response")
                for line in lines:
                    if line.startswith((b"data: {", b"error: {")):
                        yield _event(line)
        if status != 200:
            _decoded(_answers, Response(status, buffer))

    async def _parts(self, body: bytes, turn: Turn) -> AsyncGenerator[int | bytes, None]:
        """The status and the parts of the engine's answer, in the turn's slot, which ends when the engine is done."""
        status, over = 0, partial(self._slots.give_back, turn)
        async with aclosing(self._http.stream("POST", CHAT_PATH, _placed(body, turn), over=over)) as parts:
            async for part in parts:
                if isinstance(part, int):
                    status = part
                elif status == 200:
                    turn.begun = True
                yield part


def _event(line: bytes) -> _Answer:
    """One event of a stream. Raises the error that it reports, Unavailable for what cannot be read."""
    try:
        event = _answers.decode(line[line.index(b"{") :])
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise Unavailable("the engine's answer is not readable", code="engine_response") from reason
    if event.error is not None:
        raise _error(event.error)
    return event


def _placed(body: bytes, turn: Turn) -> bytes:
    """The rest of a chat's `body`, begun with the slot that it takes and whether what that holds may be reused."""
    return b'{"id_slot":%d,"cache_prompt":%b,%b' % (turn.slot, b"true" if turn.reuse else b"false", body)


def _lora(info: EngineInfo, name: str) -> bytes:
    """The part of a body that applies the adapter `name` and no other: nothing is left to the server's default."""
    if not info.adapters:
        return b""
    scales = [{"id": number, "scale": float(each.name == name)} for number, each in enumerate(info.adapters)]
    return b'"lora":%b,' % _encode(scales)


def _chat_body(chat: Chat, prompt: bytes, *, stream: bool) -> dict[str, Any]:
    sampling = chat.sampling
    body: dict[str, Any] = {
        "messages": msgspec.Raw(prompt),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = sampling.stop
    if chat.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": max(1, chat.top_logprobs)}  # with 0 it gives none at all
    if chat.schema is not None:
        body["grammar"] = grammar_of(chat.schema)
    return body


def _decoded(decoder: msgspec.json.Decoder[_Kind], response: Response) -> _Kind:
    """The response's body, or the error that it reports."""
    try:
        if response.status == 200:
            return decoder.decode(response.body)
        error = _answers.decode(response.body).error
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise Unavailable("the engine's answer is not readable", code="engine_response") from reason
    raise _error(error or _Error(code=response.status))


def _error(error: _Error) -> AllodError:
    """llama.cpp's error as one of ours."""
    if (
        error.type == "exceed_context_size_error" or "too large to process" in error.message
    ):  # chat; embeddings, as a 500
        return Invalid(error.message, code="context_length_exceeded")
    if 400 <= error.code < 500:
        return Invalid(error.message, code="refused_by_engine")
    return Unavailable(error.message or "the engine failed", code="engine_failed", retry_after_s=1)


def _finish(reason: str) -> Finish:
    return "length" if reason == "length" else "stop"


def _usage(usage: _Usage) -> Usage:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return Usage(usage.prompt_tokens, usage.completion_tokens, cached)


def _openai_logprobs(logprobs: _Logprobs | None, num_alternatives: int | None) -> tuple[Json, ...]:
    """llama.cpp's entries carry a token `id` that OpenAI's clients do not expect."""
    if logprobs is None:
        return ()
    return tuple(
        {**_entry(entry), "top_logprobs": [_entry(other) for other in entry.top_logprobs[:num_alternatives]]}
        for entry in logprobs.content or ()
    )


def _entry(entry: _TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes}
