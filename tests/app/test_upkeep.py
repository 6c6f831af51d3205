"""The upkeep: what changes is taken up while the gateway runs, and what fails keeps everybody out until it works."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.govern.test_ledger import RECEIPT
from tests.serve.conftest import until

from allod.app.artefacts.policies import open_policies
from allod.app.gateway import upkeep as upkeep_module
from allod.app.gateway.meter import Meter
from allod.app.gateway.open_realm import OpenRealm, open_realm
from allod.app.gateway.upkeep import Upkeep
from allod.app.home import Home, load_settings
from allod.core.errors import AllodError, Denied, Unavailable
from allod.core.statements.receipt import statement_bytes
from allod.core.times import now_ms
from allod.govern.metering.quotas import Cost, NeedsLease, Quotas, Reservation
from allod.govern.policy.decision import default_text
from allod.govern.policy.request import Model, PolicySite
from allod.govern.tenancy.keys import Caller, KeyRing
from allod.govern.tenancy.store import Position, TenantStore
from allod.govern.tenancy.tenants import (
    LOCAL,
    ORGANIZATION_MICROS,
    AuditEvent,
    Budget,
    Key,
    Quota,
    Tenant,
    new_api_key,
    new_id,
    organization,
)
from allod.prove.tlog.log import Entry
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.settings.tree import Settings

GONE = Unavailable("the tenants' database is gone", code="tenants_unavailable")
NOT_THE_LOCAL = (
    default_text()
    + '\n@id("not-local")\n@reason("Closed.")\nforbid (principal in Tenant::"local", action, resource);\n'
)


class Fragile:
    """Stands before `part`; while there is a `fault`, whatever is asked of it raises that."""

    def __init__(self, part: object) -> None:
        self._part = part
        self.fault: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.fault is not None:
                raise self.fault
            return getattr(self._part, name)(*arguments, **named)

        return call


class Counting:
    """A meter that charges nothing: it counts, and waits or fails as it is told. It is for one thread at a time."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.num_overlapping = 0
        self._one = threading.Lock()
        self.leave = threading.Event()
        self.leave.set()
        self.fault: Exception | None = None

    def catch_up(self) -> int:
        self.num_asked += 1
        if not self._one.acquire(blocking=False):
            self.num_overlapping += 1
            return 0
        try:
            assert self.leave.wait(15)  # longer than anybody waits for it
            if self.fault is not None:
                raise self.fault
        finally:
            self._one.release()
        return 0


@dataclass(frozen=True)
class Kept:
    """A realm under upkeep. `opened` is what lies behind: it does not fail when `store` does."""

    settings: Settings
    opened: OpenRealm
    store: Fragile
    keys: KeyRing
    controls: Controls
    allowance: Allowance
    upkeep: Upkeep

    def event(self) -> AuditEvent:
        return AuditEvent(new_id("audit_log-"), 1, "api_key.updated", "test")

    def new_key(self, **changes: Any) -> tuple[str, Key]:
        """A key that was put in the store by another process."""
        secret, digest, hint = new_api_key("allod-")
        key = replace(Key(new_id("key_"), LOCAL, "k", digest, hint, now_ms()), **changes)
        self.opened.store.put_key(key, self.event())
        return secret, key

    def caller(self) -> Caller:
        return self.keys.caller_of(Home(self.settings.home).local_key.read_text().strip(), now_ms())

    def opens(self, secret: str) -> bool:
        try:
            self.keys.caller_of(secret, now_ms())
        except (Denied, Unavailable):
            return False
        return True

    def fault(self) -> str | None:
        """The code of what is wrong with a control now."""
        try:
            self.controls.check()
        except Unavailable as error:
            return error.code
        return None

    def write_receipts(self, num: int) -> None:
        entries = [replace(RECEIPT, id=f"r{number}", start_ms=now_ms(), end_ms=now_ms()) for number in range(num)]
        self.opened.log.append([Entry(statement_bytes(one), one.id) for one in entries])

    def wait_until_charged(self, num: int) -> None:
        """Ten seconds at most."""
        for _ in range(2_000):
            if self.num_charged() == num:
                return
            time.sleep(0.005)
        raise AssertionError(f"{self.num_charged()} are charged")

    def num_charged(self) -> int:
        return (self.opened.store.position(self.settings.origin) or Position(0, 0)).num_entries


Keep = Callable[..., Any]


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """`async with keep(...)`: a realm whose upkeep has not started, parts of it exchanged; all closed at the end."""
    for name in ("NEWS_EVERY_S", "CHARGE_EVERY_S", "TIDY_EVERY_S"):
        monkeypatch.setattr(upkeep_module, name, 0.01)

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Kept]:
        settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
        opened = await asyncio.to_thread(open_realm, settings)
        store = Fragile(opened.store)
        seen = replace(opened, store=cast(TenantStore, store), **changes)
        keys = KeyRing(opened.nation)
        controls = Controls(
            policy=opened.policy,
            nation=opened.nation,
            models=[Model("m", opened.nation.lowest)],
            site=lambda model: PolicySite("local", "ZZ", opened.tier, "none"),
        )
        allowance = Allowance(seen.quotas, {})
        upkeep = Upkeep(seen, keys=keys, controls=controls, allowance=allowance)
        try:
            async with asyncio.timeout(20):
                yield Kept(settings, opened, store, keys, controls, allowance, upkeep)
        finally:
            await asyncio.to_thread(opened.resources.close)

    return make


@asynccontextmanager
async def running(kept: Kept) -> AsyncIterator[None]:
    await kept.upkeep.start()
    try:
        yield
    finally:
        await kept.upkeep.stop()


async def fails_and_recovers(kept: Kept, part: Any, fault: Exception, code: str) -> None:
    """While the part fails nothing is decided, and when it works again everything is."""
    part.fault = fault
    await until(lambda: kept.fault() == code)
    with pytest.raises(Unavailable):
        kept.controls.decide(await asyncio.to_thread(kept.caller), "chat", kept.opened.nation.lowest, "m")
    part.fault = None
    await until(lambda: kept.fault() is None)


# The start


async def test_keys_are_known_when_it_has_started(keep: Keep) -> None:
    """The first request may come at once."""
    async with keep() as kept:
        with pytest.raises(Unavailable):
            await asyncio.to_thread(kept.caller)
        async with running(kept):
            assert (await asyncio.to_thread(kept.caller)).tenant.id == LOCAL


async def test_it_does_not_start_without_its_store(keep: Keep) -> None:
    """And leaves nothing running that would have to be stopped."""
    async with keep() as kept:
        before = asyncio.all_tasks()
        kept.store.fault = GONE
        with pytest.raises(Unavailable) as caught:
            await kept.upkeep.start()
        assert caught.value is GONE
        assert asyncio.all_tasks() == before


# News


async def test_keys_come_and_go_while_it_runs(keep: Keep) -> None:
    """Made by another process, used, revoked there, and of no use any more."""
    async with keep() as kept, running(kept):
        secret, key = await asyncio.to_thread(kept.new_key)
        await until(lambda: kept.opens(secret))
        await asyncio.to_thread(kept.opened.store.put_key, replace(key, revoked_ms=5), kept.event())
        await until(lambda: not kept.opens(secret))


async def test_what_all_may_spend_is_taken_up_and_dropped(keep: Keep) -> None:
    """It is there before the first request, changes with the setting, and an empty word is no limit."""
    async with keep() as kept:
        await asyncio.to_thread(kept.opened.store.put_setting, ORGANIZATION_MICROS, "5000", kept.event())
        async with running(kept):
            assert kept.allowance.organization == organization("5000")
            await asyncio.to_thread(kept.opened.store.put_setting, ORGANIZATION_MICROS, "7", kept.event())
            await until(lambda: kept.allowance.organization == organization("7"))
            await asyncio.to_thread(kept.opened.store.put_setting, ORGANIZATION_MICROS, "", kept.event())
            await until(lambda: kept.allowance.organization is None)


async def test_a_new_policy_is_taken_up(keep: Keep) -> None:
    """Set by another process, it decides the next requests; the answer names it."""
    async with keep() as kept, running(kept):
        caller = await asyncio.to_thread(kept.caller)
        assert kept.controls.decide(caller, "chat", kept.opened.nation.lowest, "m").permitted
        other = await asyncio.to_thread(open_policies, kept.settings)
        logged = await asyncio.to_thread(lambda: other.set(NOT_THE_LOCAL, who="test", now_ms=now_ms(), even_so=True))
        assert logged is not None
        await until(lambda: kept.controls.policy.digest == logged.version.digest)
        decision = kept.controls.decide(caller, "chat", kept.opened.nation.lowest, "m")
        assert (decision.permitted, decision.rules) == (False, ("not-local",))


# Faults


@pytest.mark.parametrize(
    ("fault", "code"),
    [(GONE, "tenants_unavailable"), (ValueError("a bug"), "internal"), (OSError(5, "Input/output error"), "internal")],
    ids=["ours", "a bug", "the system's"],
)
async def test_a_store_that_fails_keeps_everybody_out(keep: Keep, fault: Exception, code: str) -> None:
    """With the reason; and whatever it was that failed, the watch goes on, time after time."""
    async with keep() as kept, running(kept):
        for _ in range(2):
            await fails_and_recovers(kept, kept.store, fault, code)
        secret, _ = await asyncio.to_thread(kept.new_key)
        await until(lambda: kept.opens(secret))


async def test_a_ledger_that_fails_keeps_everybody_out(keep: Keep) -> None:
    """What was used cannot be counted, so nobody may use more."""
    meter = Counting()
    async with keep(meter=cast(Meter, meter)) as kept, running(kept):
        await fails_and_recovers(kept, meter, Unavailable("behind", code="ledger_ahead"), "ledger_ahead")


async def test_limits_that_cannot_be_kept_keep_everybody_out(keep: Keep) -> None:
    """Overruns that nobody can lease, for one."""
    quotas = Fragile(None)
    quotas.fault = GONE
    async with keep(quotas=cast(Quotas, quotas)) as kept, running(kept):
        await until(lambda: kept.fault() == "tenants_unavailable")


async def test_a_policy_that_cannot_be_relied_on_keeps_everybody_out(keep: Keep) -> None:
    """The log that says what is in force was changed: the policy of before is not used on; put back, it is."""
    async with keep() as kept, running(kept):
        segment = kept.settings.home / "logs" / "artefacts" / "segment"
        whole = await asyncio.to_thread(segment.read_bytes)
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        await asyncio.to_thread(segment.write_bytes, bytes(changed))
        await until(lambda: kept.fault() == "policy_unavailable")
        await asyncio.to_thread(segment.write_bytes, whole)
        await until(lambda: kept.fault() is None)
        caller = await asyncio.to_thread(kept.caller)
        assert kept.controls.decide(caller, "chat", kept.opened.nation.lowest, "m").permitted


async def test_a_fault_of_one_is_not_ended_by_another(keep: Keep) -> None:
    """Keys and policy are current all the while, and the ledger is not."""
    meter = Counting()
    meter.fault = Unavailable("behind", code="ledger_ahead")
    async with keep(meter=cast(Meter, meter)) as kept, running(kept):
        await until(lambda: kept.fault() is not None)
        num_asked = meter.num_asked
        await until(lambda: meter.num_asked > num_asked + 5)
        assert kept.fault() == "ledger_ahead"


async def test_a_slow_ledger_does_not_hold_up_the_keys(keep: Keep) -> None:
    """Each has a thread: a key that was made opens, and one that was revoked does not, though the ledger hangs."""
    meter = Counting()
    async with keep(meter=cast(Meter, meter)) as kept, running(kept):
        meter.leave.clear()
        num_asked = meter.num_asked
        await until(lambda: meter.num_asked > num_asked)
        secret, key = await asyncio.to_thread(kept.new_key)
        await until(lambda: kept.opens(secret))
        await asyncio.to_thread(kept.opened.store.put_key, replace(key, revoked_ms=5), kept.event())
        await until(lambda: not kept.opens(secret))
        meter.leave.set()


async def test_a_fault_and_its_end_are_a_line_each(keep: Keep, caplog: pytest.LogCaptureFixture) -> None:
    """Not one for each time that it was tried."""
    meter = Counting()
    caplog.set_level(logging.WARNING, logger="allod.app.gateway.upkeep")
    async with keep(meter=cast(Meter, meter)) as kept, running(kept):
        meter.fault = Unavailable("the disk is gone", code="log_unavailable")
        num_asked = meter.num_asked
        await until(lambda: meter.num_asked > num_asked + 5)
        meter.fault = None
        await until(lambda: kept.fault() is None)
    assert [record.getMessage() for record in caplog.records] == ["ledger: the disk is gone", "ledger: works again"]


# The ledger and the limits


async def test_what_is_durable_is_charged_while_it_runs(keep: Keep) -> None:
    """Again and again, not only at the start."""
    async with keep() as kept, running(kept):
        for number in (1, 2):
            await asyncio.to_thread(kept.write_receipts, 3)
            await asyncio.to_thread(kept.wait_until_charged, 3 * number)


async def test_limits_are_kept_tidy(keep: Keep) -> None:
    """Slices go back by themselves: by the clock of the machine, and more than once."""
    times: list[int] = []

    class Noting(Fragile):
        def tidy(self, at_ms: int) -> None:
            times.append(at_ms)

    quotas = Noting(None)
    quotas.fault = GONE  # for whatever else is asked of them
    before = now_ms()
    async with keep(quotas=cast(Quotas, quotas)) as kept, running(kept):
        await until(lambda: len(times) > 2)
    assert all(before <= time <= now_ms() for time in times)


# The end


async def test_at_the_end_what_is_left_is_charged(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its time had not come."""
    monkeypatch.setattr(upkeep_module, "CHARGE_EVERY_S", 3600)
    async with keep() as kept:
        async with running(kept):
            await asyncio.to_thread(kept.write_receipts, 4)
            await asyncio.sleep(0.05)
            assert await asyncio.to_thread(kept.num_charged) == 0
        assert await asyncio.to_thread(kept.num_charged) == 4


async def test_at_the_end_what_was_leased_is_given_back(keep: Keep) -> None:
    """Another gateway can have all of the limit that was not used."""
    limited = Tenant("b", "B", 1, quota=Quota(tokens_per_minute=1000), budgets=(Budget("month", micros=1000),))

    def take(quotas: Quotas, at_ms: int) -> Reservation:
        for _ in range(3):
            found = quotas.reserve(limited, model="m", tokens=1000, now_ms=at_ms, cost=Cost(1, None, 1000))
            if not isinstance(found, NeedsLease):
                return found
            quotas.lease(found)
        raise AssertionError("nothing was leased")

    at_ms = now_ms() + 120_000  # a minute that does not end meanwhile
    async with keep() as kept:
        async with running(kept):
            quotas = kept.opened.quotas
            quotas.release(await asyncio.to_thread(take, quotas, at_ms))
            other = Quotas(kept.opened.store, gateway="other")
            with pytest.raises(AllodError):
                await asyncio.to_thread(take, other, at_ms)
        await asyncio.to_thread(take, Quotas(kept.opened.store, gateway="third"), at_ms)


async def test_it_stops_though_nothing_works(keep: Keep) -> None:
    """What cannot be charged or given back now is at the next start: the end is not held up by it."""
    meter, quotas = Counting(), Fragile(None)
    async with keep(meter=cast(Meter, meter), quotas=cast(Quotas, quotas)) as kept:
        quotas.fault = GONE
        async with running(kept):
            kept.store.fault = meter.fault = GONE
            await until(lambda: kept.fault() is not None)


async def test_when_it_has_stopped_nothing_runs_on(keep: Keep) -> None:
    """What was under way is waited for, and nothing is asked of what will be closed."""
    meter = Counting()
    async with keep(meter=cast(Meter, meter)) as kept:
        before = asyncio.all_tasks()
        await kept.upkeep.start()
        meter.leave.clear()
        num_asked = meter.num_asked
        await until(lambda: meter.num_asked > num_asked)
        stopping = asyncio.create_task(kept.upkeep.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        meter.leave.set()
        await stopping
        assert asyncio.all_tasks() == before
        num_asked = meter.num_asked
        await asyncio.sleep(0.05)
        assert (meter.num_asked, meter.num_overlapping) == (num_asked, 0)


async def test_it_stops_at_once(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it would be until the next time."""
    for name in ("NEWS_EVERY_S", "CHARGE_EVERY_S", "TIDY_EVERY_S"):
        monkeypatch.setattr(upkeep_module, name, 3600)
    async with keep() as kept, running(kept):
        await asyncio.sleep(0.02)
