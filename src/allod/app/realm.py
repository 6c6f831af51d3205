"""One gateway with everything it needs, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from allod import settings as settings_module
from allod.app.home import Home, now_ms
from allod.app.meter import DayNames, Meter
from allod.app.policies import Policies
from allod.app.receipts import ReceiptReader
from allod.app.shares import Shares
from allod.app.tenants import open_store
from allod.app.upkeep import Upkeep
from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.nations import Nation
from allod.core.statements import SitePart, check_statement
from allod.core.whole_files import write_whole
from allod.govern.keys import KeyRing
from allod.govern.ledger import Ledger
from allod.govern.policy_asked import Model, Site
from allod.govern.quotas import Quotas
from allod.govern.store import TenantStore
from allod.prove.artefacts import LoggedVersion
from allod.prove.daykeys import DayKeys
from allod.prove.log import Log, bundle_for, open_log
from allod.prove.trust import trust_text
from allod.prove.writer import LogWriter
from allod.seal.evidence import describe, proof_of
from allod.serve.admission import Admission
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.serve.engine import Engine
from allod.serve.gateway import Gateway, ServedModel
from allod.serve.recorder import Recorder
from allod.serve.replica import Replica
from allod.settings import Settings


class Realm:
    """One gateway with everything it needs, while it runs. Made by `run_realm`."""

    def __init__(
        self,
        settings: Settings,
        *,
        gateway: Gateway,
        log: Log,
        day_keys: DayKeys,
        trust: str,
        store: TenantStore,
        policies: Policies,
        models: tuple[Model, ...] = (),
    ) -> None:
        self.settings = settings
        self.gateway = gateway
        self.trust = trust
        self.store = store
        self.policies = policies
        self.models = models
        self.shares = Shares(store, model=gateway.model.name)
        self.receipts = ReceiptReader(log, find=day_keys.find, tenant_of=DayNames(day_keys, store).tenant_of)
        self._log = log
        self._day_keys = day_keys
        self._history = Policies(settings.home, gateway.controls.nation, realm=settings.realm.name)

    def bundle(self, receipt_id: str, tenant: str | None) -> bytes:
        """A receipt's bundle, opened for the tenant whose answer it is. Raises Invalid (`no_such_receipt`)."""
        predicate = check_statement(self._log.statement(receipt_id)).predicate
        try:
            salt = self._day_keys.opening_salt(tenant, predicate) if tenant is not None else None
        except Denied:  # another's receipt, or an erased one: it still verifies, closed
            salt = None
        return bundle_for(self._log, receipt_id, salt)

    def log_file(self, name: str) -> bytes:
        """A part of the log as C2SP tlog-tiles names it."""
        return self._log.resource(name)

    def policy_versions(self) -> tuple[LoggedVersion, ...]:
        """Every policy that was in force, oldest first. For one thread at a time.

        Raises Unavailable (`policy_unavailable`) where the log that says so cannot be relied on.
        """
        try:
            return self._history.history().versions
        except (Invalid, OSError) as error:
            reason = error.message if isinstance(error, Invalid) else str(error)
            raise Unavailable(f"no policy can be relied on: {reason}", code="policy_unavailable") from error

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, unless an answer could be given now."""
        self.gateway.controls.check()
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
    """Put the gateway in front of a running engine, with everything it needs; close it all on the way out."""
    async with AsyncExitStack() as stack:
        home = Home(settings.home)
        nation = await asyncio.to_thread(settings_module.load_nation, settings.realm.nation, home=settings.home)
        tier = nation.tier(settings.realm.tier) if settings.realm.tier else nation.tiers[0]
        store = await asyncio.to_thread(open_store, settings)
        stack.push_async_callback(asyncio.to_thread, store.close)
        policies = Policies(settings.home, nation, realm=settings.realm.name)
        await asyncio.to_thread(policies.set_default, now_ms=now_ms())

        signing_key = await asyncio.to_thread(home.signing_key, settings.origin)
        policy_key = await asyncio.to_thread(policies.key)
        trust = trust_text(signing_key.verifier, policy_key.verifier)
        await asyncio.to_thread(write_whole, home.trust, trust)
        log = await asyncio.to_thread(open_log, home.receipts, signing_key)
        stack.push_async_callback(asyncio.to_thread, log.close)
        loop = asyncio.get_running_loop()
        writer = LogWriter(log, lambda batch: _deliver_in(loop, batch))
        stack.push_async_callback(asyncio.to_thread, writer.close)
        day_keys = DayKeys(home.day_keys)
        meter = Meter(log, Ledger(store, settings.origin, DayNames(day_keys, store)))
        await asyncio.to_thread(meter.catch_up)  # before requests come in: limits count what was charged before

        keys = KeyRing(nation)
        quotas = Quotas(store, gateway=settings.origin)
        if not settings.tenants.database:  # no other gateway holds slices of it
            await asyncio.to_thread(lambda: quotas.reclaim(store.changes_since(0).tenants, now_ms()))
        controls = Controls(
            policy=await asyncio.to_thread(policies.current),
            nation=nation,
            model=Model(
                name=model.name,
                label=nation.lowest,
                licence=model.licence,
                country=model.country,
                informative=model.informative,
            ),
            site=lambda: Site(settings.realm.site, settings.realm.jurisdiction, tier, engine.info.seal),
        )
        recorder = Recorder(
            writer=writer,
            day_keys=day_keys,
            engine=engine,
            model_name=model.name,
            site=SitePart(settings.realm.site, settings.realm.jurisdiction),
            prices=settings.prices,
            now_ms=now_ms,
        )
        gateway = Gateway(
            model=model,
            keys=keys,
            controls=controls,
            allowance=Allowance(quotas, settings.prices, context_tokens=lambda: engine.info.context_tokens),
            engine=engine,
            admission=Admission(
                num_running=engine.info.slots,
                num_waiting=settings.server.num_waiting,
                max_wait_s=settings.tenants.max_wait_s,
            ),
            recorder=recorder,
            salt_secret=await asyncio.to_thread(home.salt_secret),
        )
        upkeep = Upkeep(store=store, keys=keys, policies=policies, quotas=quotas, meter=meter, controls=controls)
        await upkeep.start()
        stack.push_async_callback(upkeep.stop)
        yield Realm(
            settings,
            gateway=gateway,
            log=log,
            day_keys=day_keys,
            trust=trust,
            store=store,
            policies=policies,
            models=await asyncio.to_thread(_known_models, nation),
        )


def _known_models(nation: Nation) -> tuple[Model, ...]:
    """Those of the catalogue, as a policy is told of them."""
    return tuple(
        Model(entry.name, nation.lowest, entry.licence, entry.country, entry.informative)
        for entry in settings_module.load_catalogue()
    )


def _deliver_in(loop: asyncio.AbstractEventLoop, batch: list[tuple[Callable[[Any], None], Any]]) -> None:
    """From the writer's thread into the event loop, once for the whole batch."""

    def settle() -> None:
        for done, outcome in batch:
            done(outcome)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
