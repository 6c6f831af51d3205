"""A gateway in memory: a real recorder, writer and log on a disk of the test's own, around an engine that is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Pieces, Sampling, Usage
from allod.core.statements.receipt import Statement, check_statement
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import EngineInfo, EnginePlace, Perimeter, Tally
from allod.govern.metering.prices import ModelPrices
from allod.govern.metering.quotas import Quotas
from allod.govern.policy.decision import Decision, default_text, load_policy
from allod.govern.policy.request import Model, PolicySite
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.keys import Caller, KeyRing
from allod.govern.tenancy.tenants import Key, Scope, Tenant, api_key_digest
from allod.prove.formats.signing_key import SigningKey
from allod.prove.receipts.clock import Clock
from allod.prove.receipts.commitments import commitment
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.log import Log, open_log
from allod.prove.tlog.segment import FileCalls
from allod.prove.tlog.writer import LogWriter
from allod.serve.admission import Admission
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.serve.gateway import Gateway
from allod.serve.recorder import EngineAnswer, Recorder, deliver_in
from allod.serve.request import Request
from allod.serve.router import Candidate, Router
from allod.serve.schemas.judge import Judge
from allod.serve.served_model import ServedModel
from allod.settings.files import load_nation

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
CONTEXT_TOKENS = 1000
START_MS = 1_790_000_000_000  # a Monday in September 2026, at 14:13 UTC
DAY_MS = 86_400_000
SERVED = ServedModel("m", "Someone", "sha256:" + "0" * 64, "Apache-2.0", "GB", informative=True)
Answered = Piece | Completion
NATION = load_nation("gb")
TENANT = Tenant("local", "This machine", START_MS)
CALLER = Caller(
    TENANT,
    Key("key_local", "local", "a key", api_key_digest("secret"), "cret", START_MS),
    Scope(),
    NATION.tiers[-1],
    NATION.lowest,
)
POLICY = load_policy(default_text(), NATION)
PERMITTED = Decision(True, ("permit-use",), "It is allowed.", policy=POLICY.digest)
FORBIDDEN = Decision(False, ("above-clearance",), "It is not.", policy=POLICY.digest)
ECHO = EchoEngine(place=EnginePlace("north", "GB")).info
PRICES = ModelPrices(micros_per_1k_prompt_tokens=1_000, micros_per_1k_completion_tokens=2_000)


def recorded(
    answer: bytes = b"", usage: Usage | None = None, finish: str = "stop", engine_ms: int = 0, **info: Any
) -> EngineAnswer:
    """What came of a request, at an engine with that `info`."""
    return EngineAnswer(answer, finish, replace(ECHO, **info), usage, engine_ms)


class ScriptedEngine:
    """Answers with `texts` and `finish`; before the end it waits for `gate`, and raises `error` if there is one."""

    def __init__(self, *texts: str, finish: Any = "stop", error: Exception | None = None) -> None:
        self.info: EngineInfo = ECHO
        self.texts = texts
        self.finish = finish
        self.error = error
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[Chat | Embed] = []
        self.salts: list[str] = []

    def check_ready(self) -> None:
        """It always is."""

    def evidence(self) -> tuple[Perimeter, ...]:
        return (Perimeter(self.info.seal, self.info.seal_proof),)

    def keep_evidence(self) -> None:
        """There is none."""

    @property
    def steering(self) -> None:
        """It is not made of replicas."""

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        """They stay as many."""

    async def stream(
        self, chat: Chat, *, salt: str, tally: Tally | None = None
    ) -> AsyncGenerator[Pieces | Completion, None]:
        self.asked.append(chat)
        self.salts.append(salt)
        tally = tally or Tally(self.info)
        tally.begin(self.info)
        for number, text in enumerate(self.texts, start=1):
            tally.count(3, number, 0)
            yield [Piece(text)]
        await self._end()
        yield Completion("".join(self.texts), self.finish, Usage(3, len(self.texts)))

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        async with aclosing(self.stream(chat, salt=salt, tally=tally)) as answer:
            *_, last = [item async for item in answer]
        assert isinstance(last, Completion)
        return last

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        self.asked.append(embed)
        if tally is not None:
            tally.begin(self.info)
        await self._end()
        return Embeddings(((1.0, 0.0),), Usage(2))

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def _end(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class Front:
    """A gateway and what lies behind it."""

    gateway: Gateway
    recorder: Recorder
    writer: LogWriter
    day_keys: DayKeys
    log: Log
    quotas: Quotas

    async def prepared(self, asked: Request) -> Request:
        """A request that can be recorded: step 9 relies on this having been done."""
        await self.recorder.prepare(asked)
        return asked

    async def receipts(self) -> list[Statement]:
        """Every statement that the log holds, checked; nothing can be added afterwards."""
        await asyncio.to_thread(self.writer.close)
        leaves = await asyncio.to_thread(lambda: self.log.entries(0, self.log.head.size) if self.log.head.size else [])
        return [check_statement(leaf) for leaf in leaves]

    def commits_to(
        self, statement: Statement, answer: bytes, *, tenant: str = "local", day: str = "2026-09-21"
    ) -> bool:
        """Whether that is what the statement's answer is committed to."""
        salt = self.day_keys.use(tenant, day).salt(statement.id)
        committed: str = statement.predicate["answer"]["commitment"]
        return committed == commitment("answer", salt, answer)


MakeFront = Callable[..., AbstractAsyncContextManager[Front]]


@pytest.fixture
def front(tmp_path: Path) -> MakeFront:
    """`async with front(engine)`: a gateway around `engine`, closed at the end."""

    @asynccontextmanager
    async def make(
        engine: Any,
        *,
        adapters: Sequence[ServedModel] = (),
        num_running: int = 4,
        num_waiting: int = 4,
        calls: FileCalls | None = None,
        wall_ms: Callable[[], int] = lambda: START_MS + 50,
    ) -> AsyncGenerator[Front, None]:
        log = await asyncio.to_thread(open_log, tmp_path / "log", KEY, calls or FileCalls())
        writer, day_keys = LogWriter(log, partial(deliver_in, asyncio.get_running_loop())), DayKeys(tmp_path / "days")
        clock = Clock(None, wall_ms=wall_ms, running_ms=lambda: 0)
        recorder = Recorder(writer=writer, day_keys=day_keys, clock=clock)
        admission = Admission(num_running=num_running, num_waiting=num_waiting)
        quotas, keys = Quotas(MemoryStore(), gateway="a"), KeyRing(NATION, monotonic_s=lambda: 0.0)
        keys.refresh(MemoryStore())
        gateway = Gateway(
            router=Router([Candidate(engine, (SERVED, *adapters), admission)]),
            keys=keys,
            controls=Controls(
                policy=POLICY,
                nation=NATION,
                models=[
                    Model("m", NATION.lowest),
                    *(Model(each.name, NATION.label(each.tier, markings=each.markings)) for each in adapters),
                ],
                site=lambda model: PolicySite("north", "GB", NATION.tiers[0], engine.info.seal),
            ),
            allowance=Allowance(quotas, dict.fromkeys(["m", *(each.name for each in adapters)], PRICES)),
            recorder=recorder,
            salt_secret=bytes(32),
            judge=Judge(),
        )
        try:
            async with asyncio.timeout(20):
                yield Front(gateway, recorder, writer, day_keys, log, quotas)
        finally:
            await gateway.judge.close()
            await asyncio.to_thread(writer.close)
            await asyncio.to_thread(log.close)

    return make


def chat(**changes: Any) -> Chat:
    """One question, whole text wanted, no tools."""
    return replace(Chat("m", ({"role": "user", "content": "Why?"},), Sampling(seed=7)), **changes)


def request(task: Chat | Embed | None = None, *, id: str = "r1", tier: str = "OFFICIAL", **changes: Any) -> Request:
    """What steps 1 to 3 make of a call."""
    fields: dict[str, Any] = {"label": NATION.label(tier), "start_ms": START_MS, **changes}
    return Request(id=id, task=task or chat(), body=b'{"the":"body"}', **{"caller": CALLER, **fields})


def by(tenant: Tenant, asked: Request) -> Request:
    """The same request from that tenant."""
    return replace(asked, caller=replace(asked.caller, tenant=tenant))


def to_hold(asked: Request, tenant: Tenant = TENANT) -> tuple[Request, Chat | Embed, int]:
    """The request of that tenant, what the engine gets of it (the same where there are no tools), and how many tokens
    that holds."""
    return by(tenant, asked), asked.task, CONTEXT_TOKENS


def write_body(made: Embeddings) -> bytes:
    """What a dialect makes of vectors."""
    return b"body of %d vectors" % len(made.vectors)


async def streamed(gateway: Gateway, asked: Request) -> list[Answered]:
    """A streamed answer, to its end."""
    async with aclosing((await gateway.stream(asked)).value) as answer:
        return [part async for item in answer for part in ([item] if isinstance(item, Completion) else item)]


async def embedded(gateway: Gateway, asked: Request) -> bytes:
    """Vectors for the same caller and label."""
    return (await gateway.embed(replace(asked, task=Embed("m", ("a cat",))), write_body)).value


async def answered(gateway: Gateway, asked: Request) -> Completion:
    """A whole answer."""
    return (await gateway.answer(asked)).value


Ask = Callable[[Gateway, Request], Coroutine[Any, Any, Any]]
WAYS: Mapping[str, Ask] = {"whole": answered, "streamed": streamed, "embedded": embedded}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    """Each way to ask a gateway for something."""
    return WAYS[request.param]


@pytest.fixture(params=["whole", "streamed"])
def ask_chat(request: pytest.FixtureRequest) -> Ask:
    """Both ways to ask a gateway for an answer in words."""
    return WAYS[request.param]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (it may come true in another thread)
            await asyncio.sleep(0.002)
