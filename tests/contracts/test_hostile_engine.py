"""Whatever an engine does wrong, a request to it ends in time and in bounds: a clear error, or a corrected answer."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contracts.hostile_engine import DONE, WAYS, Way, event, hostile, says, used
from tests.engine.test_http import Exchange, serving
from tests.serve.conftest import ECHO, chat

from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError, Unavailable
from allod.core.requests import Chat, Completion, Embed, Sampling
from allod.engine.adapters.external import ExternalEngine, external_info
from allod.engine.adapters.llama import LlamaEngine
from allod.engine.adapters.openai import Dialect, OpenAiEngine
from allod.engine.address import UnixAddress
from allod.engine.engine import EnginePlace, Tally
from allod.engine.http import EngineHttp

IMPATIENT = Deadlines(connect_s=1, first_s=1, first_s_per_kib=1, silence_s=1, answer_s=3, let_go_s=1)
MOST_BYTES = 24 << 20  # of memory, the server's own with it
ASKED = chat(sampling=Sampling(seed=1, max_tokens=5))


def llama_at(path: str) -> OpenAiEngine:
    return LlamaEngine(replace(ECHO, can_embed=True), path, deadlines=IMPATIENT)


def external_at(path: str) -> OpenAiEngine:
    place = EnginePlace("there", "GB")
    info = external_info(ECHO.model_digest, place, config={}, context_tokens=4096, slots=4, can_embed=False)
    dialect = Dialect(model="there", answers_as=frozenset({"there"}), counts_bytes=True)
    http = EngineHttp(UnixAddress(path), IMPATIENT)
    return ExternalEngine(replace(info, can_embed=True), http, dialect, IMPATIENT)


MAKERS = {"llama.cpp": llama_at, "external": external_at}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[str], OpenAiEngine]:
    return MAKERS[request.param]


@asynccontextmanager
async def asking(tmp_path: Path, way: Way, make: Callable[[str], OpenAiEngine]) -> AsyncGenerator[OpenAiEngine, None]:
    """The adapter of an engine that does wrong in that way."""
    async with serving(tmp_path, hostile(way)):
        engine = make(str(tmp_path / "s"))
        try:
            yield engine
        finally:
            await engine.close()


async def streamed(engine: OpenAiEngine, asked: Chat, tally: Tally | None = None) -> tuple[str, Completion | None]:
    """What was streamed, and the completion if it came."""
    text = ""
    async for item in engine.stream(asked, salt="s", tally=tally):
        if isinstance(item, Completion):
            return text, item
        text += "".join(piece.text for piece in item)
    return text, None


@pytest.mark.parametrize("name", WAYS)
async def test_a_streamed_answer_is_corrected_or_a_clear_error(
    tmp_path: Path, name: str, make: Callable[[str], OpenAiEngine]
) -> None:
    """In time, in bounds, and never a usage beyond what was asked."""
    way, tally = WAYS[name], Tally(ECHO)
    tracemalloc.start()
    try:
        async with asking(tmp_path, way, make) as engine:
            if way.code:
                with pytest.raises(Unavailable) as caught:
                    await streamed(engine, replace(ASKED, top_logprobs=0), tally)
                assert caught.value.code == way.code
                assert "sk-1" not in caught.value.message
            else:
                text, completion = await streamed(engine, ASKED, tally)
                assert completion is not None
                assert (text, completion.content) == (way.text, way.text)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    usage = tally.usage
    assert usage is None or (usage.prompt_tokens <= 4096 and usage.completion_tokens <= 5)
    assert usage is None or usage.cached_tokens <= usage.prompt_tokens


@pytest.mark.parametrize(
    "name", [name for name, way in WAYS.items() if way.code not in ("engine_silent", "engine_slow")]
)
async def test_a_whole_answer_is_corrected_or_a_clear_error(
    tmp_path: Path, name: str, make: Callable[[str], OpenAiEngine]
) -> None:
    """The same where nobody reads its parts as they come."""
    way = WAYS[name]
    async with asking(tmp_path, way, make) as engine:
        if way.code:
            with pytest.raises(Unavailable) as caught:
                await engine.complete(replace(ASKED, top_logprobs=0), salt="s")
            assert caught.value.code == way.code
        else:
            assert (await engine.complete(ASKED, salt="s")).content == way.text


async def test_an_answer_of_another_model_is_none(tmp_path: Path) -> None:
    """Nor is what follows it; what came before under the right name was passed on."""
    told = (event("a", model="there"), event("b", model="another\x1b[2J"), event("c", model="there"), DONE)
    async with asking(tmp_path, Way(says(*told)), external_at) as engine:
        passed = ""
        with pytest.raises(Unavailable) as caught:
            async for item in engine.stream(ASKED, salt="s"):
                assert not isinstance(item, Completion)
                passed += "".join(piece.text for piece in item)
    assert (passed, caught.value.code) == ("a", "engine_response")
    assert "\x1b" not in caught.value.message


async def test_no_more_prompt_is_charged_than_was_sent(tmp_path: Path) -> None:
    """Where the server is not ours a prompt has no more tokens than bytes, and what a template may add."""
    way = Way(says(event("a"), b'data: {"choices":[{"finish_reason":"stop"}]}\n\n', used(4000, 1), DONE))
    async with asking(tmp_path, way, external_at) as engine:
        completion = await engine.complete(ASKED, salt="s")
    assert completion.usage.prompt_tokens < 400


@pytest.mark.parametrize("body", [
    b"[]", b"{}", b'{"data": []}', b"nonsense", b'{"error": "it burns"}',
    b'{"data": [{"index": 0, "embedding": [1.0]}]}',
    b'{"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}',
    b'{"data": [{"index": 0, "embedding": [1.0]}, {"index": 7, "embedding": [1.0]}]}',
    b'{"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]}',
    b'{"data": [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]}',
    b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [1]}]}',
    b'{"data": [{"index": 0, "embedding": [1e999]}, {"index": 1, "embedding": [1]}]}',
    b'{"data": [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": [1]}]}',
    b'{"data": ' + b"[" * 50_000,
    b" " * (1 << 20),
], ids=lambda body: body[:70].decode().strip())  # fmt: skip
async def test_vectors_that_were_not_asked_for_are_a_clear_error(
    tmp_path: Path, body: bytes, make: Callable[[str], OpenAiEngine]
) -> None:
    """Too few, too many, of no numbers, or of as many as nobody has."""

    async def answer(exchange: Exchange) -> None:
        await exchange.whole(body)

    async with asking(tmp_path, Way(answer), make) as engine:
        with pytest.raises(Unavailable) as caught:
            await engine.embed(Embed("m", ("a", "b")))
    assert caught.value.code == "engine_response"


async def test_vectors_of_several_exchanges_are_of_one_length(
    tmp_path: Path, make: Callable[[str], OpenAiEngine]
) -> None:
    """However many texts there are."""

    async def answer(exchange: Exchange) -> None:
        texts = json.loads(exchange.body)["input"]
        data = [{"index": place, "embedding": [1.0] * len(texts)} for place in range(len(texts))]
        await exchange.whole(json.dumps({"data": data}).encode())

    async with asking(tmp_path, Way(answer), make) as engine:
        with pytest.raises(AllodError) as caught:
            await engine.embed(Embed("m", ("a",) * 33))
    assert caught.value.code == "engine_response"
