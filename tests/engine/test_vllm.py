"""What tells whether vLLM gets on: its counter of steps, and not that its API answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.core.requests import Chat, Sampling
from allod.engine.adapters.echo import EchoEngine
from allod.engine.adapters.vllm import VllmEngine, count_steps
from allod.engine.engine import Tally

QUESTION = Chat("tiny", ({"role": "user", "content": "Why is the sky blue?"},), Sampling(seed=1))
EVENT = b'data: {"model":"tiny","choices":[{"index":0,"delta":{"content":"word %d"}}]}\n\n'
LAST_EVENT = (
    b'data: {"model":"tiny","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"model":"tiny","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)
METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="tiny"} 0.0
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="tiny"} 9.0
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} %d.0
vllm:iteration_tokens_total_sum{engine="0",model_name="tiny"} 63.0
"""


def test_steps_are_read_of_the_counters() -> None:
    """No bucket and no sum; several engines' together."""
    assert count_steps(METRICS % 16) == 16
    assert count_steps(METRICS % 16 + METRICS % 5) == 21


@pytest.mark.parametrize("body", [b"", b"not metrics", METRICS.replace(b"%d.0", b"none"), METRICS[:300]])
def test_counters_that_are_not_there_are_a_fault(body: bytes) -> None:
    """Nobody knows then whether it gets on."""
    with pytest.raises(Unavailable) as caught:
        count_steps(body)
    assert caught.value.code == "engine_response"


@asynccontextmanager
async def vllm(tmp_path: Path, counters: Callable[[], bytes]) -> AsyncIterator[VllmEngine]:
    """An engine that asks an API which says those counters."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
                asked = await reader.readexactly(length)
                if head.startswith(b"POST"):
                    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    if b"answered" in asked:
                        events = b"".join(EVENT % number for number in range(3)) + LAST_EVENT
                        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events))
                    continue  # else it says no more
                body = counters()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    path = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(answer, path)
    engine = VllmEngine(EchoEngine().info, str(path), "tiny", Deadlines())
    try:
        yield engine
    finally:
        await engine.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)  # until its handlers have ended


async def heard_again(engine: VllmEngine) -> bool:
    """Whether a look at it finds, in two seconds, that it gets on."""
    before_s = asyncio.get_running_loop().time()
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            await engine.probe()
    return engine.heard_s >= before_s


@asynccontextmanager
async def asked(engine: VllmEngine) -> AsyncIterator[None]:
    """While somebody waits for a word of it."""
    waiting = asyncio.create_task(engine.complete(QUESTION, salt="s"))
    while not engine._http.is_waited_for:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_engine_that_makes_steps_is_heard(tmp_path: Path) -> None:
    """Again at each look."""
    steps = iter(range(1, 100))
    async with vllm(tmp_path, lambda: METRICS % next(steps)) as engine, asked(engine):
        assert [await heard_again(engine) for _ in range(3)] == [True] * 3


async def test_an_engine_that_is_asked_nothing_owes_nothing(tmp_path: Path) -> None:
    """Though it makes no step."""
    async with vllm(tmp_path, lambda: METRICS % 5) as engine:
        assert [await heard_again(engine) for _ in range(3)] == [True] * 3


async def test_an_engine_that_stands_still_is_not_heard_though_its_api_answers(tmp_path: Path) -> None:
    """And says that it has no requests: it cannot know. The first count may be of anything."""
    async with vllm(tmp_path, lambda: METRICS % 16) as engine, asked(engine):
        assert [await heard_again(engine) for _ in range(2)] == [True, False]


async def test_an_engine_owes_nothing_to_who_reads_slowly(tmp_path: Path) -> None:
    """It has said all that it was asked for long ago, and makes no step; nobody waits for it."""
    question = replace(QUESTION, messages=({"role": "user", "content": "answered"},))
    async with (
        vllm(tmp_path, lambda: METRICS % 16) as engine,
        aclosing(engine.stream(question, salt="s")) as answer,
    ):
        await anext(answer)
        await asyncio.sleep(0.1)  # the rest has come by then
        assert [await heard_again(engine) for _ in range(3)] == [True] * 3


async def test_who_leaves_before_the_first_word_has_used_the_prompt(tmp_path: Path) -> None:
    """At least about as much of it as can be told: the engine has worked on it."""
    async with vllm(tmp_path, lambda: METRICS % 16) as engine:
        tally = Tally(engine.info)
        waiting = asyncio.create_task(engine.complete(QUESTION, salt="s", tally=tally))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert tally.usage is not None
    assert tally.usage.prompt_tokens > 0
