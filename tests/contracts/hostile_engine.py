"""An engine's server that does wrong, in each of the ways that are known, and what must come of it.

It runs in the test: a function for each way, which answers one chat. What else is asked is answered as it should be.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from tests.engine.test_http import Answer, Exchange

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
Whole = Callable[[], Awaitable[None]]


class Way(NamedTuple):
    """How an engine does wrong, and the code of the error that it must become; empty: an answer, `text` and no more."""

    answer: Answer
    code: str = ""
    text: str = "a"


def event(content: str | None = None, **more: Any) -> bytes:
    choices = [] if content is None else [{"delta": {"content": content}}]
    return b"data: %b\n\n" % json.dumps({"choices": choices, **more}).encode()


def used(prompt: Any, completion: Any, cached: Any = 0) -> bytes:
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return event(usage=usage)


A = event("a")
ENDS = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'
WHOLE = A + ENDS + used(1, 1) + DONE


def says(*parts: bytes) -> Answer:
    """These, in chunks, and then the response's end."""

    async def answer(exchange: Exchange) -> None:
        await exchange.chunked(*parts)

    return answer


def sends(*parts: bytes, closes: bool = False) -> Answer:
    """These bytes, whatever they are, and then nothing, or the connection's end."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(*parts)
        if not closes:
            await exchange.reader.read()
        exchange.writer.close()

    return answer


def repeats(first: bytes, again: bytes, *, pause_s: float = 0.0, is_chunked: bool = True) -> Answer:
    """The first, and then the other for ever, or until nobody listens."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(first)
        leaving = asyncio.create_task(exchange.reader.read())
        try:
            while not leaving.done():
                await exchange.send(b"%x\r\n%b\r\n" % (len(again), again) if is_chunked else again)
                await asyncio.sleep(pause_s)
        finally:
            exchange.writer.close()
            await asyncio.gather(leaving, return_exceptions=True)  # it may have been left by a reset

    return answer


def _whole(body: bytes, status: bytes = b"200 OK", more: bytes = b"", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, length, more, body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


MANY = {"delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1.0}] * 2000}}
NESTED = b"[" * 50_000
ERROR = b'{"error": {"message": "it burns", "type": "server_error", "code": null}}'
WAYS = {
    "says nothing": Way(sends(), "engine_silent"),
    "is silent after its head": Way(sends(HEAD), "engine_silent"),
    "is silent after a word": Way(sends(HEAD, _chunk(A)), "engine_silent"),
    "shows signs of life alone": Way(repeats(HEAD, b": ping\n\n", pause_s=0.1), "engine_silent"),
    "is slow without end": Way(repeats(HEAD, A, pause_s=0.8), "engine_slow"),
    "is lost after a word": Way(sends(HEAD, _chunk(A), closes=True), "engine_lost"),
    "speaks no HTTP": Way(sends(b"SSH-2.0-OpenSSH_9.9\r\n"), "engine_lost"),
    "has a head without end": Way(repeats(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 99, is_chunked=False), "engine_lost"),
    "has a line without end": Way(repeats(HEAD, b"a" * 4096), "engine_response"),
    "has an event without end": Way(repeats(HEAD + _chunk(b'data: {"x":"'), b"a" * 4096), "engine_response"),
    "says nothing in many events": Way(repeats(HEAD, b"data: {}\n\n" * 400), "engine_response"),
    "says less than its length": Way(sends(_whole(A, length=9999), closes=True), "engine_lost"),
    "says more than its length": Way(sends(_whole(WHOLE, length=30)), "engine_response"),
    "has two lengths": Way(sends(_whole(WHOLE, more=b"content-length: 7\r\n")), "engine_lost"),
    "ends without a reason": Way(says(A, DONE), "engine_lost"),
    "says half a character": Way(says(b'data: {"choices":[{"delta":{"content":"\xf0\x9f"}}]}\n\n'), "engine_response"),
    "says half a surrogate pair": Way(
        says(rb'data: {"choices":[{"delta":{"content":"\ud83d"}}]}' + b"\n\n"), "engine_response"
    ),
    "says no JSON": Way(says(A, b"data: {nonsense}\n\n"), "engine_response"),
    "says JSON of another shape": Way(says(b'data: {"choices": 7}\n\n'), "engine_response"),
    "nests without end": Way(says(b'data: {"x":' + NESTED + b"\n\n"), "engine_response"),
    "counts below nothing": Way(says(A, ENDS, used(-1, -1), DONE), "engine_response"),
    "counts in halves": Way(says(A, ENDS, used(1.5, 1), DONE), "engine_response"),
    "reports an error as an answer": Way(sends(_whole(ERROR)), "engine_failed"),
    "reports an error in a line of words": Way(sends(_whole(b'{"error": "it burns"}\n')), "engine_failed"),
    "reports an error after a word": Way(says(A, b"data: " + ERROR + b"\n\n"), "engine_failed"),
    "shows a page": Way(sends(_whole(b"<html>Welcome</html>\n")), "engine_lost"),
    "shows a page as an error": Way(sends(_whole(b"<html>Oh</html>", b"502 Bad Gateway")), "engine_failed"),
    "sends us elsewhere": Way(
        sends(_whole(b"", b"307 Temporary Redirect", b"location: http://127.0.0.1:1/\r\n")), "engine_failed"
    ),
    "does not let us in": Way(sends(_whole(b'{"error":{"message":"key sk-1"}}', b"401 No")), "engine_failed"),
    "has too much to do": Way(sends(_whole(b"", b"429 Too Many Requests")), "engine_busy"),
    "answers in one piece": Way(
        sends(_whole(b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}')), "engine_lost"
    ),
    "answers about many tokens at once": Way(
        says(b"data: " + json.dumps({"choices": [MANY]}).encode() + b"\n\n"),
        "engine_response",
    ),
    "goes on after the end": Way(says(A, ENDS, used(1, 1), DONE, event("b"), used(99, 99), DONE)),
    "does not end after the end": Way(sends(HEAD, _chunk(WHOLE))),
    "goes on for ever after the end": Way(repeats(HEAD + _chunk(WHOLE), event("b"))),
    "goes on for ever": Way(repeats(HEAD, A), text="aaaaa"),
    "says very long tokens": Way(repeats(HEAD, event("x" * 60_000)), text=""),
    "counts the impossible": Way(says(A, ENDS, used(10**12, 10**12, 10**12), DONE)),
    "counts nothing": Way(says(A, ENDS, DONE)),
    "writes lines as others do": Way(says(WHOLE.replace(b"data: ", b"data:").replace(b"\n", b"\r\n"))),
    "does not end its last line": Way(sends(_whole(A + b'data: {"choices":[{"finish_reason":"stop"}]}'))),
}  # fmt: skip


def hostile(way: Way) -> Answer:
    """A server that answers chats in that way, and tells which models and slots it has."""

    async def answer(exchange: Exchange) -> None:
        if exchange.head.startswith(b"GET /slots"):
            await exchange.whole(b"[]")
        elif exchange.head.startswith(b"GET"):
            await exchange.whole(b'{"data": [{"id": "there"}]}')
        else:
            await way.answer(exchange)

    return answer
