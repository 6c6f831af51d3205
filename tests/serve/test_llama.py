"""What llama.cpp's server says, read strictly: whatever is not an answer is a failed engine, never our own fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.serve.conftest import chat
from tests.serve.test_http import Exchange, serving

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Completion, Piece
from allod.serve.engines.echo import EchoEngine
from allod.serve.engines.llama import LlamaEngine

HALF = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


async def asked(tmp_path: Path, answer: Callable[[Exchange], Awaitable[None]], *, stream: bool) -> list[object]:
    """What an engine with that server answers."""
    async with serving(tmp_path, answer):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        try:
            if stream:
                return [item async for item in engine.stream(chat(top_logprobs=1), salt="s")]
            return [await engine.complete(chat(top_logprobs=1), salt="s")]
        finally:
            await engine.close()


async def failure(tmp_path: Path, answer: Callable[[Exchange], Awaitable[None]], *, stream: bool) -> AllodError:
    with pytest.raises(AllodError) as caught:
        await asked(tmp_path, answer, stream=stream)
    return caught.value


@pytest.mark.parametrize(
    "event",
    [
        b"data: {nonsense\n\n",
        b'data: {"choices": 7}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"},"logprobs":{"content":[{}]}}]}\n\n',
    ],
    ids=["no JSON", "wrong type", "no text", "empty logprobs"],
)
async def test_an_event_that_cannot_be_read_is_a_failed_engine(tmp_path: Path, event: bytes) -> None:
    """Also after pieces that could be."""
    error = await failure(tmp_path, lambda exchange: exchange.chunked(HALF, event), stream=True)
    assert (type(error), error.code) == (Unavailable, "engine_response")


@pytest.mark.parametrize(
    "body",
    [b"x", b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":"\xff"}}]}'],
    ids=repr,
)
async def test_a_response_that_cannot_be_read_is_a_failed_engine(tmp_path: Path, body: bytes) -> None:
    """No choice at all, other shapes, other encodings."""
    error = await failure(tmp_path, lambda exchange: exchange.whole(body), stream=False)
    assert (type(error), error.code) == (Unavailable, "engine_response")


async def test_a_stream_without_its_reason_to_end_is_a_lost_engine(tmp_path: Path) -> None:
    """Half an answer that ends politely is still half an answer."""
    error = await failure(tmp_path, lambda exchange: exchange.chunked(HALF, b"data: [DONE]\n\n"), stream=True)
    assert error.code == "engine_lost"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "reason", "kind", "code"),
    [
        (b"400 Bad Request", b'"exceed_context_size_error","code":400', Invalid, "context_length_exceeded"),
        (b"400 Bad Request", b'"invalid_request_error","code":400', Invalid, "refused_by_engine"),
        (b"500 Internal Server Error", b'"server_error","code":500', Unavailable, "engine_failed"),
    ],
)
async def test_the_engines_errors_are_ours(
    tmp_path: Path, stream: bool, status: bytes, reason: bytes, kind: type[AllodError], code: str
) -> None:
    """The client's mistakes are its own; everything else is the engine's."""
    body = b'{"error":{"message":"why","type":%b}}' % reason
    error = await failure(tmp_path, lambda exchange: exchange.whole(body, status=status), stream=stream)
    assert (type(error), error.code, error.message) == (kind, code, "why")


async def test_events_may_be_cut_anywhere(tmp_path: Path) -> None:
    """Where the pieces of the transport end says nothing of where events do."""
    told = HALF + b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    parts = [told[at : at + 1] for at in range(len(told))]
    piece, completion = await asked(tmp_path, lambda exchange: exchange.chunked(*parts), stream=True)
    assert piece == Piece("a")
    assert isinstance(completion, Completion)
    assert (completion.content, completion.finish, completion.usage.completion_tokens) == ("a", "stop", 1)
