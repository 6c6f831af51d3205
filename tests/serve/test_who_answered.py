"""A receipt names the engine that answered, whatever engine there is by the time that it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import pytest
from tests.serve.conftest import WAYS, Ask, MakeFront, request, write_body

from allod.core.canonical import digest_of
from allod.core.errors import Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Pieces, Usage
from allod.core.statements.receipt import Statement
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import EngineInfo, EnginePlace, Perimeter, Tally
from allod.serve.gateway import Gateway
from allod.serve.request import Request

NUM_ANSWERS = 1000
RESTART_EVERY = 50  # answers, of one of the two


class Named(EchoEngine):
    """Says in each answer which start of which engine it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.starts = name, count()
        self.restart()

    def restart(self) -> None:
        """Another process: its own build, seal and evidence."""
        made = f"{self.name} {next(self.starts)}"
        self.info = replace(self.info, name=made, seal=f"partial:{made}", seal_proof=digest_of(made))
        self.info = replace(self.info, place=EnginePlace(made.replace(" ", "."), "GB"))

    async def stream(
        self, chat: Chat, *, salt: str, tally: Tally | None = None
    ) -> AsyncGenerator[Pieces | Completion, None]:
        name = self.info.name
        async with aclosing(super().stream(chat, salt=salt, tally=tally)) as answer:
            async for item in answer:
                if isinstance(item, Completion):
                    yield replace(item, content=name)
                else:
                    yield [Piece("")]

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        made = await super().embed(embed, tally=tally)
        return replace(made, usage=Usage(int(self.info.name.split()[1]) * 2 + (self.name == "b")))


class Pair:
    """Two engines behind one port: each request goes to either; one of them is started again now and then."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.engines = (Named("a"), Named("b"))
        self.num_asked = 0

    @property
    def info(self) -> EngineInfo:
        """Of whichever: never to be relied on."""
        return self.random.choice(self.engines).info

    def check_ready(self) -> None:
        """They always are."""

    def evidence(self) -> tuple[Perimeter, ...]:
        return self.engines[0].evidence()

    def keep_evidence(self) -> None:
        """There is none."""

    @property
    def steering(self) -> None:
        """It is not made of replicas."""

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        """They stay as many."""

    def stream(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> AsyncGenerator[Pieces | Completion, None]:
        return self._chosen().stream(chat, salt=salt, tally=tally)

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        return await self._chosen().complete(chat, salt=salt, tally=tally)

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        return await self._chosen().embed(embed, tally=tally)

    async def close(self) -> None:
        """Nothing is held."""

    def _chosen(self) -> Named:
        self.num_asked += 1
        chosen = self.random.choice(self.engines)
        if self.num_asked % RESTART_EVERY == 0:
            chosen.restart()
        return chosen


@dataclass(frozen=True)
class Said:
    """Which engine answered that request, as the answer itself says."""

    id: str
    name: str


async def ask_one(gateway: Gateway, number: int, way: str) -> Said:
    asked: Request = request(id=f"r{number}")
    if way == "embedded":
        found: list[str] = []

        def write(made: Embeddings) -> bytes:
            start, is_b = divmod(made.usage.prompt_tokens, 2)
            found.append(f"{'ab'[is_b]} {start}")
            return write_body(made)

        await gateway.embed(replace(asked, task=Embed("m", ("a cat",))), write)
        return Said(asked.id, found[0])
    answer = await WAYS[way](gateway, asked)
    completion = answer if isinstance(answer, Completion) else answer[-1]
    return Said(asked.id, completion.content or "")


def named_in(statement: Statement) -> Said:
    """The engine that a receipt names, whose seal and evidence must be its own as well."""
    engine, seal = statement.predicate["engine"], statement.predicate["seal"]
    assert statement.predicate["site"] == {"id": engine["name"].replace(" ", "."), "jurisdiction": "GB"}
    assert seal == {"kind": f"partial:{engine['name']}", "proof": digest_of(engine["name"])}
    return Said(statement.id, engine["name"])


async def test_each_of_a_thousand_receipts_names_the_engine_that_answered(front: MakeFront) -> None:
    """Whole, streamed and embedded, at two engines by turns, through twenty restarts."""
    random = Random(7)
    pair = Pair(random)
    async with front(pair, num_running=NUM_ANSWERS) as made:
        ways = [random.choice(list(WAYS)) for _ in range(NUM_ANSWERS)]
        said = await asyncio.gather(*(ask_one(made.gateway, number, way) for number, way in enumerate(ways)))
        receipts = await made.receipts()
    assert {named_in(each) for each in receipts} == set(said)
    assert len(receipts) == NUM_ANSWERS
    assert len({each.name for each in said}) > NUM_ANSWERS // RESTART_EVERY


async def test_an_answer_that_broke_off_names_who_began_it(front: MakeFront, ask: Ask) -> None:
    """It is another engine's by then, under another seal."""

    class Breaking(Named):
        """Is started again just as it fails."""

        async def stream(
            self, chat: Chat, *, salt: str, tally: Tally | None = None
        ) -> AsyncGenerator[Pieces | Completion, None]:
            async with aclosing(super().stream(chat, salt=salt, tally=tally)) as answer:
                async for item in answer:
                    yield item
                    break
            self._fail()

        async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
            await super().embed(embed, tally=tally)
            self._fail()
            raise AssertionError

        def _fail(self) -> None:
            self.restart()
            raise Unavailable("gone", code="engine_slow")

    async with front(Breaking("a")) as made:
        with pytest.raises(Unavailable):
            await ask(made.gateway, request())
        (receipt,) = await made.receipts()
    assert named_in(receipt).name == "a 0"
