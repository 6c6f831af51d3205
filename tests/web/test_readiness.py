"""`/readyz` and requests ask one thing: for each reason why nobody would be answered, both say it in the same words."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from allod.app.gateway import open_realm as opening
from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.realm import Realm, ServedEngine, run_realm
from allod.app.gateway.upkeep import NEWS_EVERY_S
from allod.app.home import Home, load_settings
from allod.core.errors import Unavailable
from allod.core.times import day_of, now_ms
from allod.engine.adapters.echo import EchoEngine
from allod.engine.engine import Engine
from allod.engine.replicas.pool import Pool
from allod.engine.replicas.replica import ReplicaOptions
from allod.govern.tenancy.tenants import AuditEvent, local_tenant, new_id
from allod.prove.receipts.clock import Clock
from allod.seal.launch import SealOptions
from allod.web.http.asgi import Application
from allod.web.routes import application

CHAT = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Why?"}]}).encode()
GONE = Unavailable("the tenants' database is gone", code="tenants_unavailable")


class Told(NamedTuple):
    """What a client hears: the status, the error's code, and when to ask again."""

    status: int
    code: str | None
    retry_after: str | None


class Client:
    """Asks an application that runs in this process."""

    def __init__(self, realm: Realm, asked: Application) -> None:
        self.realm = realm
        self._application = asked
        self._host = f"127.0.0.1:{realm.settings.server.port}".encode()

    async def _ask(self, method: str, path: str, body: bytes, key: str) -> tuple[int, dict[bytes, bytes], Any]:
        sent: list[Any] = []
        to_read = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if not to_read:
                await asyncio.Event().wait()  # the client stays
            return to_read.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", self._host), (b"authorization", f"Bearer {key}".encode())]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
        await self._application(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent)
        return sent[0]["status"], dict(sent[0]["headers"]), json.loads(answer)

    async def ready(self) -> Told:
        status, headers, answer = await self._ask("GET", "/readyz", b"", "")
        return Told(status, answer.get("code"), _text(headers))

    async def chat(self) -> Told:
        key = await asyncio.to_thread(Home(self.realm.settings.home).local_key.read_text)
        status, headers, answer = await self._ask("POST", "/v1/chat/completions", CHAT, key.strip())
        return Told(status, answer.get("error", {}).get("code"), _text(headers))

    async def until(self, *, is_ready: bool) -> Told:
        """What `/readyz` says once it is, or is not; ten seconds at most."""
        for _ in range(500):
            if ((told := await self.ready()).status == 200) is is_ready:
                return told
            await asyncio.sleep(0.02)
        raise AssertionError(told)


def _text(headers: dict[bytes, bytes]) -> str | None:
    value = headers.get(b"retry-after")
    return None if value is None else value.decode()


Break = Callable[[Realm, pytest.MonkeyPatch], None]


def tenants_gone(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    def fail(*words: Any) -> None:
        raise GONE

    patch.setattr(realm.store, "changes_since", fail)


def news_too_old(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    """And the database does not even say so."""
    patch.setattr(realm.gateway.keys, "refresh", lambda store: None)
    patch.setattr(realm.gateway.keys, "_monotonic_s", lambda: time.monotonic() + 3600)


def artefacts_damaged(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    segment = Home(realm.settings.home).artefacts / "segment"
    segment.write_bytes(segment.read_bytes()[:-40] + bytes(range(40)))


def ledger_ahead(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise Unavailable("the ledger has charged more than the log holds", code="ledger_ahead")

    patch.setattr(realm.meter, "catch_up", fail)


def writer_stopped(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    realm.gateway.recorder._writer.close()


def day_key_file(realm: Realm, mode: int, data: bytes) -> None:
    directory = Home(realm.settings.home).day_keys / day_of(now_ms())
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{sha256(b'local').hexdigest()}.key"
    file.write_bytes(data)
    file.chmod(mode)


def day_key_unsafe(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    day_key_file(realm, 0o644, bytes(32))


def day_key_broken(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    day_key_file(realm, 0o600, bytes(3))


def keystore_missing(realm: Realm, patch: pytest.MonkeyPatch) -> None:
    Home(realm.settings.home).day_keys.write_text("a file where the directory was")


BROKEN: dict[str, Break] = {
    "tenants_unavailable": tenants_gone,
    "tenants_unavailable, in silence": news_too_old,
    "policy_unavailable": artefacts_damaged,
    "ledger_ahead": ledger_ahead,
    "log_closed": writer_stopped,
    "unsafe_secret": day_key_unsafe,
    "bad_key": day_key_broken,
    "keystore_unavailable": keystore_missing,
}


async def run(tmp_path: Path, test: Callable[[Client], Any], engine: Engine | None = None) -> None:
    settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
    async with asyncio.timeout(30), run_realm(settings, ServedEngine(engine or EchoEngine(), (ECHO_MODEL,))) as realm:
        await test(Client(realm, await asyncio.to_thread(application, realm)))


async def agrees(client: Client, code: str) -> None:
    """Both say 503, the code, and the same time to ask again; and go on saying so."""
    told = await client.until(is_ready=False)
    assert (told.status, told.code) == (503, code)
    assert told.retry_after is not None
    assert [await client.chat(), await client.ready()] == [told, told]


async def test_a_realm_that_answers_is_ready(tmp_path: Path) -> None:
    """Before its first answer, and after."""

    async def test(client: Client) -> None:
        assert [(await ask()).status for ask in (client.ready, client.chat, client.ready)] == [200, 200, 200]

    await run(tmp_path, test)


@pytest.mark.parametrize("reason", BROKEN)
async def test_what_stops_every_request_is_said_on_readyz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Nobody need have asked for an answer, or been refused one, before."""

    async def test(client: Client) -> None:
        await asyncio.to_thread(BROKEN[reason], client.realm, monkeypatch)
        await agrees(client, reason.partition(",")[0])

    await run(tmp_path, test)


async def test_a_clock_that_is_wrong_is_said_on_readyz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the very answer of the clock, and gone with it."""
    step_ms = 0
    monkeypatch.setattr(opening, "Clock", partial(Clock, wall_ms=lambda: now_ms() + step_ms))

    async def test(client: Client) -> None:
        nonlocal step_ms
        assert (await client.ready()).status == 200
        step_ms = -400 * 86_400_000
        await agrees(client, "clock_wrong")
        step_ms = 0
        await client.until(is_ready=True)
        assert (await client.chat()).status == 200

    await run(tmp_path, test)


async def test_a_log_that_failed_is_ready_again_when_it_can_be_written(tmp_path: Path) -> None:
    """A request finds out that its file is gone; that it is back is found out without one."""

    async def test(client: Client) -> None:
        segment = Home(client.realm.settings.home).receipts / "segment"
        await asyncio.to_thread(segment.rename, segment.with_name("away"))
        assert (await client.chat()).code == "log_unavailable"
        await agrees(client, "log_unavailable")
        await asyncio.to_thread(segment.with_name("away").rename, segment)
        await client.until(is_ready=True)
        assert (await client.chat()).status == 200

    await run(tmp_path, test)


async def test_an_engine_that_does_not_come_is_said_on_readyz(tmp_path: Path) -> None:
    """Nobody new waits for one that is being started: requests hear at once what is said on /readyz, and no seal is
    shown that is around nothing."""

    def no_engine(*words: object) -> NoReturn:
        pytest.fail("no process was started")

    info = EchoEngine().info
    seal = SealOptions(command=("none",), socket_dir=tmp_path, read_paths=())
    lost = Pool([ReplicaOptions(seal=seal, socket_path="none", make_engine=no_engine, info=info)])

    async def test(client: Client) -> None:
        await agrees(client, "engine_starting")
        with pytest.raises(Unavailable):
            client.realm.seal()

    await run(tmp_path, test, lost)


async def test_one_tenants_unsafe_day_key_is_its_own_trouble(tmp_path: Path) -> None:
    """503 for that tenant, since nothing is wrong with what it asks; others are answered, so the realm is ready."""

    async def test(client: Client) -> None:
        other = replace(local_tenant(1), id="other", name="Other")
        made = AuditEvent(new_id("audit_log-"), 1, "project.created", "test")
        await asyncio.to_thread(client.realm.store.put_tenant, other, made)
        await asyncio.to_thread(client.realm.take_up_news)
        await asyncio.to_thread(day_key_file, client.realm, 0o644, bytes(32))
        told = await client.chat()
        assert (told.status, told.code) == (503, "unsafe_secret")
        await asyncio.sleep(2 * NEWS_EVERY_S)
        assert (await client.ready()).status == 200

    await run(tmp_path, test)
