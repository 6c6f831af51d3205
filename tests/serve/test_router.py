"""Several models at one gateway: each has an engine, turns and a seal of its own, and nothing of one is another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.realm import Realm, ServedEngine, run_realm
from allod.app.home import load_settings
from allod.core.canonical import digest_of
from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.labels import Label
from allod.core.requests import Chat, Sampling
from allod.core.statements.receipt import check_statement
from allod.core.times import now_ms
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import EnginePlace, LoadedAdapter
from allod.govern.metering.quotas import Cost, NeedsLease
from allod.govern.tenancy.keys import Caller
from allod.govern.tenancy.tenants import Budget
from allod.serve.admission import Admission
from allod.serve.request import Request
from allod.serve.router import Candidate, Router
from allod.serve.served_model import ServedModel

LAW = ServedModel("law", "Us", digest_of("law"), "MIT", "GB", informative=True, base="echo")


class Engine(EchoEngine):
    """One of several: it says which it is, and can be lost."""

    def __init__(
        self, name: str, *, runs: str = "", seal: str = "sealed", adapters: tuple[LoadedAdapter, ...] = ()
    ) -> None:
        super().__init__(adapters=adapters, place=EnginePlace("north", "GB"))
        self.info = replace(self.info, name=name, seal=seal, model_digest=digest_of(runs))
        self.is_lost = False

    def check_ready(self) -> None:
        if self.is_lost:
            raise Unavailable("the engine is being started again", code="engine_starting", retry_after_s=2)


def model(name: str, **changes: str) -> ServedModel:
    return replace(ECHO_MODEL, name=name, digest=digest_of(name), **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def realm_of(tmp_path: Path, *served: ServedEngine) -> AsyncIterator[Realm]:
    settings = await asyncio.to_thread(load_settings, {"tenants.max_wait_s": 1, "server.num_waiting": 0}, home=tmp_path)
    async with run_realm(settings, *served) as realm:
        yield realm


async def caller_of(realm: Realm) -> Caller:
    key = await asyncio.to_thread((realm.settings.home / "local.key").read_text)
    return realm.gateway.keys.caller_of(key.strip(), now_ms())


def request(caller: Caller, name: str, *, id: str, label: Label | None = None) -> Request:
    task = Chat(name, ({"role": "user", "content": "Why?"},), Sampling(seed=1))
    return Request(
        id=id,
        caller=caller,
        task=task,
        body=b"{}",
        label=label or caller.label,
        start_ms=now_ms(),
    )


async def test_receipts_name_the_engine_of_the_model_that_was_asked(tmp_path: Path) -> None:
    """Each its own, however they are mixed, and after one was started again."""
    engines = {name: Engine(f"engine of {name}", runs=name) for name in "ab"}
    async with realm_of(tmp_path, *(ServedEngine(engines[name], (model(name),)) for name in "ab")) as realm:
        caller = await caller_of(realm)
        names = ["a", "b", "b", "a", "b", "a"]
        asked = [request(caller, name, id=f"r{number}") for number, name in enumerate(names)]
        await asyncio.gather(*(realm.gateway.answer(each) for each in asked))
        engines["b"].info = replace(engines["b"].info, name="engine of b, again")
        await realm.gateway.answer(request(caller, "b", id="last"))
        told = {}
        for id in [each.id for each in asked] + ["last"]:
            bundle = await asyncio.to_thread(realm._log.statement, id)
            told[id] = check_statement(bundle).predicate
        for each, name in zip(asked, names, strict=True):
            assert told[each.id]["model"]["digest"] == digest_of(name)
            assert told[each.id]["engine"]["name"] == f"engine of {name}"
        assert told["last"]["engine"]["name"] == "engine of b, again"


async def test_each_model_is_charged_at_its_own_prices(tmp_path: Path) -> None:
    """Receipts, ledger and limit say one and the same; an adapter costs what the model does that it lies over."""
    text = "[prices]\nmicros_per_1k_prompt_tokens = 1000\n[prices.models.echo]\nmicros_per_1k_prompt_tokens = 7000\n"
    await asyncio.to_thread((tmp_path / "allod.toml").write_text, text)
    held = (LoadedAdapter(LAW.name, LAW.digest),)
    served = (
        ServedEngine(Engine("one"), (model("a"),)),
        ServedEngine(Engine("two", adapters=held), (model("echo"), LAW)),
    )
    async with realm_of(tmp_path, *served) as realm:
        caller, limit = await caller_of(realm), 1_000
        tenant = replace(caller.tenant, budgets=(Budget("day", micros=limit),))
        caller = replace(caller, tenant=tenant)
        charged = {}
        for name in ("a", "echo", "law"):
            await realm.gateway.answer(request(caller, name, id=name))
            told = check_statement(await asyncio.to_thread(realm._log.statement, name)).predicate
            charged[name] = told["meter"]["micros"] / told["request"]["tokens"]
            limit -= told["meter"]["micros"]
        assert charged == {"a": 1, "echo": 7, "law": 7}
        total = partial(realm.store.used, tenant_id=tenant.id, since_ms=0, until_ms=now_ms() + 1)
        async with asyncio.timeout(10):
            while (ledger := await asyncio.to_thread(total)).requests < len(charged):  # noqa: ASYNC110 (a thread writes)
                await asyncio.sleep(0.02)
        assert ledger.micros == 1_000 - limit
        quotas = realm.gateway.allowance._quotas
        ask = partial(quotas.reserve, tenant, model="a", tokens=0, now_ms=now_ms())
        needed = ask(cost=Cost(micros=limit + 1))
        assert isinstance(needed, NeedsLease)
        with pytest.raises(Unavailable, match="micros a day"):
            await asyncio.to_thread(quotas.lease, needed)
        if isinstance(needed := ask(cost=Cost(micros=limit)), NeedsLease):
            await asyncio.to_thread(quotas.lease, needed)
            assert not isinstance(ask(cost=Cost(micros=limit)), NeedsLease)


async def test_who_waits_for_one_engine_keeps_nobody_from_another(tmp_path: Path) -> None:
    """No turn is left at the one, and no place in its line; the other answers."""
    async with realm_of(
        tmp_path, ServedEngine(Engine("one"), (model("a"),)), ServedEngine(Engine("two"), (model("b"),))
    ) as realm:
        caller, router = await caller_of(realm), realm.gateway.router
        first = router.route("a")
        turns = [first.admission.turn("other") for _ in range(first.engine.info.slots)]
        for turn in turns:
            await turn.__aenter__()
        with pytest.raises(Unavailable, match="too many requests are waiting"):
            await realm.gateway.answer(request(caller, "a", id="r1"))
        answer = await realm.gateway.answer(request(caller, "b", id="r2"))
        assert answer.value.finish == "stop"
        assert router.num_inside == len(turns)
        snapshots = [each for _, snapshots in router.snapshots() for each in snapshots]
        assert {each.tenant for each in snapshots if each.num_running} == {"other"}
        for turn in turns:
            await turn.__aexit__(None, None, None)


async def test_an_engine_that_is_lost_is_only_its_models_trouble(tmp_path: Path) -> None:
    """Its model's requests are 503; the others are answered; readiness is of all, and does not say whose."""
    lost = Engine("two")
    async with realm_of(
        tmp_path, ServedEngine(Engine("one"), (model("a"),)), ServedEngine(lost, (model("b"),))
    ) as realm:
        caller = await caller_of(realm)
        lost.is_lost = True
        with pytest.raises(Unavailable) as told:
            await realm.gateway.answer(request(caller, "b", id="r1"))
        assert (told.value.code, told.value.retry_after_s) == ("engine_starting", 2)
        assert (await realm.gateway.answer(request(caller, "a", id="r2"))).value.finish == "stop"
        with pytest.raises(Unavailable, match=r"^of 2 engines one is not ready: the engine is") as told:
            realm.gateway.check()
        assert (told.value.code, told.value.retry_after_s) == ("engine_starting", 2)


async def test_policy_is_asked_about_the_seal_of_the_models_own_engine(tmp_path: Path) -> None:
    """What only a sealed engine may answer is refused to the model of the other."""
    async with realm_of(
        tmp_path, ServedEngine(Engine("one"), (model("a"),)), ServedEngine(Engine("two", seal="none"), (model("b"),))
    ) as realm:
        caller = await caller_of(realm)
        marked = caller.label.join(realm.gateway.controls.nation.label(markings=["SENSITIVE"]))
        assert (await realm.gateway.answer(request(caller, "a", id="r1", label=marked))).value
        with pytest.raises(Denied, match="seal"):
            await realm.gateway.answer(request(caller, "b", id="r2", label=marked))


async def test_each_models_label_is_its_own(tmp_path: Path) -> None:
    """The answer of the one carries what it was made from, and the other's does not."""
    async with realm_of(
        tmp_path,
        ServedEngine(Engine("one"), (model("a"),)),
        ServedEngine(Engine("two"), (replace(model("b"), markings=("PERSONAL DATA",)),)),
    ) as realm:
        caller = await caller_of(realm)
        labels = [(await realm.gateway.answer(request(caller, name, id=f"r{name}"))).label for name in ("a", "b")]
        assert ["PERSONAL DATA" in label.markings for label in labels] == [False, True]


async def test_the_seal_of_each_can_be_looked_at(tmp_path: Path) -> None:
    """By its model's name; an adapter's is its model's, and without a name it is the first one's."""
    held = (LoadedAdapter(LAW.name, LAW.digest),)
    served = (
        ServedEngine(Engine("one"), (model("a"),)),
        ServedEngine(Engine("two", adapters=held), (model("echo"), LAW)),
    )
    async with realm_of(tmp_path, *served) as realm:
        told = [realm.seal(name)["engine"]["name"] for name in (None, "a", "echo", "law")]
        assert told == ["one", "one", "two", "two"]
        with pytest.raises(Invalid) as caught:
            realm.seal("c")
        assert caught.value.code == "model_not_found"


def test_two_models_of_one_name_are_refused() -> None:
    """To the eye, too: receipts and clients would mean the one and name the other."""
    for other in ("a", "A", "a\u00ad"):
        candidates = [
            Candidate(Engine(name), (model(name),), Admission(num_running=1, num_waiting=1)) for name in ("a", other)
        ]
        with pytest.raises(Invalid) as caught:
            Router(candidates)
        assert caught.value.code == "model_name"
