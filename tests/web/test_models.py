"""A model and adapters over it through the front door: each listed, looked up, asked and answering by its own name."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.realm import ServedEngine, run_realm
from allod.app.home import Home, load_settings
from allod.core.times import now_ms
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import LoadedAdapter
from allod.govern.tenancy.tenants import LOCAL, AuditEvent, Key, Quota, Scope, new_api_key, new_id
from allod.serve.fair_scheduler import QueueSnapshot
from allod.serve.served_model import ServedModel
from allod.settings.tree import Settings
from allod.web.http.asgi import Application
from allod.web.routes import application
from allod.web.server import greet

LAW = ServedModel("law", "Us", f"sha256:{'1' * 64}", "MIT", "GB", informative=True, base="echo")
MEDICINE = ServedModel("medicine", "Us", f"sha256:{'2' * 64}", "CC0-1.0", "GB", informative=True, base="echo")


@asynccontextmanager
async def realm_with_adapters(tmp_path: Path) -> Any:
    settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
    engine = EchoEngine(adapters=tuple(LoadedAdapter(each.name, each.digest) for each in (LAW, MEDICINE)))
    async with run_realm(settings, ServedEngine(engine, (ECHO_MODEL, LAW, MEDICINE))) as realm:
        key = await asyncio.to_thread(Home(settings.home).local_key.read_text)
        app = await asyncio.to_thread(application, realm)

        yield realm, partial(ask_as, app, settings, key.strip())


async def ask_as(app: Application, settings: Settings, key: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and answer for whoever has that key; a body is posted."""
    sent: list[Any] = []
    left = [{"type": "http.request", "body": json.dumps(body).encode() if body else b"", "more_body": False}]

    async def receive() -> Any:
        return left.pop() if left else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "query_string": b"",
        "headers": [
            (b"host", f"127.0.0.1:{settings.server.port}".encode()),
            (b"authorization", f"Bearer {key}".encode()),
        ],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


async def test_each_is_listed_under_its_own_name(tmp_path: Path) -> None:
    """The model first, as whoever takes the first expects; an adapter says what it lies over, and its own terms."""
    async with realm_with_adapters(tmp_path) as (_, ask):
        _, listed = await ask("/v1/models")
        found = [(await ask(f"/v1/models/{name}"))[1] for name in ("echo", "law", "medicine")]
        status, missing = await ask("/v1/models/Law")
    assert listed["data"] == found
    about = [(each["id"], each["allod"]["base"], each["allod"]["licence"]) for each in found]
    assert about == [("echo", None, "Apache-2.0"), ("law", "echo", "MIT"), ("medicine", "echo", "CC0-1.0")]
    assert found[1]["allod"]["digest"] == LAW.digest
    assert (status, missing["error"]["code"]) == (404, "model_not_found")


async def test_each_answers_by_its_own_name(tmp_path: Path) -> None:
    """The answer says which, and its receipt that the adapter lay over the model's file."""
    async with realm_with_adapters(tmp_path) as (realm, ask):
        said, parts = {}, {}
        for name in ("echo", "law", "medicine"):
            body = {"model": name, "messages": [{"role": "user", "content": "Why?"}]}
            status, answer = await ask("/v1/chat/completions", body)
            assert (status, answer["model"]) == (200, name)
            said[name] = answer["choices"][0]["message"]["content"]
            bundle = json.loads(await asyncio.to_thread(realm.bundle, answer["id"].removeprefix("chatcmpl-"), None))
            parts[name] = json.loads(bundle["statement"])["predicate"]["model"]
        status, refused = await ask("/v1/chat/completions", {**body, "model": "poetry"})
    assert said == {"echo": "Why?", "law": "law Why?", "medicine": "medicine Why?"}
    assert {name: part["adapters"] for name, part in parts.items()} == {
        "echo": [],
        "law": [LAW.digest],
        "medicine": [MEDICINE.digest],
    }
    assert [part["name"] for part in parts.values()] == ["echo", "law", "medicine"]
    assert len({part["digest"] for part in parts.values()}) == 1
    assert (status, refused["error"]["code"]) == (404, "model_not_found")


async def test_a_key_sees_the_seal_of_what_it_may_use(tmp_path: Path) -> None:
    """Where it does not say which, the first such model's; where it may use none it is told of none."""
    settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
    hidden, open_to_all = EchoEngine(), EchoEngine()
    hidden.info = replace(hidden.info, name="hidden")
    served = ServedEngine(hidden, (ECHO_MODEL,)), ServedEngine(open_to_all, (replace(ECHO_MODEL, name="two"),))
    async with run_realm(settings, *served) as realm:
        app = await asyncio.to_thread(application, realm)
        told = {}
        for model in ("echo", "two", "gone"):
            secret, digest, hint = new_api_key("allod-")
            key = Key(new_id("key_"), LOCAL, "k", digest, hint, now_ms(), scope=Scope(models=frozenset({model})))
            await asyncio.to_thread(
                realm.store.put_key, key, AuditEvent(new_id("audit_log-"), 1, "api_key.created", "test")
            )
            await asyncio.to_thread(realm.take_up_news)
            status, said = await ask_as(app, settings, secret, "/v1/seal")
            told[model] = said["engine"]["name"] if status == 200 else said["error"]["code"]
    assert told == {"echo": "hidden", "two": "echo", "gone": "model_not_found"}


async def test_what_an_adapter_has_under_way_is_not_its_models(tmp_path: Path) -> None:
    """Turns are not counted by name where there are several: no number is shown that would be another's too."""
    async with realm_with_adapters(tmp_path) as (realm, _):
        tenant = await asyncio.to_thread(realm.store.tenant, LOCAL)
        quotas = {"echo": Quota(concurrent=3), "law": Quota(concurrent=2)}
        event = AuditEvent(new_id("audit_log-"), 1, "project.updated", "test")
        await asyncio.to_thread(realm.store.put_tenant, replace(tenant, model_quotas=quotas), event)
        busy = QueueSnapshot(LOCAL, 0, 1, num_waiting=0, num_running=1, service=5, share=1.0)
        page = await asyncio.to_thread(realm.shares.read, [(4, [busy])], limit=9, now_ms=now_ms())
    (shown,) = page.tenants
    assert [(limit.model, limit.limit, limit.used) for limit in shown.limits if limit.period == "now"] == [
        ("echo", 3, None),
        ("law", 2, None),
    ]


async def test_whoever_starts_it_is_told_of_prices_of_what_is_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a slip, or be served another day: the start goes on. What is served is not named, adapters too."""
    tables = [f"[prices.models.{name}]\nmicros_per_engine_second = 5\n" for name in ("lew", "echo", "law", "Echo")]
    await asyncio.to_thread((tmp_path / "home").mkdir)
    await asyncio.to_thread((tmp_path / "home" / "allod.toml").write_text, "".join(tables))
    async with realm_with_adapters(tmp_path) as (realm, _):
        greet(realm)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("price")]
    assert told == [f"price {name!r} is named in [prices.models] and is not served" for name in ("Echo", "lew")]


async def test_whoever_starts_it_is_told_of_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Below the model that they lie over, each with its licence."""
    async with realm_with_adapters(tmp_path) as (realm, _):
        greet(realm)
    told = capsys.readouterr().out
    assert "law, an adapter over it (MIT, Us)" in told
    assert told.index("model echo") < told.index("law, an adapter") < told.index("seal ")
