"""One gateway with everything it needs, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from allod.app.home import Home, now_ms
from allod.core.errors import Denied
from allod.core.statements import SitePart, check_statement
from allod.core.whole_files import write_whole
from allod.govern.keys import KeyRing, Tenant, read_or_make_key
from allod.prove.daykeys import DayKeys
from allod.prove.log import Log, bundle_for, open_log
from allod.prove.trust import trust_text
from allod.prove.writer import LogWriter
from allod.seal.evidence import describe, proof_of
from allod.serve.admission import Admission
from allod.serve.engine import Engine
from allod.serve.gateway import Gateway, ServedModel
from allod.serve.recorder import Recorder
from allod.serve.replica import Replica
from allod.settings import Settings

LOCAL_TENANT = "local"


class Realm:
    """One gateway with everything it needs, while it runs. Made by `run_realm`."""

    def __init__(self, settings: Settings, *, gateway: Gateway, log: Log, day_keys: DayKeys, trust: str) -> None:
        self.settings = settings
        self.gateway = gateway
        self.trust = trust
        self._log = log
        self._day_keys = day_keys

    def bundle(self, receipt_id: str, tenant: str) -> bytes:
        """A receipt's bundle, opened for the tenant whose answer it is. Raises Invalid (`no_such_receipt`)."""
        predicate = check_statement(self._log.statement(receipt_id)).predicate
        try:
            salt = self._day_keys.opening_salt(tenant, predicate)
        except Denied:  # another's receipt, or an erased one: it still verifies, closed
            salt = None
        return bundle_for(self._log, receipt_id, salt)

    def log_file(self, name: str) -> bytes:
        """A part of the log as C2SP tlog-tiles names it."""
        return self._log.resource(name)

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, unless an answer could be given now."""
        engine = self.gateway.engine
        if isinstance(engine, Replica):
            engine.check_ready()

    def seal(self) -> dict[str, Any]:
        """The engine's perimeter as the kernel shows it now; no rows where there is no process to look at."""
        engine, info = self.gateway.engine, self.gateway.engine.info
        if not isinstance(engine, Replica) or engine.process is None:
            described: dict[str, Any] = {"kind": info.seal, "proof": info.seal_proof, "missing": [], "rows": []}
            return {**described, "evidence": None, "engine": {"name": info.name, "pid": None, "started_ms": None}}
        process = engine.process
        evidence = process.evidence()
        return {
            "kind": process.kind,
            "proof": proof_of(evidence),
            "missing": [f"{part}: {reason}" for part, reason in process.missing.items()],
            "rows": describe(evidence),
            "evidence": engine.evidence,
            "engine": {"name": info.name, "pid": process.pid, "started_ms": engine.started_ms},
        }


@asynccontextmanager
async def run_realm(settings: Settings, engine: Engine, model: ServedModel) -> AsyncGenerator[Realm, None]:
    """Open the log and put the gateway in front of a running engine; close it all on the way out."""
    home = Home(settings.home)
    api_key = await asyncio.to_thread(read_or_make_key, home.local_key)
    signing_key = await asyncio.to_thread(home.signing_key, settings.origin)
    trust = trust_text(signing_key.verifier)
    await asyncio.to_thread(write_whole, home.trust, trust)
    log = await asyncio.to_thread(open_log, home.receipts, signing_key)
    loop = asyncio.get_running_loop()
    writer = LogWriter(log, lambda batch: _deliver_in(loop, batch))
    day_keys = DayKeys(home.day_keys)
    recorder = Recorder(
        writer=writer,
        day_keys=day_keys,
        engine=engine,
        model_name=model.name,
        site=SitePart(settings.realm.site, settings.realm.jurisdiction),
        now_ms=now_ms,
    )
    gateway = Gateway(
        model=model,
        keys=KeyRing({api_key: Tenant(LOCAL_TENANT)}),
        engine=engine,
        admission=Admission(num_running=2 * engine.info.slots, num_waiting=settings.server.num_waiting),
        recorder=recorder,
    )
    try:
        yield Realm(settings, gateway=gateway, log=log, day_keys=day_keys, trust=trust)
    finally:
        await asyncio.to_thread(writer.close)
        await asyncio.to_thread(log.close)


def _deliver_in(loop: asyncio.AbstractEventLoop, batch: list[tuple[Callable[[Any], None], Any]]) -> None:
    """From the writer's thread into the event loop, once for the whole batch."""

    def settle() -> None:
        for done, outcome in batch:
            done(outcome)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
