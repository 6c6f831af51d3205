"""One gateway with everything it needs, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.policies import Policies
from allod.app.gateway.meter import DayNames
from allod.app.gateway.open_realm import OpenRealm, open_realm
from allod.app.gateway.receipts import ReceiptReader
from allod.app.gateway.shares import Shares
from allod.app.gateway.upkeep import Upkeep
from allod.app.gateway.weights import catalogue_models, describe_model
from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.nations.nation import Nation
from allod.core.statements.receipt import check_statement
from allod.engine.engine import Engine, Perimeter
from allod.govern.policy.request import Model
from allod.govern.tenancy.keys import KeyRing
from allod.prove.policy_history import LoggedVersion
from allod.prove.receipts.from_log import bundle_for
from allod.prove.tlog.writer import LogWriter
from allod.seal.evidence import describe
from allod.serve.admission import Admission
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.serve.gateway import Gateway
from allod.serve.recorder import Recorder, deliver_in
from allod.serve.router import Candidate, Router, sites_of
from allod.serve.schemas.judge import Judge
from allod.serve.served_model import ServedModel
from allod.settings.tree import Settings


class Realm:
    """One gateway with everything it needs, while it runs. Made by `run_realm`."""

    def __init__(
        self, settings: Settings, opened: OpenRealm, *, gateway: Gateway, upkeep: Upkeep, models: tuple[Model, ...]
    ) -> None:
        self.settings = settings
        self.gateway = gateway
        self.models = models
        self.take_up_news = upkeep.take_up_news
        self.trust = opened.trust
        self.store = opened.store
        self.policies = opened.policies
        self.meter = opened.meter
        self.check_clock = opened.clock.now_ms
        self.shares = Shares(opened.store, models=list(gateway.router.models))
        names = DayNames(opened.day_keys, opened.store)
        self.receipts = ReceiptReader(opened.log, find=opened.day_keys.find, tenant_of=names.tenant_of)
        self._log = opened.log
        self._day_keys = opened.day_keys
        self._history = Policies(ArtefactsLog(settings), opened.nation)

    def bundle(self, receipt_id: str, tenant: str | None) -> bytes:
        """A receipt's bundle, opened for the tenant whose answer it is.

        Raises Invalid (`no_such_receipt`), Unavailable (`receipt_unreadable`) for an entry that no reader would take,
        and what `bundle_for` raises.
        """
        statement = self._log.statement(receipt_id)
        try:
            predicate = check_statement(statement).predicate
        except Invalid as error:
            raise Unavailable(
                f"the receipt {receipt_id} is in the log and cannot be read: {error.message}",
                code="receipt_unreadable",
                hint="allod log fsck names every such entry",
            ) from error
        try:
            salt = self._day_keys.salt_of_opening(tenant, predicate) if tenant is not None else None
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

    def seal(self, model: str | None = None) -> dict[str, Any]:
        """The perimeters of a model's engine as the kernel shows them now, one for each replica that is up, and the
        first of them once more for itself; no rows for one that is no process.

        Without `model` it is the first model's. Raises Unavailable while there is none to look at, and Invalid
        (`model_not_found`).
        """
        router = self.gateway.router
        if model is not None and model not in router.models:
            raise Invalid(f"the model {model!r} is not served here", code="model_not_found", param="model")
        engine = (router.first if model is None else router.route(model)).engine
        found = [_describe_perimeter(seen, engine.info.name) for seen in engine.evidence()]
        return {**found[0], "replicas": found}


def _describe_perimeter(seen: Perimeter, name: str) -> dict[str, Any]:
    return {
        "kind": seen.kind,
        "proof": seen.proof,
        "missing": list(seen.missing),
        "rows": [] if seen.found is None else describe(seen.found),
        "evidence": seen.at_start,
        "engine": {"name": name, "pid": seen.pid, "started_ms": seen.started_ms},
    }


class ServedEngine(NamedTuple):
    """An engine and what is served from it: a model, then the adapters that the engine holds over it."""

    engine: Engine
    models: tuple[ServedModel, ...]


@asynccontextmanager
async def run_realm(settings: Settings, *served: ServedEngine) -> AsyncGenerator[Realm, None]:
    """Put the gateway in front of running engines, with everything it needs; close it all on the way out."""
    opened = await asyncio.to_thread(open_realm, settings)
    writer = LogWriter(opened.log, partial(deliver_in, asyncio.get_running_loop()))
    try:
        gateway = _gateway(settings, opened, writer, served)
        upkeep = Upkeep(opened, keys=gateway.keys, controls=gateway.controls, allowance=gateway.allowance)
        await upkeep.start()
        try:
            models = await asyncio.to_thread(catalogue_models, opened.nation)
            for serving in served:
                await asyncio.to_thread(serving.engine.keep_evidence)  # only now: a start that is refused keeps nothing
            yield Realm(settings, opened, gateway=gateway, upkeep=upkeep, models=tuple(models.values()))
        finally:
            await upkeep.stop()
            await gateway.judge.close()
    finally:
        await asyncio.to_thread(writer.close)
        await asyncio.to_thread(opened.resources.close)


def _gateway(settings: Settings, opened: OpenRealm, writer: LogWriter, served: Sequence[ServedEngine]) -> Gateway:
    router = Router([_candidate(settings, serving) for serving in served])
    prices = {name: settings.prices.prices_of(name, model.base) for name, model in router.models.items()}
    return Gateway(
        router=router,
        keys=KeyRing(opened.nation),
        controls=Controls(
            policy=opened.policy,
            nation=opened.nation,
            models=[model for serving in served for model in _describe_all(serving.models, opened.nation)],
            site=sites_of(router, opened.tier, here=settings.realm.site, lowest=opened.nation.tiers[0]),
        ),
        allowance=Allowance(opened.quotas, prices),
        recorder=Recorder(writer=writer, day_keys=opened.day_keys, clock=opened.clock),
        salt_secret=opened.salt_secret,
        judge=Judge(),
    )


def _candidate(settings: Settings, serving: ServedEngine) -> Candidate:
    """Each engine has turns of its own: who waits for one keeps nobody from another."""
    admission = Admission(
        num_running=serving.engine.info.slots,
        num_waiting=settings.server.num_waiting,
        max_wait_s=settings.tenants.max_wait_s,
    )
    serving.engine.watch_slots(admission.resize)
    return Candidate(serving.engine, serving.models, admission)


def _describe_all(models: tuple[ServedModel, ...], nation: Nation) -> Iterator[Model]:
    """As a policy is told of them: an adapter is made from its model, too, and has both labels."""
    model, *adapters = (describe_model(served, nation) for served in models)
    yield model
    yield from (replace(adapter, label=adapter.label.join(model.label)) for adapter in adapters)
