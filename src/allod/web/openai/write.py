"""From our values to OpenAI's words: answers, chunks, lists and errors, as bytes."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from allod.core.digests import sha256_hex
from allod.core.errors import AllodError
from allod.core.requests import Completion, Embeddings, Json, Pieces, ToolCall, Usage
from allod.core.shown_text import ends_of
from allod.web.http.errors import ErrorDialect, status_of

DONE = b"data: [DONE]\n\n"
MAX_SAID_CHARS = 600  # of an error: a name of the client's may stand in it, as long as its body

_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=16)
def fingerprint(build: str, config: str) -> str:
    """Another for another engine or another configuration of it, from the digests that receipts hold."""
    return f"fp_{sha256_hex(f'{build} {config}'.encode())[:12]}"


class AnswerWriter:
    """Writes one chat's answer. `id`, `created_s` and `fingerprint` are the same in each chunk and in the object."""

    def __init__(self, *, id: str, model: str, created_s: int, fingerprint: str, include_usage: bool) -> None:
        self._id = id
        self._frame = {"id": id, "created": created_s, "model": model, "system_fingerprint": fingerprint}
        self._include_usage = include_usage
        beginning = _encode({**self._frame, "object": "chat.completion.chunk"})[:-1]
        self._before_delta = b'data: %b,"choices":[{"index":0,"delta":' % beginning
        self._end = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._before_text = self._before_delta + b'{"content":'
        self._after_text = b'},"logprobs":null,"finish_reason":null' + self._end

    def whole(self, completion: Completion) -> bytes:
        """The body of an answer that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": completion.content, "refusal": None}
        if completion.tool_calls:
            message["tool_calls"] = self._calls(completion.tool_calls)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs(completion.logprobs),
            "finish_reason": completion.finish,
        }
        return _encode(
            {**self._frame, "object": "chat.completion", "choices": [choice], "usage": _usage(completion.usage)}
        )

    def first(self) -> bytes:
        """The chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def pieces(self, pieces: Pieces) -> bytes:
        """A chunk for each: of all that is written here by far the most frequent, so only the text is encoded."""
        before, after = self._before_text, self._after_text
        chunks = [
            self._chunk({"content": text}, logprobs=_logprobs(logprobs)) if logprobs else before + _encode(text) + after
            for text, logprobs in pieces
        ]
        return b"".join(chunks)

    def last(self, completion: Completion) -> bytes:
        """What closes a stream: the calls, the reason, the usage if asked for, [DONE]."""
        parts = []
        if completion.tool_calls:
            calls = [{"index": index, **call} for index, call in enumerate(self._calls(completion.tool_calls))]
            parts.append(self._chunk({"tool_calls": calls}))
        parts.append(self._chunk({}, finish=completion.finish))
        if self._include_usage:
            chunk = {**self._frame, "object": "chat.completion.chunk", "choices": [], "usage": _usage(completion.usage)}
            parts.append(_event(chunk))
        return b"".join((*parts, DONE))

    def _chunk(self, delta: dict[str, Any], *, logprobs: Any = None, finish: str | None = None) -> bytes:
        rest = b',"logprobs":%b,"finish_reason":%b' % (_encode(logprobs), _encode(finish))
        return self._before_delta + _encode(delta) + rest + self._end

    def _calls(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{self._id[-24:]}{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(calls)
        ]


def embeddings(model: str, made: Embeddings, *, as_base64: bool) -> bytes:
    """The body of an answer to `POST /v1/embeddings`; base64 is of little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(made.vectors)
    ]
    tokens = made.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _encode({"object": "list", "data": data, "model": model, "usage": usage})


def model(name: str, *, created_s: int, owner: str) -> dict[str, Any]:
    """An entry of `GET /v1/models`."""
    return {"id": name, "object": "model", "created": created_s, "owned_by": owner}


def error(reason: AllodError) -> bytes:
    """The error's body. The hint is part of the message: clients show nothing else."""
    message = ends_of(reason.message, limit=MAX_SAID_CHARS)
    if reason.hint:
        message += f" ({reason.hint})"
    param = reason.param and ends_of(reason.param, limit=MAX_SAID_CHARS)
    return _encode({"error": {"message": message, "type": _type(reason), "param": param, "code": reason.code}})


def error_event(reason: AllodError) -> bytes:
    """A failure inside a stream."""
    return b"data: " + error(reason) + b"\n\n"


ERRORS = ErrorDialect(error, error_event)


def _type(reason: AllodError) -> str:
    status = status_of(reason)
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(entries: Sequence[Json]) -> dict[str, Any] | None:
    return {"content": entries, "refusal": None} if entries else None


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
