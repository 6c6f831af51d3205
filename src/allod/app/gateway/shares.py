"""Who shares the engines: each tenant's turns now, what it used today, and how much of its limits that is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from allod.core.times import DAY_MS
from allod.govern.metering.windows import Numbers, Unit, bounds_of, limits_of, windows_at
from allod.govern.tenancy.store import TenantStore, Totals
from allod.govern.tenancy.tenants import ORGANIZATION_MICROS, Quota, Tenant, organization
from allod.serve.fair_scheduler import BATCH_PART, QueueSnapshot

LONGEST_MS = 31 * DAY_MS
MONTH_KEPT_MS = 60_000  # so long the month before today is not summed again: late charges come in with the next time
_NOTHING = Totals()
_Used = dict[tuple[str, str | None], Totals]  # by tenant, and by model where it is said
EngineQueue = tuple[int, Sequence[QueueSnapshot]]  # an engine's slots, and who has turns or waits there


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `limit` of `unit` in a `period`, which starts anew at `resets_ms`, of which `used`; None: not measured.

    The period `now` is for requests at a time, waiting ones included. `model` is the one that it is about, or None.
    """

    unit: str
    period: str
    limit: int
    used: int | None
    model: str | None = None
    resets_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TenantShare:
    """One tenant. `share` is what is due to it of all engines' work now, `service` what it was charged for turns since
    the gateway last forgot."""

    tenant: Tenant
    share: float
    num_waiting: int
    num_running: int
    service: int
    today: Totals
    limits: tuple[Limit, ...]


class SharesPage(NamedTuple):
    """Some tenants, how many there are, and the limits that all of them have in common."""

    tenants: list[TenantShare]
    num_tenants: int
    common: tuple[Limit, ...]


class Shares:
    """Reads the store; for one thread at a time. Holds every tenant in memory, so that a reading costs what changed.

    `models` are those that are served, adapters too. What was used is what the ledger says: up to a second behind the
    last answer.
    """

    def __init__(self, store: TenantStore, *, models: Collection[str]) -> None:
        self._store = store
        self._models = models
        self._version = 0
        self._tenants: dict[str, Tenant] = {}
        self._month: tuple[int, int, _Used] = (-1, 0, {})  # (day, when it was read, what it said)

    def read(self, engines: Sequence[EngineQueue], *, limit: int, now_ms: int) -> SharesPage:
        """At most `limit` tenants: the busy ones first, then those that used most today, then the others by their ids.

        Raises Unavailable where the store cannot be asked.
        """
        self._refresh()
        numbers = windows_at(now_ms)
        queues: dict[str, list[QueueSnapshot]] = {}
        for snapshot in (each for _, snapshots in engines for each in snapshots):
            queues.setdefault(snapshot.tenant, []).append(snapshot)
        today = self._used(*bounds_of("day", numbers.day))

        def rank(tenant: Tenant) -> tuple[int, int, str]:
            used = today.get((tenant.id, None), _NOTHING)
            return -_under_way(queues.get(tenant.id, ())), -_tokens(used), tenant.id

        active = [tenant for tenant in self._tenants.values() if tenant.archived_ms is None]
        chosen = sorted(active, key=rank)[:limit]
        everybody = organization(self._store.read_setting(ORGANIZATION_MICROS))
        limited = [*chosen, *([everybody] if everybody else [])]
        has_month = any(budget.period == "month" for tenant in limited for budget in tenant.budgets)
        used = {
            "minute": self._used(*bounds_of("minute", numbers.minute), by_model=True),
            "day": today,
            "month": _sum(today, self._month_before(numbers, now_ms)) if has_month else today,
        }
        due = _due(engines)
        shown = [
            _share(tenant, queues.get(tenant.id, ()), used, numbers, self._models, due.get(tenant.id, 0.0))
            for tenant in chosen
        ]
        common = _by_time(everybody, _all_as(everybody, used), numbers) if everybody else ()
        return SharesPage(shown, len(active), tuple(common))

    def _refresh(self) -> None:
        changes = self._store.changes_since(self._version)
        if changes.is_everything:
            self._tenants.clear()
        self._tenants.update((tenant.id, tenant) for tenant in changes.tenants)
        self._version = changes.version

    def _used(self, since_ms: int, until_ms: int, *, by_model: bool = False) -> _Used:
        """Totals by tenant; `by_model` those by tenant and model as well."""
        groups = ("tenant", "model") if by_model else ("tenant",)
        found: _Used = {}
        rows = self._store.usage(since_ms=since_ms, until_ms=until_ms, bucket_ms=LONGEST_MS, group_by=groups)
        for row in rows:
            for key in {(row.tenant_id or "", None), (row.tenant_id or "", row.model)}:
                found[key] = found.get(key, _NOTHING) + row.totals
        return found

    def _month_before(self, numbers: Numbers, now_ms: int) -> _Used:
        day, read_ms, used = self._month
        if day != numbers.day or not 0 <= now_ms - read_ms < MONTH_KEPT_MS:
            used = self._used(bounds_of("month", numbers.month)[0], bounds_of("day", numbers.day)[0])
            self._month = numbers.day, now_ms, used
        return used


def _share(
    tenant: Tenant,
    queues: Sequence[QueueSnapshot],
    used: dict[str, _Used],
    numbers: Numbers,
    served: Collection[str],
    due: float,
) -> TenantShare:
    return TenantShare(
        tenant,
        share=due,
        num_waiting=sum(snapshot.num_waiting for snapshot in queues),
        num_running=sum(snapshot.num_running for snapshot in queues),
        service=sum(snapshot.service for snapshot in queues),
        today=used["day"].get((tenant.id, None), _NOTHING),
        limits=(*_at_a_time(tenant, _under_way(queues), served), *_by_time(tenant, used, numbers)),
    )


def _due(engines: Sequence[EngineQueue]) -> dict[str, float]:
    """What is due to each tenant of the work of the engines that have some, each of which counts by its slots.

    At an engine it is a share of its priority's turns, and batches get one part where both want turns.
    """
    asked = [(slots, busy) for slots, snapshots in engines if (busy := [each for each in snapshots if each.share])]
    num_slots = sum(slots for slots, _ in asked)
    due: dict[str, float] = {}
    for slots, busy in asked:
        weight = slots / num_slots
        are_both = len({snapshot.priority for snapshot in busy}) > 1
        parts = (1 - 1 / BATCH_PART, 1 / BATCH_PART) if are_both else (1.0, 1.0)
        for snapshot in busy:
            due[snapshot.tenant] = due.get(snapshot.tenant, 0.0) + snapshot.share * parts[snapshot.priority] * weight
    return due


def _at_a_time(tenant: Tenant, under_way: int, served: Collection[str]) -> Iterator[Limit]:
    """What a model has under way is all of it where one is served; it is not counted by model where there are more."""
    if tenant.quota.concurrent is not None:
        yield Limit("requests", "now", tenant.quota.concurrent, under_way)
    for model in served:
        concurrent = tenant.model_quotas.get(model, Quota()).concurrent
        if concurrent is not None:
            yield Limit("requests", "now", concurrent, under_way if len(served) == 1 else None, model)


def _by_time(tenant: Tenant, used: dict[str, _Used], numbers: Numbers) -> Iterator[Limit]:
    for model in (None, *sorted(tenant.model_quotas)):
        for meter in limits_of(tenant, model or ""):
            if model is not None and not meter.name.endswith(f":{model}"):
                continue  # the tenant's own, which stands there already
            totals = used[meter.period].get((tenant.id, model), _NOTHING)
            resets_ms = bounds_of(meter.period, getattr(numbers, meter.period))[1]
            yield Limit(meter.unit, meter.period, meter.limit, _amount(totals, meter.unit), model, resets_ms)


def _amount(totals: Totals, unit: Unit) -> int | None:
    if unit == "tokens":
        return _tokens(totals)
    if unit == "millijoules" and totals.unmetered:
        return None
    amount: int = getattr(totals, unit)
    return amount


def _tokens(totals: Totals) -> int:
    return totals.prompt_tokens + totals.completion_tokens


def _under_way(queues: Sequence[QueueSnapshot]) -> int:
    return sum(snapshot.num_waiting + snapshot.num_running for snapshot in queues)


def _all_as(everybody: Tenant, used: dict[str, _Used]) -> dict[str, _Used]:
    """What all tenants used, in the name of the one that stands for them."""
    whole = {
        period: sum((totals for (_, model), totals in amounts.items() if model is None), _NOTHING)
        for period, amounts in used.items()
    }
    return {period: {(everybody.id, None): totals} for period, totals in whole.items()}


def _sum(left: _Used, right: _Used) -> _Used:
    return {key: left.get(key, _NOTHING) + right.get(key, _NOTHING) for key in {*left, *right}}
