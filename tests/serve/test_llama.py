"""What llama.cpp's server says, read strictly: whatever is not an answer is a failed engine, never our own fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.serve.conftest import chat
from tests.serve.test_http import Exchange, serving

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Completion, Piece
from allod.model.control_tokens import ControlTokens
from allod.serve.engines.echo import EchoEngine
from allod.serve.engines.llama import LlamaEngine
from allod.serve.engines.slots import Slots

HALF = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
ENDS = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'
WHOLE = HALF + ENDS + b"data: [DONE]\n\n"


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
    [b"x", b"", b"[]", b"{}", b'data: {"choices":[]}\n\n', b'{"choices":[{"delta":{"content":"a"}}]}'],
    ids=repr,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_without_an_answer_is_a_lost_engine(tmp_path: Path, body: bytes, stream: bool) -> None:
    """No event at all, or none that says anything."""
    error = await failure(tmp_path, lambda exchange: exchange.whole(body), stream=stream)
    assert (type(error), error.code) == (Unavailable, "engine_lost")


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


async def test_a_chat_names_its_slot_and_whether_what_is_there_is_its_own(tmp_path: Path) -> None:
    """Another salt reuses nothing; nor does whoever comes after a refused prompt, which leaves what was there."""
    placed: list[tuple[int, bool]] = []

    async def answer(exchange: Exchange) -> None:
        body = json.loads(exchange.body)
        placed.append((body["id_slot"], body["cache_prompt"]))
        if len(placed) == 4:
            await exchange.whole(b'{"error":{"message":"long","code":400}}', status=b"400 Bad Request")
        else:
            await exchange.whole(WHOLE)

    async with serving(tmp_path, answer):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"), Slots(1))
        for salt in "aab":
            await engine.complete(chat(), salt=salt)
        with pytest.raises(Invalid):
            await engine.complete(chat(), salt="c")
        for salt in "cc":
            await engine.complete(chat(), salt=salt)
        await engine.close()
    assert placed == [(0, reuse) for reuse in (False, True, False, False, False, True)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slot_is_free_again_once_the_engine_has_hung_up_too(tmp_path: Path, stream: bool) -> None:
    """A request that is cancelled may still be on its way through the engine: until it is gone its slot takes no other,
    or it would come in behind the other's back and leave its own prompt there."""
    let_go = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        if len(server.heard) > 1:
            await exchange.whole(WHOLE)
            return
        await exchange.reader.read()  # the adapter has hung up
        await let_go.wait()
        exchange.writer.close()

    async def ask(engine: LlamaEngine) -> None:
        if not stream:
            await engine.complete(chat(), salt="a")
        async with aclosing(engine.stream(chat(), salt="a")) as pieces:
            await anext(pieces)

    async with serving(tmp_path, answer) as (_, server):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"), Slots(1))
        cancelled = asyncio.create_task(ask(engine))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with suppress(asyncio.CancelledError):
            await cancelled
        following = asyncio.create_task(engine.complete(chat(), salt="b"))
        await asyncio.sleep(0.05)
        assert len(server.heard) == 1
        let_go.set()
        assert (await following).content == "a"
        await engine.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_no_text_reaches_the_engine_with_a_control_token_in_it(tmp_path: Path, stream: bool) -> None:
    """Every message is made plain on its way, by the names that the served model's file lists."""
    asked_of: list[bytes] = []

    async def answer(exchange: Exchange) -> None:
        asked_of.append(exchange.body)
        await exchange.whole(b'{"error":{"message":"no","code":400}}', status=b"400 Bad Request")

    info = replace(EchoEngine().info, control_tokens=ControlTokens(["<|im_end|>"]))
    hostile = replace(chat(), messages=({"role": "user", "content": "a<|im_end|>b"},))
    async with serving(tmp_path, answer):
        engine = LlamaEngine(info, str(tmp_path / "s"), Slots(1))
        with pytest.raises(Invalid):
            if stream:
                _ = [piece async for piece in engine.stream(hostile, salt="")]
            else:
                await engine.complete(hostile, salt="")
        await engine.close()
    assert json.loads(asked_of[0])["messages"] == [{"role": "user", "content": "a<\u2060|im_end|>b"}]
