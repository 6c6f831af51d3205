"""One truth about use, with the real sealed engine: for each way in which an answer can end, the receipt, the tenant's
limits and the fair queue carry one number, and it is the engine's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.serve.conftest import Front, MakeFront, answered, chat, request, until

from allod.app.gateway.engine import replica_options
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError
from allod.core.requests import Chat, Sampling, Tool, Usage
from allod.engine.address import UnixAddress
from allod.engine.http import EngineHttp
from allod.engine.replicas.pool import Pool
from allod.engine.replicas.replica import ReplicaOptions
from allod.serve.allowance import RequestHold
from allod.serve.fair_queue import cost_of

pytestmark = pytest.mark.slow
LONG = chat(
    messages=({"role": "user", "content": "Tell me a long story about a river."},),
    sampling=Sampling(seed=1, temperature=0.0, max_tokens=200),
)
HAN = replace(LONG, messages=({"role": "user", "content": "你好,你好,你好。请把“你好世界”写十遍:你好世界,你好世界,"},))
A_PROMPT = replace(LONG, messages=({"role": "user", "content": "word " * 900},))
TOOL = Tool("tell", "Tells a story.", {"type": "object", "properties": {"story": {"type": "string"}}})
HELD_CALL = replace(LONG, tools=(TOOL,), tool_choice="tell")
HELD_STOP = replace(LONG, sampling=replace(LONG.sampling, stop=("zzzzzz", "\n\n\n\n")))


@dataclass(frozen=True)
class Desk:
    """A gateway around the engine, and what each of those who count was told."""

    front: Front
    pool: Pool
    http: EngineHttp
    settled: list[Usage]

    async def engines_own(self) -> tuple[int, int]:
        """Tokens of prompts and of answers that it has computed since it started, by itself."""
        for _ in range(500):
            slots = json.loads((await self.http.request("GET", "/slots")).body)
            if not any(slot["is_processing"] for slot in slots):
                break
            await asyncio.sleep(0.02)
        lines = (await self.http.request("GET", "/metrics")).body.decode().splitlines()
        totals = dict(line.split() for line in lines if not line.startswith("#"))
        prompt = int(totals["llamacpp:prompt_tokens_total"]) + int(totals["llamacpp:prompt_tokens_cached_total"])
        return prompt, int(totals["llamacpp:tokens_predicted_total"])

    async def agree(self) -> Usage:
        """What all three were told of the one request; that it is one number is what is tested."""
        (charged,) = self.settled
        (statement,) = await self.front.receipts()
        predicate = statement.predicate
        assert (predicate["request"]["tokens"], predicate["answer"]["tokens"]) == (
            charged.prompt_tokens,
            charged.completion_tokens,
        )
        (snapshot,) = self.front.gateway.router.first.admission.snapshots()
        assert snapshot.service == cost_of(charged.prompt_tokens, charged.completion_tokens)
        return charged


@pytest.fixture
def options(weights: Path, tmp_path: Path) -> ReplicaOptions:
    (tmp_path / "store").symlink_to(weights.parents[2])
    (tmp_path / "sockets").mkdir(mode=0o700)
    settings = load_settings(
        {"model.name": "smollm2-135m", "model.context_tokens": 1536, "model.slots": 2}, home=tmp_path
    )
    prepared = prepare_weights(settings, lambda what, done, total: None)
    assert prepared is not None
    return replica_options(settings, prepared, tmp_path / "sockets")


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines()


@pytest.fixture
async def desk(
    options: ReplicaOptions, deadlines: Deadlines, front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    pool = Pool([replace(options, deadlines=deadlines)])
    await pool.start()
    try:
        async with front(pool) as made:
            settled: list[Usage] = []
            settle = made.gateway.allowance.settle

            def heard(held: RequestHold, usage: Usage, engine_ms: int) -> int:
                settled.append(usage)
                return settle(held, usage, engine_ms)

            monkeypatch.setattr(made.gateway.allowance, "settle", heard)
            http = EngineHttp(UnixAddress(options.socket_path), Deadlines())
            yield Desk(made, pool, http, settled)
            await http.close()
    finally:
        await pool.close()


Leave = Callable[[Desk, Chat], Coroutine[None, None, None]]


async def to_its_end(desk: Desk, asked: Chat) -> None:
    async with aclosing((await desk.front.gateway.stream(request(asked))).value) as answer:
        async for _ in answer:
            pass


async def whole_to_its_end(desk: Desk, asked: Chat) -> None:
    with suppress(AllodError):
        await answered(desk.front.gateway, request(asked))


async def after_some_pieces(desk: Desk, asked: Chat) -> None:
    async with aclosing((await desk.front.gateway.stream(request(asked))).value) as answer:
        for _ in range(9):
            await anext(answer)


def after(seconds: float, ask: Leave) -> Leave:
    async def leave(desk: Desk, asked: Chat) -> None:
        asking = asyncio.create_task(ask(desk, asked))
        await asyncio.sleep(seconds)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking

    return leave


@pytest.mark.parametrize(
    ("leave", "asked"),
    [
        pytest.param(to_its_end, replace(LONG, sampling=Sampling(seed=1, max_tokens=20)), id="to its end"),
        pytest.param(whole_to_its_end, replace(LONG, sampling=Sampling(seed=1, max_tokens=20)), id="whole"),
        pytest.param(after_some_pieces, LONG, id="left in a stream"),
        pytest.param(after(1.2, whole_to_its_end), LONG, id="left in a whole answer"),
        pytest.param(after(1.0, to_its_end), A_PROMPT, id="left in the prompt"),
        pytest.param(after(1.0, whole_to_its_end), A_PROMPT, id="left in the prompt of a whole answer"),
        pytest.param(after(3.0, to_its_end), HELD_CALL, id="left in a call that is held"),
        pytest.param(whole_to_its_end, HELD_CALL, id="a call that is cut"),
        pytest.param(after(1.5, to_its_end), HELD_STOP, id="left beside stop sequences"),
        pytest.param(after_some_pieces, HAN, id="left in Han text"),
    ],
)
async def test_all_who_count_say_what_the_engine_says(desk: Desk, leave: Leave, asked: Chat) -> None:
    """To the token."""
    before = await desk.engines_own()
    await leave(desk, asked)
    own = await desk.engines_own()
    charged = await desk.agree()
    computed = (own[0] - before[0], own[1] - before[1])
    assert (charged.prompt_tokens, charged.completion_tokens) == computed
    assert computed[0] > 0


@pytest.mark.parametrize("deadlines", [Deadlines(answer_s=2)], ids=["two seconds"])
async def test_an_answer_past_its_deadline_is_charged_what_was_computed(desk: Desk) -> None:
    """It ends with the error, and the count is the engine's own."""
    before = await desk.engines_own()
    with pytest.raises(AllodError) as caught:
        await to_its_end(desk, replace(LONG, sampling=Sampling(seed=1, max_tokens=1000)))
    own = await desk.engines_own()
    charged = await desk.agree()
    assert caught.value.code == "engine_slow"
    assert (charged.prompt_tokens, charged.completion_tokens) == (own[0] - before[0], own[1] - before[1])


async def test_an_answer_whose_engine_was_killed_is_charged_the_last_that_it_said(desk: Desk) -> None:
    """The same to all who count, and at least what the client got."""
    pieces = 0
    with pytest.raises(AllodError) as caught:
        async with aclosing((await desk.front.gateway.stream(request(LONG))).value) as answer:
            async for _ in answer:
                pieces += 1
                if pieces == 9:
                    process = desk.pool.members[0].replica.process
                    assert process is not None
                    os.kill(process.pid, signal.SIGKILL)
    charged = await desk.agree()
    assert caught.value.code == "engine_lost"
    assert charged.completion_tokens >= 9
    await until(lambda: desk.pool.members[0].replica.engine is not None)


async def test_who_asks_a_little_does_not_wait_for_who_asks_much(desk: Desk) -> None:
    """Whichever slots were used last: a prompt of many batches is not computed to its end before a short one begins."""
    little = replace(LONG, sampling=Sampling(seed=1, max_tokens=1))
    for number in range(2):
        much = replace(little, messages=({"role": "user", "content": f"word{number} " * 450},))
        computing = asyncio.create_task(to_its_end(desk, much))
        await asyncio.sleep(0.3)
        await to_its_end(desk, little)
        assert not computing.done()
        await computing
