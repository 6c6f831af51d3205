"""Meters and their windows: what of a tenant's use is limited, up to where, and from when to when. Pure.

A window is a calendar period of UTC, numbered so that a later one has a higher number: minutes and days count from
1970, months are `year * 12 + month - 1`. It runs from its first millisecond up to but not including the next's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from allod.core.times import DAY_MS, day_at
from allod.govern.tenancy.store import MINUTE_MS
from allod.govern.tenancy.tenants import Quota, Tenant

Period = Literal["minute", "day", "month"]
Unit = Literal["requests", "tokens", "engine_ms", "millijoules", "micros"]
BUDGET_UNITS: tuple[Unit, ...] = ("tokens", "engine_ms", "millijoules", "micros")


class Numbers(NamedTuple):
    """The numbers of the windows that one moment is in."""

    minute: int
    day: int
    month: int


@dataclass(frozen=True, slots=True)
class UsageLimit:
    """One thing that is limited: at most `limit` of `unit` in each `period`. `name` is unique within a tenant."""

    name: str
    period: Period
    unit: Unit
    limit: int

    @property
    def is_budget(self) -> bool:
        """Whether the ledger says what was used of it: a minute is too short for that to matter."""
        return self.period != "minute"


def windows_at(time_ms: int) -> Numbers:
    """The windows of a moment."""
    day = day_at(time_ms)
    return Numbers(time_ms // MINUTE_MS, time_ms // DAY_MS, day.year * 12 + day.month - 1)


def bounds_of(period: Period, number: int) -> tuple[int, int]:
    """The first millisecond of a window, and that of the next."""
    if period == "month":
        return _month_start_ms(number), _month_start_ms(number + 1)
    length_ms = MINUTE_MS if period == "minute" else DAY_MS
    return number * length_ms, (number + 1) * length_ms


def limits_of(tenant: Tenant, model: str) -> tuple[UsageLimit, ...]:
    """Everything that limits the tenant's use of `model`: its own quota, that for the model, its budgets."""
    return tuple(
        (*_of_quota(tenant.quota, ""), *_of_quota(tenant.model_quotas.get(model), model), *_of_budgets(tenant))
    )


def _of_quota(quota: Quota | None, model: str) -> Iterator[UsageLimit]:
    if quota is None:
        return
    suffix = f":{model}" if model else ""
    if quota.requests_per_minute is not None:
        yield UsageLimit(f"minute.requests{suffix}", "minute", "requests", quota.requests_per_minute)
    if quota.tokens_per_minute is not None:
        yield UsageLimit(f"minute.tokens{suffix}", "minute", "tokens", quota.tokens_per_minute)


def _of_budgets(tenant: Tenant) -> Iterator[UsageLimit]:
    for budget in tenant.budgets:
        period: Period = "day" if budget.period == "day" else "month"
        for unit in BUDGET_UNITS:
            limit: int | None = getattr(budget, unit)
            if limit is not None:
                yield UsageLimit(f"{period}.{unit}", period, unit, limit)


def _month_start_ms(number: int) -> int:
    return int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000
