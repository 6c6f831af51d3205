"""Quotas and budgets at one gateway: slices leased from the store, and spent in memory.

A request reserves before it waits for its turn, and settles when its receipt is made:

    while isinstance(found := quotas.reserve(...), NeedsLease):     # microseconds, in memory
        quotas.lease(found)                                         # blocks on the store
    ...
    quotas.settle(found, tokens=..., cost=...)                      # gives back what was not used

The bound, for any number of gateways, any of them killed at any time, and each meter and window: what is charged is at
most the limit plus what answers in flight at the same time used beyond their reservations. It is the limit exactly
where reservations are upper bounds, as prompt and `max_tokens` together are of tokens; what an answer takes of engine
time or energy is known only afterwards. A limit that is set while answers are under way counts those that are charged.

A gateway holds, unspent, at most the greater of a slice (`limit // slice_share`) and one request's need, plus what
requests gave back since the last `tidy`. That is what other gateways cannot use meanwhile; with what its requests under
way had reserved, it is what is lost until the window ends when a gateway is killed (`reclaim` finds it again).

A request counts in the window in which it was reserved: `now_ms` is the time that its receipt says it started.

The concurrency of a tenant is counted at each gateway by itself. Time never goes back: a clock that does is read as the
highest it has shown. If that was far ahead, windows stay closed until the gateway starts again: too little is used,
never too much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from allod.core.errors import Unavailable
from allod.govern.metering.leases import Slices, Window
from allod.govern.metering.windows import Numbers, Unit, UsageLimit, bounds_of, limits_of, windows_at
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import Quota, Tenant


class Cost(NamedTuple):
    """What an answer costs beside its tokens. `millijoules` None: not measured."""

    engine_ms: int = 0
    millijoules: int | None = None
    micros: int = 0


NO_QUOTA = Quota()
NOT_KNOWN = Cost(engine_ms=1, micros=1)  # to reserve where nobody can say: something must be left


class NeedsLease(NamedTuple):
    """The windows that lack what a request needs of them, and how much it needs."""

    wants: tuple[tuple[Window, int], ...]


@dataclass(slots=True)
class TenantUsage:
    """One tenant with limits. `running` counts its requests under way, by model, and all of them under ""."""

    tenant: Tenant
    minute: int = -1
    by_model: dict[str, tuple[Window, ...]] = field(default_factory=dict)  # in this minute
    current: dict[str, Window] = field(default_factory=dict)  # by meter
    running: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Reservation:
    """What one request holds until it is settled or released."""

    account: TenantUsage | None = None
    model: str = ""
    held: tuple[tuple[Window, int], ...] = ()


class Quotas:
    """What one gateway has leased and spent. `reserve`, `settle` and `release` never block; the others call the store.

    `gateway` is a name that no other running gateway has. Budgets count what the ledger has when a window is first
    used: let the ledger catch up with the log before requests come in. Only tenants with limits take memory.
    """

    def __init__(self, store: TenantStore, *, gateway: str, slice_share: int = 10) -> None:
        self._slices = Slices(store, gateway=gateway, share=slice_share)
        self._lock = self._slices.lock
        self._accounts: dict[str, TenantUsage] = {}
        self._now_ms = 0
        self._next_minute_ms = 0
        self._numbers = Numbers(0, 0, 0)

    def reserve(
        self, tenant: Tenant, *, model: str, tokens: int, now_ms: int, cost: Cost = NOT_KNOWN
    ) -> Reservation | NeedsLease:
        """Hold what a request may use: at most `tokens` of prompt and answer together, and `cost`.

        Raises Unavailable with `retry_after_s` (`rate_limited`, `budget_exhausted`), without it where energy is
        limited and not measured (`budget_unmeasurable`); Invalid (`exceeds_limit`) for what no window can hold.
        """
        with self._lock:
            self._advance(now_ms)
            account = self._account_of(tenant)
            if account is None:
                return Reservation()
            _check_concurrency(account, model)
            amounts = _amounts(1, tokens, cost)
            held = tuple(
                (window, window.check(amounts[window.meter.unit], self._now_ms))
                for window in self._windows_of(account, model)
            )
            wants = tuple((window, need) for window, need in held if need > max(0, window.available))
            if wants:
                return NeedsLease(wants)
            for window, need in held:
                window.available -= need
                window.touched_ms = self._now_ms
            for name in ("", model):
                account.running[name] = account.running.get(name, 0) + 1
            return Reservation(account, model, held)

    def settle(self, reservation: Reservation, *, tokens: int, cost: Cost) -> None:
        """Charge what was used instead of what was reserved. Doing it again changes nothing."""
        self._settle(reservation, _amounts(1, tokens, cost))

    def release(self, reservation: Reservation) -> None:
        """Give back everything: the request never ran, and no receipt charges it."""
        self._settle(reservation, _amounts(0, 0, Cost(millijoules=0)))

    def lease(self, needed: NeedsLease) -> None:
        """Lease what the windows lack, or a slice where that is more. Blocks on the store.

        Raises Unavailable as `reserve` does where the store has not enough left, and where the store cannot be asked.
        """
        self._slices.return_all(self._now_ms)
        for window, need in needed.wants:
            self._slices.fill(window, need, self._now_ms)

    def tidy(self, now_ms: int) -> None:
        """Drop what ended, give back what is idle or more than a slice, lease what was overrun. Blocks on the store.

        To be called every few seconds. Raises Unavailable where the store cannot be asked.
        """
        with self._lock:
            self._advance(now_ms)
            accounts = list(self._accounts.values())
        for account in accounts:
            with self._lock:
                windows = list(account.current.values())
            for window in windows:
                self._slices.tidy(window, self._now_ms)
            with self._lock:
                if not account.running and all(window.until_ms <= self._now_ms for window in account.current.values()):
                    self._accounts.pop(account.tenant.id, None)
        self._slices.return_all(self._now_ms)

    def reclaim(self, tenants: Iterable[Tenant], now_ms: int) -> None:
        """Give back, of budgets, what an earlier run of this gateway leased and no receipt charges. Blocks.

        For the start, after the ledger caught up, and only where no other gateway shares the store: what others hold
        and did not use yet would be forgotten with it. Raises Unavailable where the store cannot be asked.
        """
        with self._lock:
            self._advance(now_ms)
        for tenant in tenants:
            for meter in limits_of(tenant, ""):
                if meter.is_budget:
                    self._slices.reclaim(Window(tenant.id, meter, getattr(self._numbers, meter.period)))

    def close(self) -> None:
        """Give back everything unspent. Raises Unavailable where the store cannot be asked."""
        with self._lock:
            for account in self._accounts.values():
                self._empty(account)
            self._accounts.clear()
        self._slices.return_all(self._now_ms)

    # What follows holds the lock.

    def _advance(self, now_ms: int) -> None:
        self._now_ms = max(self._now_ms, now_ms)
        if self._now_ms >= self._next_minute_ms:
            self._numbers = windows_at(self._now_ms)
            self._next_minute_ms = bounds_of("minute", self._numbers.minute)[1]

    def _account_of(self, tenant: Tenant) -> TenantUsage | None:
        """The tenant's account, with new windows if it was changed; None where nothing limits it."""
        account = self._accounts.get(tenant.id)
        if account is not None and account.tenant is tenant:
            return account
        if account is None:
            if not tenant.model_quotas and not tenant.budgets and tenant.quota == NO_QUOTA:
                return None
            account = self._accounts[tenant.id] = TenantUsage(tenant)
        elif account.tenant != tenant:
            self._empty(account)
        account.tenant = tenant
        return account

    def _windows_of(self, account: TenantUsage, model: str) -> tuple[Window, ...]:
        if account.minute != self._numbers.minute:
            account.minute = self._numbers.minute
            account.by_model.clear()
        windows = account.by_model.get(model)
        if windows is None:
            windows = tuple(self._window(account, meter) for meter in limits_of(account.tenant, model))
            account.by_model[model] = windows
        return windows

    def _window(self, account: TenantUsage, meter: UsageLimit) -> Window:
        number: int = getattr(self._numbers, meter.period)
        window = account.current.get(meter.name)
        if window is None or window.number != number:
            window = account.current[meter.name] = Window(account.tenant.id, meter, number)
        return window

    def _empty(self, account: TenantUsage) -> None:
        for window in account.current.values():
            self._slices.empty(window)
        account.current.clear()
        account.by_model.clear()

    def _settle(self, reservation: Reservation, amounts: dict[Unit, int | None]) -> None:
        with self._lock:
            account = reservation.account
            if account is None:
                return
            reservation.account = None
            for name in ("", reservation.model):
                account.running[name] -= 1
                if not account.running[name]:
                    del account.running[name]
            for window, need in reservation.held:
                used = amounts[window.meter.unit]
                if used is None:
                    window.is_unmeasured, used = True, need
                self._slices.add(window, need - max(0, used))


def _check_concurrency(account: TenantUsage, model: str) -> None:
    for name, quota in (("", account.tenant.quota), (model, account.tenant.model_quotas.get(model))):
        limit = quota.concurrent if quota is not None else None
        if limit is not None and account.running.get(name, 0) >= limit:
            raise Unavailable(
                f"{limit} requests are under way, and no more are allowed at a time",
                code="rate_limited",
                retry_after_s=1,
            )


def _amounts(requests: int, tokens: int, cost: Cost) -> dict[Unit, int | None]:
    return {
        "requests": requests,
        "tokens": tokens,
        "engine_ms": cost.engine_ms,
        "millijoules": cost.millijoules,
        "micros": cost.micros,
    }
