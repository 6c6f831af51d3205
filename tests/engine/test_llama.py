"""What llama.cpp's server says, read strictly: whatever is not an answer is a failed engine, never our own fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine.test_http import Exchange, serving
from tests.serve.conftest import chat

from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Completion, Embed, Piece, Pieces, Sampling
from allod.engine.adapters.echo import EchoEngine
from allod.engine.adapters.llama import LlamaEngine
from allod.engine.adapters.llama_slots import Slots
from allod.engine.engine import Tally
from allod.model.templates.control_tokens import ControlTokens

HALF = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
ENDS = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'
WHOLE = HALF + ENDS + b"data: [DONE]\n\n"


async def parts(answer: AsyncGenerator[Pieces | Completion, None]) -> list[object]:
    """Each piece, and the completion."""
    return [part async for item in answer for part in ([item] if isinstance(item, Completion) else item)]


async def asked(tmp_path: Path, answer: Callable[[Exchange], Awaitable[None]], *, stream: bool) -> list[object]:
    """What an engine with that server answers."""
    async with serving(tmp_path, answer):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        try:
            if stream:
                return await parts(engine.stream(chat(top_logprobs=1), salt="s"))
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


async def test_a_prompt_that_does_not_fit_is_said_in_our_words(tmp_path: Path) -> None:
    """The engine's own advise to change its settings, and name no part of the request."""
    numbers = b'"code":400,"n_prompt_tokens":9,"n_ctx":8'
    body = b'{"error":{"message":"increase it","type":"exceed_context_size_error",%b}}' % numbers
    error = await failure(tmp_path, lambda exchange: exchange.whole(body, status=b"400 Bad Request"), stream=False)
    assert (type(error), error.code, error.param) == (Invalid, "context_length_exceeded", "messages")
    assert error.message == "the prompt has 9 tokens and the context holds 8"


async def test_events_may_be_cut_anywhere(tmp_path: Path) -> None:
    """Where the pieces of the transport end says nothing of where events do."""
    told = HALF + b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    parts = [told[at : at + 1] for at in range(len(told))]
    piece, completion = await asked(tmp_path, lambda exchange: exchange.chunked(*parts), stream=True)
    assert piece == Piece("a")
    assert isinstance(completion, Completion)
    assert (completion.content, completion.finish, completion.usage.completion_tokens) == ("a", "stop", 1)


async def test_pieces_that_are_there_at_once_come_together(tmp_path: Path) -> None:
    """Each still is one: nothing is joined, and nobody is woken for each."""
    async with serving(tmp_path, lambda exchange: exchange.chunked(HALF + event("b") + event("c") + ENDS)):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        pieces, completion = [item async for item in engine.stream(chat(), salt="s")]
        await engine.close()
    assert pieces == [Piece("a"), Piece("b"), Piece("c")]
    assert isinstance(completion, Completion)
    assert completion.content == "abc"


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


# Vectors


async def embed_one(exchange: Exchange) -> None:
    """A vector for each text, which begins with a number, and a token for each."""
    texts = json.loads(exchange.body)["input"]
    data = [{"index": place, "embedding": [float(text[:2])]} for place, text in enumerate(texts)]
    await exchange.whole(json.dumps({"data": data, "usage": {"prompt_tokens": len(texts)}}).encode())


async def test_texts_are_embedded_in_groups_of_a_bounded_size(tmp_path: Path) -> None:
    """By number and by bytes, the text that is longer alone; vectors come in the order of the texts."""
    sizes = [2] * 40 + [2000] * 3 + [6000, 2]
    texts = tuple(f"{place:02}".ljust(size) for place, size in enumerate(sizes))
    async with serving(tmp_path, embed_one) as (_, server):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        made = await engine.embed(Embed("m", texts))
        await engine.close()
    assert [vector for (vector,) in made.vectors] == list(range(len(texts)))
    assert made.usage.prompt_tokens == len(texts)
    asked = [[len(text) for text in json.loads(exchange.body)["input"]] for exchange in server.heard]
    assert asked == [[2] * 32, [2] * 8 + [2000] * 2, [2000], [6000], [2]]


async def test_who_leaves_before_the_vectors_is_charged_for_the_group_that_was_begun(tmp_path: Path) -> None:
    """The engine computes it to its end, and says then what it took; no other group is begun."""
    asked, gate = asyncio.Event(), asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        asked.set()
        await gate.wait()
        await embed_one(exchange)

    async with serving(tmp_path, answer) as (_, server):
        engine, tally = LlamaEngine(EchoEngine().info, str(tmp_path / "s")), Tally(EchoEngine().info)
        embedding = asyncio.create_task(engine.embed(Embed("m", ("10",) * 40), tally=tally))
        await asked.wait()
        embedding.cancel()
        await asyncio.sleep(0.05)
        assert not embedding.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await embedding
        await engine.close()
    assert tally.prompt_tokens == 32
    assert len(server.heard) == 1


async def test_vectors_are_not_waited_for_without_end_by_who_leaves(tmp_path: Path) -> None:
    """Then the engine is hung up on."""
    asked = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        asked.set()
        await exchange.reader.read()  # until it is hung up on

    async with serving(tmp_path, answer) as (_, server):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"), deadlines=Deadlines(let_go_s=0))
        embedding = asyncio.create_task(engine.embed(Embed("m", ("10",))))
        await asked.wait()
        embedding.cancel()
        await asyncio.wait([embedding], timeout=5)
        assert embedding.cancelled()
        await server.ended.acquire()
        await engine.close()


# An engine that lies, or goes on


def event(text: str = "", **more: object) -> bytes:
    choices = [{"delta": {"content": text}}] if text else []
    return b"data: %b\n\n" % json.dumps({"choices": choices, **more}).encode()


def used(prompt: object, completion: object, cached: object = 0) -> bytes:
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return event(usage=usage)


@pytest.mark.parametrize("impossible", [10**30, -5, "7", 1.5, 1 << 60], ids=repr)
@pytest.mark.parametrize("place", range(3))
async def test_a_count_that_is_none_is_a_failed_engine(tmp_path: Path, impossible: object, place: int) -> None:
    """Of the prompt, the answer or the cache: nothing of it may come into a receipt."""
    counts: list[object] = [1, 1, 1]
    counts[place] = impossible
    error = await failure(tmp_path, lambda exchange: exchange.chunked(HALF, used(*counts), ENDS), stream=True)
    assert (type(error), error.code) == (Unavailable, "engine_response")


async def test_no_usage_is_beyond_what_was_asked(tmp_path: Path) -> None:
    """The prompt fits the context, the answer what was asked for, and no more of the prompt was cached than it had."""
    lies = (HALF, ENDS, used(10**9, 10**9, 10**9), b"data: [DONE]\n\n")
    *_, completion = await asked(tmp_path, lambda exchange: exchange.chunked(*lies), stream=True)
    assert isinstance(completion, Completion)
    usage, context_tokens = completion.usage, EchoEngine().info.context_tokens
    assert (usage.prompt_tokens, usage.cached_tokens) == (context_tokens, context_tokens)
    assert usage.completion_tokens == context_tokens  # the chat named no maximum


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("told", "prompt", "completion"),
    [
        ((HALF, used(0, 0)), 1, 1),
        ((HALF,), 1, 1),
        ((event("a", timings={"prompt_n": 7, "cache_n": 2, "predicted_n": 5}), used(3, 2)), 9, 5),
        ((event(prompt_progress={"total": 8}), HALF, HALF, HALF, used(0, 0)), 8, 2),  # one may be a rest held back
        ((event(timings={"prompt_n": 3, "predicted_n": 0}), HALF), 3, 1),
        ((used(0, 0),), 1, 0),  # no text: the answer may be empty, the prompt is not
    ],
    ids=range(6),
)
async def test_no_usage_is_below_what_was_shown(
    tmp_path: Path, told: tuple[bytes, ...], prompt: int, completion: int, stream: bool
) -> None:
    """Nobody makes text of nothing: whatever the engine counts, what its own events show is charged."""
    *_, last = await asked(tmp_path, lambda exchange: exchange.chunked(*told, ENDS), stream=stream)
    assert isinstance(last, Completion)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (prompt, completion)


async def test_no_vector_is_made_of_nothing(tmp_path: Path) -> None:
    """A text that is not empty has a token at least."""
    data = [{"index": place, "embedding": [1.0]} for place in range(2)]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 0}}).encode()
    async with serving(tmp_path, lambda exchange: exchange.whole(body)):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        made = await engine.embed(Embed("m", ("a", "b")))
        await engine.close()
    assert made.usage.prompt_tokens == 2


async def without_end(exchange: Exchange, said: bytes) -> None:
    if exchange.head.startswith(b"GET"):
        await exchange.whole(b"[]")
        return
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    hanging_up = asyncio.create_task(exchange.reader.read())
    try:
        while not hanging_up.done():
            await exchange.send(b"%x\r\n%b\r\n" % (len(said), said))
            await asyncio.sleep(0)
    finally:
        exchange.writer.close()
        await asyncio.gather(hanging_up, return_exceptions=True)  # it may have been left by a reset


async def cut(tmp_path: Path, said: bytes) -> list[object]:
    """What is made of an engine that says this without end, where five tokens were asked for."""
    async with serving(tmp_path, lambda exchange: without_end(exchange, said)):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        asked = chat(sampling=Sampling(seed=1, max_tokens=5))
        try:
            return await parts(engine.stream(asked, salt="s"))
        finally:
            await engine.close()


@pytest.mark.parametrize("more", [{}, {"timings": {"predicted_n": 9}}], ids=["uncounted", "counted"])
async def test_an_answer_without_end_is_cut_at_its_tokens(tmp_path: Path, more: dict[str, object]) -> None:
    """Five were asked for: no more are passed on, and none more are charged."""
    *pieces, completion = await cut(tmp_path, event("a", **more))
    assert len(pieces) <= 5
    assert isinstance(completion, Completion)
    assert (completion.finish, completion.usage.completion_tokens) == ("length", 5 if more or pieces else 0)


async def test_an_answer_without_end_is_cut_at_its_size(tmp_path: Path) -> None:
    """Five tokens cannot hold a megabyte, whatever the engine counts."""
    *pieces, completion = await cut(tmp_path, event("x" * 100_000, timings={"predicted_n": 1}))
    assert (pieces, isinstance(completion, Completion) and completion.finish) == ([], "length")


async def test_events_without_end_that_say_nothing_are_a_failed_engine(tmp_path: Path) -> None:
    """They are counted by their bytes."""
    with pytest.raises(Unavailable) as caught:
        await cut(tmp_path, b": nothing\n" * 50_000)
    assert caught.value.code == "engine_response"


async def test_what_is_said_after_the_end_is_no_part_of_the_answer(tmp_path: Path) -> None:
    """Not its text, and not its count."""
    told = (HALF, ENDS, used(3, 1), b"data: [DONE]\n\n", event("more"), used(9, 9))
    *pieces, completion = await asked(tmp_path, lambda exchange: exchange.chunked(*told), stream=True)
    assert pieces == [Piece("a")]
    assert isinstance(completion, Completion)
    assert (completion.content, completion.usage.prompt_tokens, completion.usage.completion_tokens) == ("a", 3, 1)


# An engine that says nothing

IMPATIENT = Deadlines(connect_s=1, first_s=1, first_s_per_kib=1, silence_s=1, answer_s=3, let_go_s=1)


async def silent(exchange: Exchange) -> None:
    await exchange.reader.read()
    await asyncio.sleep(60)


async def silent_after_its_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await silent(exchange)


async def silent_after_a_word(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(HALF), HALF))
    await silent(exchange)


async def slow(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"%x\r\n%b\r\n" % (len(HALF), HALF))
        await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (silent, "engine_silent"),
        (silent_after_its_head, "engine_silent"),
        (silent_after_a_word, "engine_silent"),
        (slow, "engine_slow"),
    ],
)
async def test_no_wait_for_an_engine_is_without_end(
    tmp_path: Path, answer: Callable[[Exchange], Awaitable[None]], code: str
) -> None:
    """For its first word, between two, and for the whole; it is said when to ask again."""
    async with serving(tmp_path, answer):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"), deadlines=IMPATIENT)
        with pytest.raises(Unavailable) as caught:
            async for _ in engine.stream(chat(), salt="s"):
                pass
        assert (caught.value.code, caught.value.retry_after_s is not None) == (code, True)
        await engine.close()


@pytest.mark.parametrize("embeds", [False, True])
async def test_health_and_vectors_have_deadlines_too(tmp_path: Path, embeds: bool) -> None:
    """Every exchange has."""
    async with serving(tmp_path, silent):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"), deadlines=IMPATIENT)
        if embeds:
            with pytest.raises(Unavailable) as caught:
                await engine.embed(Embed("m", ("a cat",)))
            assert caught.value.code == "engine_silent"
        else:
            assert not await engine.is_ready()
        await engine.close()


# Who leaves early


async def test_who_leaves_early_learns_what_the_engine_had_computed(tmp_path: Path) -> None:
    """More than it had said: the slot shows the prompt and every token of the answer but the last."""

    async def answer(exchange: Exchange) -> None:
        if exchange.head.startswith(b"GET /slots"):
            states.append(len(states) < 2)
            slot = {"id": 0, "is_processing": states[-1], "n_prompt_tokens": 28 + 59}
            await exchange.whole(json.dumps([slot]).encode())
            return
        timings = {"cache_n": 8, "prompt_n": 20, "predicted_n": 2}
        begun = event(prompt_progress={"total": 28}) + event("ab", timings=timings)
        await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await exchange.send(b"%x\r\n%b\r\n" % (len(begun), begun))
        await exchange.reader.read()
        exchange.writer.close()

    states: list[bool] = []
    tally = Tally(EchoEngine().info)
    async with serving(tmp_path, answer):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"), Slots(1))
        async with aclosing(engine.stream(chat(), salt="a", tally=tally)) as pieces:
            await anext(pieces)
            assert (tally.prompt_tokens, tally.completion_tokens, tally.cached_tokens) == (28, 2, 8)
        assert (tally.prompt_tokens, tally.completion_tokens, tally.cached_tokens) == (28, 60, 8)
        await engine.close()
    assert states == [True, True, False]


async def test_who_is_lost_to_a_dead_engine_has_the_last_count_that_it_gave(tmp_path: Path) -> None:
    """It is the least that there can have been."""

    async def answer(exchange: Exchange) -> None:
        said = event("a", timings={"prompt_n": 20, "predicted_n": 7})
        await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await exchange.send(b"%x\r\n%b\r\n" % (len(said), said))
        exchange.writer.close()

    tally = Tally(EchoEngine().info)
    async with serving(tmp_path, answer):
        engine = LlamaEngine(EchoEngine().info, str(tmp_path / "s"))
        with pytest.raises(Unavailable):
            await engine.complete(chat(), salt="a", tally=tally)
        await engine.close()
    assert (tally.prompt_tokens, tally.completion_tokens) == (20, 7)
