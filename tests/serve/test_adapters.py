"""Adapters: each is a model of its own to whoever asks, to the policy and in receipts; and they share nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engine.test_http import Exchange, serving
from tests.serve.conftest import CALLER, SERVED, MakeFront, ScriptedEngine, answered, chat, request, write_body

from allod.app.gateway.realm import ServedEngine, run_realm
from allod.app.home import load_settings
from allod.core.errors import Denied, Invalid
from allod.core.requests import Embed
from allod.engine.adapters.echo import EchoEngine
from allod.engine.adapters.llama import LlamaEngine
from allod.engine.adapters.llama_slots import Slots
from allod.engine.engine import LoadedAdapter
from allod.govern.tenancy.tenants import Scope
from allod.serve.served_model import ServedModel

LAW = ServedModel("law", "Us", f"sha256:{'1' * 64}", "MIT", "GB", informative=True, base="m")
SECRETS = replace(LAW, name="secrets", digest=f"sha256:{'2' * 64}", tier="SECRET")
WHOLE = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def loaded(*adapters: ServedModel) -> tuple[LoadedAdapter, ...]:
    return tuple(LoadedAdapter(each.name, each.digest) for each in adapters)


def scripted(*adapters: ServedModel) -> ScriptedEngine:
    engine = ScriptedEngine("x")
    engine.info = replace(engine.info, adapters=loaded(*adapters))
    return engine


# At the gateway


async def test_a_receipt_names_the_adapter_and_the_model_below_it(front: MakeFront) -> None:
    """The name that was asked for, the digest of the file that the engine loaded, and the adapter's beside it."""
    engine = scripted(LAW, SECRETS)
    async with front(engine, adapters=[LAW, SECRETS]) as made:
        for number, name in enumerate(("m", "law", "m")):
            await answered(made.gateway, request(chat(model=name), id=f"r{number}"))
        receipts = await made.receipts()
    models = [
        (part["name"], part["digest"], part["adapters"]) for part in (each.predicate["model"] for each in receipts)
    ]
    base = engine.info.model_digest
    assert models == [("m", base, []), ("law", base, [LAW.digest]), ("m", base, [])]


async def test_the_engine_is_asked_for_the_adapter(front: MakeFront) -> None:
    """By the name that the client said."""
    engine = scripted(LAW)
    async with front(engine, adapters=[LAW]) as made:
        await answered(made.gateway, request(chat(model="law")))
    assert [asked.model for asked in engine.asked] == ["law"]


async def test_what_an_adapter_was_made_from_is_decided_on(front: MakeFront) -> None:
    """A harmless question to an adapter that learnt from SECRET texts is a SECRET one; to the model below it is not."""
    async with front(scripted(LAW, SECRETS), adapters=[LAW, SECRETS]) as made:
        with pytest.raises(Denied, match="above-accreditation"):
            await answered(made.gateway, request(chat(model="secrets")))
        for name in ("m", "law"):
            await answered(made.gateway, request(chat(model=name), id=name))
        tiers = [each.predicate["policy"]["label"]["tier"] for each in await made.receipts()]
    assert tiers == ["SECRET", "OFFICIAL", "OFFICIAL"]


async def test_a_key_may_be_for_one_adapter_alone(front: MakeFront) -> None:
    """A scope names models, and an adapter is one: the model below it, and another, are to its key as none at all."""
    caller = replace(CALLER, scope=Scope(models=frozenset({"law"})))
    async with front(scripted(LAW, SECRETS), adapters=[LAW, SECRETS]) as made:
        await made.gateway.answer(request(chat(model="law"), caller=caller))
        told = set()
        for name in ("m", "secrets", "nothing"):
            with pytest.raises(Invalid) as caught:
                await made.gateway.answer(request(chat(model=name), id=name, caller=caller))
            error = caught.value
            told.add((error.code, error.param, error.hint, error.message.replace(repr(name), "")))
            with pytest.raises(Invalid) as caught:
                await made.gateway.embed(request(Embed(name, ("a cat",)), caller=caller), write_body)
            assert caught.value.message == error.message
    assert told == {("model_not_found", "model", "there is 'law'", "the model  is not served here")}


async def test_a_name_that_nothing_has_is_not_found(front: MakeFront) -> None:
    """The hint lists those that are served."""
    async with front(scripted(LAW), adapters=[LAW]) as made:
        with pytest.raises(Invalid) as caught:
            await answered(made.gateway, request(chat(model="Law")))
    assert (caught.value.code, caught.value.hint) == ("model_not_found", "there is 'm', 'law'")


async def test_an_adapter_makes_no_embeddings(front: MakeFront) -> None:
    """The engine would make the model's own and call them the adapter's."""
    engine = scripted(LAW)
    async with front(engine, adapters=[LAW]) as made:
        with pytest.raises(Invalid) as caught:
            await made.gateway.embed(request(Embed("law", ("a cat",))), write_body)
    assert (caught.value.code, engine.asked) == ("unsupported_by_model", [])


@pytest.mark.parametrize(
    ("described", "held"),
    [
        ([LAW], []),
        ([], [LAW]),
        ([LAW], [replace(LAW, digest=f"sha256:{'9' * 64}")]),
        ([replace(LAW, base="another")], [LAW]),
        ([replace(LAW, base="another")], []),
        ([replace(LAW, base="")], []),
    ],
    ids=["not loaded", "not described", "another file", "another base", "nor loaded", "another model"],
)
async def test_a_gateway_serves_no_adapter_that_its_engine_does_not_hold(
    front: MakeFront, described: list[ServedModel], held: list[ServedModel]
) -> None:
    """Or answers would be the model's own under the adapter's name, and receipts would name what did not answer."""
    with pytest.raises(Invalid) as caught:
        async with front(scripted(*held), adapters=described):
            pass
    assert caught.value.code == "adapter_not_loaded"


async def test_two_models_of_one_name_are_refused(front: MakeFront) -> None:
    """Nobody could say which of them answered."""
    twin = replace(LAW, name=SERVED.name)
    with pytest.raises(Invalid) as caught:
        async with front(scripted(twin), adapters=[twin]):
            pass
    assert caught.value.code == "model_name"


async def test_an_adapter_is_as_secret_as_what_lies_below_it(tmp_path: Path) -> None:
    """What the policy is told of it covers both."""
    settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
    base = replace(SERVED, markings=("PERSONAL DATA",))
    async with run_realm(settings, ServedEngine(EchoEngine(adapters=loaded(SECRETS)), (base, SECRETS))) as realm:
        controls = realm.gateway.controls
    label = controls.models["secrets"].label
    assert (label.tier.name, label.markings) == ("SECRET", frozenset({"PERSONAL DATA"}))
    assert label.covers(controls.model.label)


# At llama.cpp


async def bodies(tmp_path: Path, *names: str, adapters: tuple[LoadedAdapter, ...], num_slots: int = 1) -> list[Any]:
    """What the server is sent when these models are asked the same under one salt, one after another."""
    sent: list[Any] = []

    async def answer(exchange: Exchange) -> None:
        sent.append(json.loads(exchange.body))
        await exchange.whole(WHOLE)

    async with serving(tmp_path, answer):
        info = replace(EchoEngine().info, adapters=adapters)
        engine = LlamaEngine(info, str(tmp_path / "s"), Slots(num_slots))
        for name in names:
            await engine.complete(chat(model=name), salt="s")
        await engine.close()
    return sent


async def test_every_chat_says_which_adapters_apply(tmp_path: Path) -> None:
    """All of them are named, so that none is left as the chat before had it."""
    sent = await bodies(tmp_path, "m", "law", "secrets", adapters=loaded(LAW, SECRETS))
    scales = [[(each["id"], each["scale"]) for each in body["lora"]] for body in sent]
    assert scales == [[(0, 0.0), (1, 0.0)], [(0, 1.0), (1, 0.0)], [(0, 0.0), (1, 1.0)]]


async def test_an_engine_without_adapters_is_told_nothing_of_them(tmp_path: Path) -> None:
    """Its requests are what they were."""
    (body,) = await bodies(tmp_path, "m", adapters=())
    assert "lora" not in body


async def test_nothing_that_one_adapter_computed_is_reused_for_another(tmp_path: Path) -> None:
    """The same words of the same tenant, in the one slot that there is: only after the same adapter is it reused."""
    sent = await bodies(tmp_path, "m", "m", "law", "law", "secrets", "m", adapters=loaded(LAW, SECRETS))
    assert [body["cache_prompt"] for body in sent] == [False, True, False, True, False, False]


async def test_an_adapter_comes_back_to_the_slot_that_holds_its_own(tmp_path: Path) -> None:
    """With a slot for each, nothing is computed twice."""
    sent = await bodies(tmp_path, *("m", "law", "secrets") * 2, adapters=loaded(LAW, SECRETS), num_slots=3)
    placed = [(body["id_slot"], body["cache_prompt"]) for body in sent]
    assert placed == [(slot, reuse) for reuse in (False, True) for slot in range(3)]
