"""What tells whether vLLM gets on: its counter of steps, and not that its API answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.engine.adapters.echo import EchoEngine
from allod.engine.adapters.vllm import VllmEngine, count_steps

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
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                body = counters()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()
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


async def test_an_engine_that_makes_steps_is_heard(tmp_path: Path) -> None:
    """Again at each look."""
    steps = iter(range(1, 100))
    async with vllm(tmp_path, lambda: METRICS % next(steps)) as engine:
        engine._prompt_bytes = 1
        assert [await heard_again(engine) for _ in range(3)] == [True] * 3


async def test_an_engine_that_is_asked_nothing_owes_nothing(tmp_path: Path) -> None:
    """Though it makes no step."""
    async with vllm(tmp_path, lambda: METRICS % 5) as engine:
        assert [await heard_again(engine) for _ in range(3)] == [True] * 3


async def test_an_engine_that_stands_still_is_not_heard_though_its_api_answers(tmp_path: Path) -> None:
    """And says that it has no requests: it cannot know. The first count may be of anything."""
    async with vllm(tmp_path, lambda: METRICS % 16) as engine:
        engine._prompt_bytes = 1
        assert [await heard_again(engine) for _ in range(2)] == [True, False]
