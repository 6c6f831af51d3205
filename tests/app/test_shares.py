"""Who shares the engines: the busy first, and what was used of each limit, from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from allod.app.gateway.shares import MONTH_KEPT_MS, EngineQueue, Limit, Shares, SharesPage
from allod.core.times import DAY_MS
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.store import Position
from allod.govern.tenancy.tenants import ORGANIZATION_MICROS, AuditEvent, Budget, Charge, Quota, Tenant, new_id
from allod.serve.fair_scheduler import QueueSnapshot

NOW_MS = 1_795_348_830_000  # 2026-11-22 12:00:30 UTC
MINUTE_END_MS, DAY_END_MS, MONTH_END_MS = NOW_MS + 30_000, 1_795_392_000_000, 1_796_083_200_000


class Office:
    """A store with tenants in it, and the shares that are read from it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.shares = Shares(self.store, models=["m"])
        self.num_charged = 0

    def event(self) -> AuditEvent:
        return AuditEvent(new_id("audit_log-"), NOW_MS, "project.updated", "test")

    def tenant(self, name: str, **terms: Any) -> None:
        self.store.put_tenant(Tenant(id=name, name=name, created_ms=0, **terms), self.event())

    def charge(self, tenant: str, tokens: int, *, at_ms: int = NOW_MS, model: str = "m", **more: Any) -> None:
        self.num_charged += 1
        charge = Charge(
            f"r{self.num_charged}", tenant, "k", model, at_ms, "permit", "stop", prompt_tokens=tokens, **more
        )
        self.store.charge("log", Position(self.num_charged, self.num_charged), [charge])

    def read(self, *snapshots: QueueSnapshot, limit: int = 100, now_ms: int = NOW_MS) -> SharesPage:
        return self.read_all((4, snapshots), limit=limit, now_ms=now_ms)

    def read_all(self, *engines: EngineQueue, limit: int = 100, now_ms: int = NOW_MS) -> SharesPage:
        return self.shares.read(engines, limit=limit, now_ms=now_ms)

    def limits(self, now_ms: int = NOW_MS, snapshots: Sequence[QueueSnapshot] = ()) -> list[Limit]:
        """Of the only tenant."""
        (only,) = self.read(*snapshots, now_ms=now_ms).tenants
        return list(only.limits)


@pytest.fixture
def office() -> Office:
    return Office()


def snapshot(tenant: str, *, running: int = 0, waiting: int = 0, priority: int = 0) -> QueueSnapshot:
    return QueueSnapshot(tenant, priority, 1, num_waiting=waiting, num_running=running, service=5, share=0.25)


def test_the_busy_come_first_then_who_used_most_today(office: Office) -> None:
    """And then the others by their ids; what does not fit is counted."""
    for name in ("idle", "busiest", "heavy", "busy", "light"):
        office.tenant(name)
    office.charge("heavy", 50)
    office.charge("light", 5)
    office.charge("idle", 500, at_ms=NOW_MS - DAY_MS)
    snapshots = (snapshot("busy", running=1), snapshot("busiest", running=1, waiting=9))
    assert [one.tenant.id for one in office.read(*snapshots).tenants] == ["busiest", "busy", "heavy", "light", "idle"]
    few = office.read(*snapshots, limit=2)
    assert ([one.tenant.id for one in few.tenants], few.num_tenants) == (["busiest", "busy"], 5)


def test_what_is_due_adds_up_to_the_whole(office: Office) -> None:
    """Of two priorities the second gets an eighth while both want turns, and everything while it is alone."""
    for name in ("a", "b", "night"):
        office.tenant(name)
    a, b = (replace(snapshot(name, running=1), share=share) for name, share in (("a", 0.75), ("b", 0.25)))
    night = replace(snapshot("night", waiting=1, priority=1), share=1.0)
    assert {one.tenant.id: one.share for one in office.read(a, b, night).tenants} == {
        "a": 0.65625,
        "b": 0.21875,
        "night": 0.125,
    }
    assert {one.tenant.id: one.share for one in office.read(night).tenants} == {"night": 1.0, "a": 0.0, "b": 0.0}


def test_of_several_engines_what_is_due_adds_up_to_the_whole_too(office: Office) -> None:
    """Each that has work counts by its slots; whether batches wait behind others is a matter of each by itself."""
    for name in ("a", "b", "night"):
        office.tenant(name)
    everything = {name: replace(snapshot(name, running=1), share=1.0) for name in ("a", "b")}
    night = replace(snapshot("night", running=1, priority=1), share=1.0)
    idle = (8, [replace(snapshot("a"), share=0.0)])

    def due(*engines: EngineQueue) -> dict[str, float]:
        return {one.tenant.id: one.share for one in office.read_all(*engines).tenants if one.share}

    assert due((4, [everything["a"]]), (4, [everything["a"]]), idle) == {"a": 1.0}
    assert due((6, [everything["a"]]), (2, [everything["b"]])) == {"a": 0.75, "b": 0.25}
    assert due((4, [everything["a"]]), (4, [night])) == {"a": 0.5, "night": 0.5}
    assert due((4, [everything["a"], night]), (4, [everything["b"]])) == {"a": 0.4375, "night": 0.0625, "b": 0.5}


def test_changes_of_tenants_are_seen(office: Office) -> None:
    """A new one, a new name, one that is archived; and a store that was put back to what it was."""
    office.tenant("a")
    assert office.read().num_tenants == 1
    office.tenant("b")
    office.tenant("a", weight=9)
    assert [(one.tenant.id, one.tenant.weight) for one in office.read().tenants] == [("a", 9), ("b", 1)]
    office.tenant("a", archived_ms=NOW_MS)
    assert [one.tenant.id for one in office.read().tenants] == ["b"]
    vars(office.store).update(vars(MemoryStore()))
    office.tenant("c")
    assert [one.tenant.id for one in office.read().tenants] == ["c"]


def test_every_limit_is_shown_with_its_use(office: Office) -> None:
    """By the minute, the day, the month, at a time; a model's own beside the tenant's."""
    office.tenant(
        "t",
        quota=Quota(requests_per_minute=10, tokens_per_minute=100, concurrent=4),
        model_quotas={"m": Quota(tokens_per_minute=50, concurrent=3), "other": Quota(requests_per_minute=2)},
        budgets=(Budget("day", engine_ms=9_000), Budget("month", tokens=5_000, micros=700)),
    )
    office.charge("t", 30, engine_ms=1_000, micros=7)
    office.charge("t", 3, model="other")
    office.charge("t", 200, at_ms=NOW_MS - DAY_MS, micros=100)
    office.charge("t", 9_999, at_ms=NOW_MS - 40 * DAY_MS)
    office.charge("somebody", 77)
    busy = [snapshot("t", running=1, waiting=1), snapshot("t", running=1, priority=1)]
    assert office.limits(snapshots=busy) == [
        Limit("requests", "now", 4, 3),
        Limit("requests", "now", 3, 3, "m"),
        Limit("requests", "minute", 10, 2, None, MINUTE_END_MS),
        Limit("tokens", "minute", 100, 33, None, MINUTE_END_MS),
        Limit("engine_ms", "day", 9_000, 1_000, None, DAY_END_MS),
        Limit("tokens", "month", 5_000, 233, None, MONTH_END_MS),
        Limit("micros", "month", 700, 107, None, MONTH_END_MS),
        Limit("tokens", "minute", 50, 30, "m", MINUTE_END_MS),
        Limit("requests", "minute", 2, 1, "other", MINUTE_END_MS),
    ]


def test_energy_that_was_not_measured_is_not_called_nothing(office: Office) -> None:
    """None, as soon as one answer lacks its figure."""
    office.tenant("t", budgets=(Budget("day", millijoules=1_000),))
    office.charge("t", 1, millijoules=40)
    assert office.limits()[0].used == 40
    office.charge("t", 1)
    assert office.limits()[0].used is None


def test_what_all_have_in_common_counts_everybody(office: Office) -> None:
    """Also tenants that are not shown, and those that are archived by now."""
    office.store.put_setting(ORGANIZATION_MICROS, "900", office.event())
    for name in ("a", "b"):
        office.tenant(name)
        office.charge(name, 1, micros=20)
    office.charge("b", 1, at_ms=NOW_MS - DAY_MS, micros=5)
    office.tenant("b", archived_ms=NOW_MS)
    assert office.read(limit=1).common == (Limit("micros", "month", 900, 45, None, MONTH_END_MS),)
    office.store.put_setting(ORGANIZATION_MICROS, "", office.event())
    assert office.read().common == ()


def test_the_month_before_today_is_summed_once_a_minute(office: Office) -> None:
    """Today counts at once; a late charge for an earlier day within a minute; a new day begins anew."""
    office.tenant("t", budgets=(Budget("month", tokens=1_000),))
    office.charge("t", 10, at_ms=NOW_MS - DAY_MS)
    assert office.limits()[0].used == 10
    office.charge("t", 1)
    office.charge("t", 100, at_ms=NOW_MS - DAY_MS)
    assert office.limits(NOW_MS + MONTH_KEPT_MS - 1)[0].used == 11
    assert office.limits(NOW_MS + MONTH_KEPT_MS)[0].used == 111
    assert office.limits(NOW_MS + DAY_MS)[0].used == 111
    assert office.limits(NOW_MS - MONTH_KEPT_MS)[0].used == 111  # a clock that goes back


def test_a_changed_limit_is_shown_at_once(office: Office) -> None:
    """Of the tenant as it is now, not as it was when its requests came."""
    office.tenant("t", budgets=(Budget("day", tokens=10),))
    office.charge("t", 8)
    (before,) = office.limits()
    office.tenant("t", budgets=(Budget("day", tokens=20),))
    assert office.limits() == [replace(before, limit=20)]
