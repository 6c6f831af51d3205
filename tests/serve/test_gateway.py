"""The main path, by its numbers: what comes before what, and what the log says of every way that a request can end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.serve.conftest import (
    CALLER,
    DAY_MS,
    NATION,
    START_MS,
    TENANT,
    Ask,
    MakeFront,
    ScriptedEngine,
    by,
    chat,
    embedded,
    request,
    streamed,
    until,
    write_body,
)

from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.labels import Label
from allod.core.requests import Chat, Completion, Embed, Embeddings, Piece, Tool, Usage
from allod.core.statements.receipt import ANSWER, REFUSAL
from allod.engine.giving_way import LONG_BYTES
from allod.engine.salts import cache_salt
from allod.govern.policy.request import Model, PolicySite
from allod.govern.tenancy.keys import Caller
from allod.govern.tenancy.tenants import Quota
from allod.prove.tlog.segment import FileCalls
from allod.serve import request as request_module
from allod.serve.gateway import Gateway
from allod.serve.request import Request

CLOCK = Tool("clock", "The time", {"type": "object"})


def called(arguments: str) -> dict[str, Any]:
    """A call that an assistant made before."""
    return {"id": "1", "type": "function", "function": {"name": "clock", "arguments": arguments}}


class SlowDisk:
    """A disk whose `fdatasync` waits for leave, and may then fail."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.error: OSError | None = None
        self.num_waiting = 0

    @property
    def calls(self) -> FileCalls:
        return FileCalls(fdatasync=self._fdatasync)

    def _fdatasync(self, fd: int) -> None:
        self.num_waiting += 1
        assert self.leave.wait(10)
        if self.error is not None:
            raise self.error
        os.fdatasync(fd)


@pytest.fixture
def disk() -> Iterator[SlowDisk]:
    made = SlowDisk()
    yield made
    made.leave.set()


def committed(text: str) -> bytes:
    return Completion(text, "stop", Usage()).committed_bytes()


Way = Callable[[Gateway, Caller, Request], Coroutine[Any, Any, Label]]


async def whole(gateway: Gateway, caller: Caller, asked: Request) -> Label:
    return (await gateway.answer(replace(asked, caller=caller))).label


async def in_pieces(gateway: Gateway, caller: Caller, asked: Request) -> Label:
    found = await gateway.stream(replace(asked, caller=caller))
    async with aclosing(found.value) as answer:
        async for _ in answer:
            pass
    return found.label


async def as_vectors(gateway: Gateway, caller: Caller, asked: Request) -> Label:
    embed = Embed("m", tuple(asked.task.texts))
    return (await gateway.embed(replace(asked, task=embed, caller=caller), write_body)).label


@pytest.fixture(params=[whole, in_pieces, as_vectors])
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to ask, for whoever asks; what comes of it is the answer's label."""
    return cast(Way, request.param)


def limited(**quota: int) -> Caller:
    return replace(CALLER, tenant=replace(CALLER.tenant, quota=Quota(**quota)))


def noted(order: list[str], name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, and its name in `order` whenever it is called."""

    def call(*words: Any, **named: Any) -> Any:
        order.append(name)
        return real(*words, **named)

    return call


def about_a_person(**changes: Any) -> Request:
    """A question whose text holds an NHS number, one of those reserved for tests."""
    return request(chat(messages=({"role": "user", "content": "Who has 943 476 5919?"},)), **changes)


# The order of the steps


async def test_the_steps_come_in_the_order_of_their_numbers(
    front: MakeFront, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 label, 4 decide, 5 hold what the limits allow and take a turn, 7 generate, 9 record: each once."""
    order: list[str] = []
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        gateway = made.gateway
        generate = "embed" if way is as_vectors else "stream"
        for part, name in (
            (gateway.controls, "label"),
            (gateway.recorder, "prepare"),
            (gateway.controls, "decide"),
            (gateway.allowance, "hold"),
            (gateway.router.first.admission, "turn"),
            (engine, generate),
            (gateway.allowance, "settle"),
            (gateway.recorder, "record_answer"),
        ):
            monkeypatch.setattr(part, name, noted(order, name, getattr(part, name)))
        await way(gateway, CALLER, request())
    assert order == ["label", "prepare", "decide", "hold", "turn", generate, "settle", "record_answer"]


# Step 3 before step 4


async def test_what_a_text_holds_is_decided_on(front: MakeFront, way: Way) -> None:
    """3 before 4: a person's number calls for a marking that nobody declared, and the policy is asked about that."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        with pytest.raises(Denied, match="needs-a-sealed-engine"):
            await way(made.gateway, CALLER, about_a_person())
        (statement,) = await made.receipts()
    assert (statement.kind, engine.asked) == (REFUSAL, [])
    assert statement.predicate["policy"]["label"]["markings"] == ["PERSONAL DATA"]


async def test_what_the_model_was_made_from_is_decided_on(front: MakeFront, ask: Ask) -> None:
    """A harmless question to a model that learned from SECRET texts is a SECRET one."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        made.gateway.controls.models["m"] = Model("m", NATION.label("SECRET"))
        with pytest.raises(Denied, match="above-accreditation"):
            await ask(made.gateway, request())
        (statement,) = await made.receipts()
    assert (statement.predicate["policy"]["label"]["tier"], engine.asked) == ("SECRET", [])


async def test_an_answers_label_covers_all_that_went_into_it(front: MakeFront, way: Way) -> None:
    """The declared label, the model's, and what the text holds: on the answer and in its receipt."""
    declared = NATION.label("SECRET", purposes=["research"])
    model = NATION.label(markings=["COMMERCIAL"], jurisdictions=["GB"])
    expected = declared.join(model).join(NATION.label(markings=["PERSONAL DATA"]))
    async with front(ScriptedEngine("x")) as made:
        made.gateway.controls.models["m"] = Model("m", model)
        made.gateway.controls.site = lambda model: PolicySite("north", "GB", NATION.tiers[-1], "sealed")
        label = await way(made.gateway, CALLER, about_a_person(label=declared))
        (statement,) = await made.receipts()
    assert label == expected
    assert statement.predicate["policy"]["label"] == expected.as_json()


async def test_while_a_control_is_in_doubt_nothing_is_done(front: MakeFront, ask: Ask) -> None:
    """No answer, no refusal, no place and nothing of the limits taken; when it works again, so does the gateway."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        gateway = made.gateway
        gateway.controls.report("ledger", Unavailable("behind", code="tenants_unavailable"))
        for asked in (request(), request(tier="SECRET")):
            with pytest.raises(Unavailable, match="behind"):
                await ask(gateway, asked)
        assert (gateway.router.first.admission.inside, gateway.router.first.admission.snapshots(), engine.asked) == (
            0,
            [],
            [],
        )
        gateway.controls.report("ledger", None)
        await ask(gateway, request(id="r2"))
        assert [statement.id for statement in await made.receipts()] == ["r2"]


# Step 4 before step 5


async def test_what_is_forbidden_is_refused_though_the_line_is_full(front: MakeFront, ask: Ask) -> None:
    """4 before 5: who may not ask hears so whatever the load, and takes nobody's place."""
    engine = ScriptedEngine("x")
    async with front(engine, num_running=1, num_waiting=0) as made:
        async with made.gateway.router.first.admission.turn("other"):
            with pytest.raises(Denied) as caught:
                await ask(made.gateway, request(tier="SECRET"))
        (statement,) = await made.receipts()
    assert caught.value.code == "policy_denied"
    assert (statement.kind, engine.asked) == (REFUSAL, [])


async def test_a_refusal_is_durable_before_it_is_told(front: MakeFront, ask: Ask, disk: SlowDisk) -> None:
    """Whoever is told no can have it proved: the 403 waits for the disk."""
    async with front(ScriptedEngine("x"), calls=disk.calls) as made:
        asking = asyncio.create_task(ask(made.gateway, request(tier="SECRET")))
        await until(lambda: disk.num_waiting == 1)
        await asyncio.sleep(0.02)
        assert not asking.done()
        disk.leave.set()
        with pytest.raises(Denied):
            await asking
        (statement,) = await made.receipts()
    assert (statement.id, statement.predicate["policy"]["decision"]) == ("r1", "forbid")


async def test_a_refusal_that_cannot_be_recorded_is_unavailable(front: MakeFront, ask: Ask, disk: SlowDisk) -> None:
    """Not a 403 without evidence, and least of all an answer."""
    disk.error = OSError(5, "Input/output error")
    disk.leave.set()
    engine = ScriptedEngine("x")
    async with front(engine, calls=disk.calls) as made:
        with pytest.raises(Unavailable) as caught:
            await ask(made.gateway, request(tier="SECRET"))
    assert caught.value.code == "log_unavailable"
    assert engine.asked == []


async def test_a_refusal_is_a_request_of_the_quota(front: MakeFront, way: Way) -> None:
    """Or who sends nothing but what is forbidden would fill the log: past the quota it is 429, without a receipt."""
    caller = limited(requests_per_minute=3)
    async with front(ScriptedEngine("x")) as made:
        for number in range(2):
            with pytest.raises(Denied):
                await way(made.gateway, caller, request(id=f"no{number}", tier="SECRET"))
        await way(made.gateway, caller, request(id="yes"))
        with pytest.raises(Unavailable) as caught:
            await way(made.gateway, caller, request(id="no2", tier="SECRET"))
        assert caught.value.code == "rate_limited"
        assert [statement.id for statement in await made.receipts()] == ["no0", "no1", "yes"]


# Step 5


async def test_a_reached_limit_leaves_no_receipt_and_takes_no_turn(front: MakeFront, way: Way) -> None:
    """429 with the time to come back; the engine never hears of it."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        caller = limited(requests_per_minute=1)
        await way(made.gateway, caller, request(id="r1"))
        for number in range(3):
            with pytest.raises(Unavailable) as caught:
                await way(made.gateway, caller, request(id=f"no{number}"))
            assert (caught.value.code, made.gateway.router.first.admission.inside) == ("rate_limited", 0)
            assert caught.value.retry_after_s
        assert [statement.id for statement in await made.receipts()] == ["r1"]
    assert len(engine.asked) == 1


async def test_a_limit_is_met_before_the_line(front: MakeFront, way: Way) -> None:
    """Quota before turn: who is over its limit is told that, though there would be no room for it either."""
    async with front(ScriptedEngine("x"), num_running=1, num_waiting=0) as made:
        caller = limited(requests_per_minute=1)
        await way(made.gateway, caller, request())
        async with made.gateway.router.first.admission.turn("other"):
            with pytest.raises(Unavailable) as caught:
                await way(made.gateway, caller, request())
    assert caught.value.code == "rate_limited"


async def test_who_finds_the_line_full_keeps_its_limit(front: MakeFront, way: Way) -> None:
    """What was held for a turn that never came is given back: the one request of the minute is still there."""
    async with front(ScriptedEngine("x"), num_running=1, num_waiting=0) as made:
        caller = limited(requests_per_minute=1, concurrent=1)
        async with made.gateway.router.first.admission.turn("other"):
            for _ in range(3):
                with pytest.raises(Unavailable, match="too many requests are waiting"):
                    await way(made.gateway, caller, request())
        await way(made.gateway, caller, request())


async def test_one_at_a_time_is_one_until_it_ends(front: MakeFront, way: Way) -> None:
    """The second is refused while the first runs, and let in when it is over."""
    engine = ScriptedEngine("x")
    engine.gate.clear()
    async with front(engine) as made:
        caller = limited(concurrent=1)
        first = asyncio.create_task(way(made.gateway, caller, request(id="r1")))
        await until(lambda: len(engine.asked) == 1)
        with pytest.raises(Unavailable) as caught:
            await way(made.gateway, caller, request(id="r2"))
        assert caught.value.code == "rate_limited"
        engine.gate.set()
        await first
        await way(made.gateway, caller, request(id="r3"))


async def test_the_turn_is_the_callers_tenants(front: MakeFront, way: Way) -> None:
    """With its weight and its priority: shares are the tenants', not the keys'."""
    engine = ScriptedEngine("x")
    engine.gate.clear()
    async with front(engine) as made:
        caller = replace(CALLER, tenant=replace(CALLER.tenant, weight=7, priority=1))
        asking = asyncio.create_task(way(made.gateway, caller, request()))
        await until(lambda: len(engine.asked) == 1)
        (snapshot,) = made.gateway.router.first.admission.snapshots()
        assert (snapshot.tenant, snapshot.weight, snapshot.priority) == ("local", 7, 1)
        engine.gate.set()
        await asking


async def test_an_overloaded_request_leaves_no_receipt(front: MakeFront, ask: Ask) -> None:
    """Nothing was done for it, so there is nothing to prove; it is told when to come back."""
    engine = ScriptedEngine("x")
    async with front(engine, num_running=1, num_waiting=0) as made:
        async with made.gateway.router.first.admission.turn("other"):
            with pytest.raises(Unavailable) as caught:
                await ask(made.gateway, request())
        assert await made.receipts() == []
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
    assert engine.asked == []


async def test_who_leaves_the_line_leaves_no_receipt(front: MakeFront, ask: Ask) -> None:
    """A client that goes before its turn has come had no answer begun."""
    async with front(ScriptedEngine("x"), num_running=1) as made:
        async with made.gateway.router.first.admission.turn("other"):
            asking = asyncio.create_task(ask(made.gateway, request()))
            await until(lambda: made.gateway.router.first.admission.inside == 2)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert made.gateway.router.first.admission.inside == 0
        assert await made.receipts() == []


@pytest.mark.parametrize("error", [None, Unavailable("gone", code="engine_lost"), Invalid("no", code="x")])
async def test_every_end_gives_the_turn_back(front: MakeFront, ask: Ask, error: AllodError | None) -> None:
    """Answered or failed, the next one finds its place free."""
    engine = ScriptedEngine("x", error=error)
    async with front(engine, num_running=1, num_waiting=0) as made:
        for number in range(3):
            with suppress(AllodError):
                await ask(made.gateway, request(id=f"r{number}"))
        assert made.gateway.router.first.admission.inside == 0
    assert len(engine.asked) == 3


# Before any of it


@pytest.mark.parametrize("model", ["other", "M", ""])
async def test_another_model_is_not_found_and_not_recorded(front: MakeFront, ask_chat: Ask, model: str) -> None:
    """Never another model's answer under this one's name."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request(chat(model=model)))
        assert await made.receipts() == []
    assert (caught.value.code, engine.asked) == ("model_not_found", [])


async def test_a_model_for_embeddings_answers_no_chat(front: MakeFront, ask_chat: Ask) -> None:
    """It is told apart before anything is decided or recorded."""
    engine = ScriptedEngine("x")
    engine.info = replace(engine.info, can_chat=False)
    async with front(engine) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request())
        assert await made.receipts() == []
    assert caught.value.code == "unsupported_by_model"


async def test_nothing_is_asked_of_the_engine_that_could_not_be_recorded(
    front: MakeFront, ask: Ask, tmp_path: Path
) -> None:
    """Where no day key can be kept, no receipt could be made: found out before the work, not after it."""
    (tmp_path / "days").write_bytes(b"a file where the directory would be")
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        with pytest.raises(Unavailable) as caught:
            await ask(made.gateway, request())
    assert (caught.value.code, engine.asked) == ("keystore_unavailable", [])


# Steps 7 and 8


async def test_salts_differ_by_tenant_and_by_label(front: MakeFront, ask_chat: Ask) -> None:
    """What one tenant asked speeds up nobody else, and nothing under another label: also one that the text made."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        made.gateway.controls.site = lambda model: PolicySite("north", "GB", NATION.tiers[-1], "sealed")
        for asked in (
            request(id="r0"),
            request(chat(messages=({"role": "user", "content": "What else?"},)), id="r1"),
            by(replace(TENANT, id="other"), request(id="r2")),
            request(id="r3", tier="SECRET"),
            request(id="r4", label=NATION.label(markings=["SENSITIVE"])),
            about_a_person(id="r5"),
            request(id="r6", label=NATION.label(markings=["PERSONAL DATA"])),
        ):
            await ask_chat(made.gateway, asked)
    same, again, *others = engine.salts
    assert same == again == cache_salt(bytes(32), "local", NATION.lowest)  # under the realm's own secret
    assert len({same, *others}) == 5
    assert others[-1] == others[-2]  # declared or found, it is one label


async def test_pieces_come_as_they_are_made(front: MakeFront) -> None:
    """Before the engine has ended; and an offer of tools does not delay what cannot be a call."""
    for asked in (request(), request(chat(tools=(CLOCK,), tool_choice="auto"))):
        engine = ScriptedEngine("It", " rains.")
        engine.gate.clear()
        async with front(engine) as made, aclosing((await made.gateway.stream(asked)).value) as answer:
            assert [await anext(answer), await anext(answer)] == [[Piece("It")], [Piece(" rains.")]]
            engine.gate.set()
            last = await anext(answer)
        assert isinstance(last, Completion)
        assert last.content == "It rains."


async def test_what_may_be_a_call_is_held_until_it_is_known(front: MakeFront) -> None:
    """A call is never shown as text; what only began like one is shown whole, piece by piece."""
    texts = ('{"name": ', '"clock", "arguments": {}}')
    for more in ((), (" is no call",)):
        async with front(ScriptedEngine(*texts, *more)) as made:
            *pieces, last = await streamed(made.gateway, request(chat(tools=(CLOCK,), tool_choice="auto")))
        assert isinstance(last, Completion)
        assert [piece.text for piece in pieces if isinstance(piece, Piece)] == ([*texts, *more] if more else [])
        assert bool(last.tool_calls) == (not more)


# Step 9


async def test_an_answer_is_durable_before_it_is_complete(front: MakeFront, ask: Ask, disk: SlowDisk) -> None:
    """Pieces may be on their way; the end comes after the disk has answered."""
    async with front(ScriptedEngine("x"), calls=disk.calls) as made:
        asking = asyncio.create_task(ask(made.gateway, request()))
        await until(lambda: disk.num_waiting == 1)
        await asyncio.sleep(0.02)
        assert not asking.done()
        disk.leave.set()
        await asking
        (statement,) = await made.receipts()
    assert (statement.kind, statement.id) == (ANSWER, "r1")


async def test_the_receipt_commits_to_what_was_answered(front: MakeFront, ask_chat: Ask) -> None:
    """Text, reason and counted tokens, the same whole and streamed."""
    async with front(ScriptedEngine("yes", " and", " no", finish="length")) as made:
        await ask_chat(made.gateway, request())
        (statement,) = await made.receipts()
        assert made.commits_to(statement, committed("yes and no"))
        assert not made.commits_to(statement, committed("yes and no."))
    answer = statement.predicate["answer"]
    assert (answer["finish"], answer["tokens"], statement.predicate["request"]["tokens"]) == ("length", 3, 3)


async def test_for_embeddings_the_receipt_commits_to_the_body(front: MakeFront) -> None:
    """The bytes that the client gets, as the dialect wrote them."""
    async with front(ScriptedEngine()) as made:
        body = await embedded(made.gateway, request())
        (statement,) = await made.receipts()
        assert made.commits_to(statement, body)
    assert body == write_body(Embeddings(((),)))
    assert statement.predicate["request"]["params"] == {"num_texts": 1}


@pytest.mark.parametrize("error", [Unavailable("gone", code="engine_lost"), Invalid("too long", code="x")])
async def test_an_answer_that_broke_off_is_noted_as_an_error(front: MakeFront, ask: Ask, error: AllodError) -> None:
    """With what was sent of it, which is nothing unless it was streamed; the error itself is what the client gets."""
    async with front(ScriptedEngine("half an", " answer", error=error)) as made:
        with pytest.raises(type(error)) as caught:
            await ask(made.gateway, request())
        (statement,) = await made.receipts()
        assert made.commits_to(statement, committed("half an answer" if ask is streamed else ""))
    assert caught.value is error
    assert (statement.kind, statement.id) == (ANSWER, "r1")
    counted = None if ask is embedded else 2  # the last that the engine said
    assert (statement.predicate["answer"]["finish"], statement.predicate["answer"]["tokens"]) == ("error", counted)


@pytest.mark.parametrize("step_ms", [-DAY_MS, DAY_MS])
async def test_a_clock_that_steps_during_an_answer_costs_it_nothing(front: MakeFront, ask: Ask, step_ms: int) -> None:
    """It ends by the clock that only runs, with a receipt; what comes after it is refused until the clock is right."""
    wall_ms = [START_MS + 50]
    engine = ScriptedEngine("x")
    engine.gate.clear()
    async with front(engine, wall_ms=lambda: wall_ms[0]) as made:
        asking = asyncio.create_task(ask(made.gateway, request()))
        await until(lambda: len(engine.asked) == 1)
        wall_ms[0] += step_ms
        engine.gate.set()
        await asking
        with pytest.raises(Unavailable, match="clock"):
            await ask(made.gateway, request(id="r2"))
        (statement,) = await made.receipts()
    assert (statement.id, statement.end_ms) == ("r1", START_MS + 50)
    assert (statement.predicate["answer"]["finish"], statement.predicate["meter"]["micros"] > 0) == ("stop", True)


@pytest.mark.parametrize("step_ms", [-DAY_MS, DAY_MS])
async def test_what_breaks_off_after_the_clock_stepped_is_noted(front: MakeFront, ask: Ask, step_ms: int) -> None:
    """What was made until then is on record all the same."""
    wall_ms = [START_MS + 50]
    engine = ScriptedEngine("half", error=Unavailable("gone", code="engine_lost"))
    engine.gate.clear()
    async with front(engine, wall_ms=lambda: wall_ms[0]) as made:
        asking = asyncio.create_task(ask(made.gateway, request()))
        await until(lambda: len(engine.asked) == 1)
        wall_ms[0] += step_ms
        engine.gate.set()
        with pytest.raises(Unavailable, match="gone"):
            await asking
        (statement,) = await made.receipts()
    assert (statement.predicate["answer"]["finish"], statement.end_ms) == ("error", START_MS + 50)


async def test_an_answer_that_was_cancelled_is_noted_as_that(front: MakeFront, ask: Ask) -> None:
    """The client left while the engine worked."""
    engine = ScriptedEngine("half")
    engine.gate.clear()
    async with front(engine) as made:
        asking = asyncio.create_task(ask(made.gateway, request()))
        await until(lambda: len(engine.asked) == 1)
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (statement,) = await made.receipts()
        assert made.commits_to(statement, committed("half" if ask is streamed else ""))
    assert statement.predicate["answer"]["finish"] == "cancelled"


async def test_who_leaves_between_the_answer_and_its_receipt_is_charged(
    front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a long request others have their turn first; what the engine made is on record all the same."""
    engine = ScriptedEngine("x")

    async def give_way() -> None:
        if engine.asked:
            asking.cancel()
        await asyncio.sleep(0)

    monkeypatch.setattr(request_module, "give_way", give_way)
    async with front(engine) as made:
        asking = asyncio.create_task(made.gateway.answer(replace(request(), body=bytes(LONG_BYTES + 1))))
        with pytest.raises(asyncio.CancelledError):
            await asking
        (statement,) = await made.receipts()
    assert (statement.predicate["answer"]["finish"], statement.predicate["answer"]["tokens"]) == ("cancelled", 1)


async def test_vectors_that_cannot_be_written_are_charged(front: MakeFront) -> None:
    """The engine has made them, whatever becomes of the body."""

    def fail(made: Embeddings) -> bytes:
        raise ValueError("no JSON")

    async with front(ScriptedEngine()) as made:
        with pytest.raises(ValueError, match="no JSON"):
            await made.gateway.embed(request(Embed("m", ("a cat",))), fail)
        (statement,) = await made.receipts()
    assert (statement.predicate["answer"]["finish"], statement.predicate["request"]["tokens"]) == ("error", 2)


async def test_a_stream_that_is_left_is_noted_as_cancelled(front: MakeFront) -> None:
    """With exactly the pieces that were handed over."""
    async with front(ScriptedEngine("one", " two", " three")) as made:
        async with aclosing((await made.gateway.stream(request())).value) as answer:
            assert [await anext(answer), await anext(answer)] == [[Piece("one")], [Piece(" two")]]
        (statement,) = await made.receipts()
        assert made.commits_to(statement, committed("one two"))
    assert statement.predicate["answer"]["finish"] == "cancelled"


async def test_without_a_receipt_there_is_no_answer(front: MakeFront, ask: Ask) -> None:
    """Where the writer takes nothing in, nothing is complete and nothing is recorded."""
    async with front(ScriptedEngine("x")) as made:
        await asyncio.to_thread(made.writer.close)
        with pytest.raises(Unavailable) as caught:
            await ask(made.gateway, request())
        assert await made.receipts() == []
    assert caught.value.code == "log_closed"


async def test_a_stream_whose_receipt_fails_never_ends_well(front: MakeFront, disk: SlowDisk) -> None:
    """The pieces were shown; the Completion, which makes them an answer, does not come."""
    disk.error = OSError(28, "No space left on device")
    disk.leave.set()
    shown = []
    async with front(ScriptedEngine("x"), calls=disk.calls) as made:
        with pytest.raises(Unavailable) as caught:
            async with aclosing((await made.gateway.stream(request())).value) as answer:
                async for item in answer:
                    shown.append(item)
        assert await made.receipts() == []
    assert (caught.value.code, shown) == ("log_unavailable", [[Piece("x")]])


async def test_the_error_counts_more_than_its_note(front: MakeFront, ask: Ask) -> None:
    """An engine lost while the log is closed is reported as the engine that was lost."""
    engine = ScriptedEngine("x", error=Unavailable("gone", code="engine_lost"))
    engine.gate.clear()
    async with front(engine) as made:
        asking = asyncio.create_task(ask(made.gateway, request()))
        await until(lambda: len(engine.asked) == 1)
        await asyncio.to_thread(made.writer.close)
        engine.gate.set()
        with pytest.raises(Unavailable) as caught:
            await asking
    assert caught.value.code == "engine_lost"


NUMBER = "943 476 5919"  # the NHS number of no patient
CALL = {"function": {"name": "find", "arguments": '{"who": "\\u0039\\u0034\\u0033 476 5919"}'}}


@pytest.mark.parametrize(
    "asked",
    [
        chat(messages=({"role": "user", "content": f"Who is {NUMBER}?"},)),
        chat(messages=({"role": "user", "content": "Who is 943\n476\t5919, or 943.476.5919?"},)),
        chat(tools=(Tool("find", f"Finds {NUMBER}", {"type": "object"}),), tool_choice="auto"),
        chat(tools=(Tool("find", "", {"type": "object", "description": NUMBER}),), tool_choice="auto"),
        chat(messages=({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "user", "content": "x"})),
        chat(schema={"const": NUMBER}),
    ],
    ids=["content", "split", "description", "parameters", "arguments", "schema"],
)
async def test_whatever_the_engine_would_read_is_searched(front: MakeFront, asked: Chat) -> None:
    """3: a person's number marks the request wherever it stands; marked, it needs a seal that this engine lacks."""
    async with front(ScriptedEngine("x")) as made:
        with pytest.raises(Denied):
            await made.gateway.answer(request(asked))
        (statement,) = await made.receipts()
    policy = statement.predicate["policy"]
    assert (policy["label"]["markings"], policy["rules"]) == (["PERSONAL DATA"], ["needs-a-sealed-engine"])


async def test_nothing_is_generated_while_the_log_is_known_not_to_work(front: MakeFront) -> None:
    """Not even the first time, where the log itself knows it."""
    engine = ScriptedEngine("x")
    async with front(engine) as made:
        await asyncio.to_thread(made.writer.close)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await made.gateway.answer(request())
        assert len(engine.asked) == 0
        with pytest.raises(Unavailable):
            made.recorder.check()


async def test_after_the_log_failed_no_work_is_begun_until_it_works_again(front: MakeFront, ask: Ask) -> None:
    """Work that could not be recorded is not begun; that the disk has room again is found out without any."""
    full = True

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return os.pwrite(fd, data, offset)

    engine = ScriptedEngine("x")
    async with front(engine, calls=FileCalls(pwrite=pwrite)) as made:
        for number in range(3):
            with pytest.raises(Unavailable, match="No space left") as caught:
                await ask(made.gateway, request(id=f"no{number}"))
            assert caught.value.code == "log_unavailable"
        assert len(engine.asked) == 1
        with pytest.raises(Unavailable, match="No space left"):
            made.recorder.check()
        full = False
        await until(lambda: made.writer._failure is None)
        made.recorder.check()
        for number in range(2):
            await ask(made.gateway, request(id=f"r{number}"))
        made.recorder.check()
        assert [statement.id for statement in await made.receipts()] == ["r0", "r1"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (chat(messages=({"role": "user", "content": "x" * 201},)), "messages"),
        (chat(messages=({"role": "user", "content": "x"},) * 21), "messages"),
        (chat(messages=({"role": "assistant", "tool_calls": [called("x" * 201)]},)), "messages"),
        (chat(tools=(replace(CLOCK, description="x" * 201),)), "tools"),
    ],
    ids=["a text", "texts", "arguments", "a description"],
)
async def test_what_cannot_fit_is_refused_before_the_engine_counts_it(
    front: MakeFront, ask_chat: Ask, asked: Chat, param: str
) -> None:
    """No text is less than a token, and no token more than ten characters here."""
    engine = ScriptedEngine()
    engine.info = replace(engine.info, max_token_chars=10, context_tokens=20)
    async with front(engine) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request(asked))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)
