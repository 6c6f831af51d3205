"""Slices of limits: leased from the store, held in memory by one gateway, and given back.

A `Window` is spent from without asking anybody; `Slices` fills windows and empties them, and is the only part of this
that blocks. Whatever is between the two is under `Slices.lock`, which is never held while the store is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.errors import Invalid, Unavailable
from allod.govern.metering.windows import Unit, UsageLimit, bounds_of
from allod.govern.tenancy.store import TenantStore, Totals
from allod.govern.tenancy.tenants import ORGANIZATION

LEDGER = "ledger"  # under this name stands in the store's leases what was used before any was granted
REFUSAL_MS = 1000  # how long a no of the store's holds for requests that need as much
LEASING_S = 2.0  # how long a request waits for another's lease of the same window, before it may ask itself
IDLE_MS = 60_000  # after which an unspent slice goes back


class Window:
    """What this gateway may still spend of one meter in one window. `available` is below 0 after an overrun."""

    __slots__ = (
        "available", "is_closed", "is_floored", "is_unmeasured", "leasing", "meter", "number", "refused_need",
        "refused_until_ms", "tenant_id", "touched_ms", "until_ms",
    )  # fmt: skip

    def __init__(self, tenant_id: str, meter: UsageLimit, number: int) -> None:
        self.tenant_id = tenant_id
        self.meter = meter
        self.number = number
        self.until_ms = bounds_of(meter.period, number)[1]
        self.available = 0
        self.touched_ms = 0
        self.is_floored = not meter.is_budget
        self.is_unmeasured = False
        self.is_closed = False  # another took its place: what comes back goes to the store
        self.refused_need: float = inf
        self.refused_until_ms = 0
        self.leasing = threading.Lock()  # one lease at a time: who waited may find enough

    def check(self, need: int | None, now_ms: int) -> int:
        """`need`, if the store may be asked for it. Raises as `Quotas.reserve` says."""
        if need is None or self.is_unmeasured:
            raise _unmeasurable(self.meter)
        if not 0 <= need <= self.meter.limit:
            raise _never(self.meter, need)
        if need > self.available and need >= self.refused_need and now_ms < self.refused_until_ms:
            raise self.exhaustion(now_ms)
        return need

    def exhaustion(self, now_ms: int) -> Unavailable:
        """The error for a need that this window cannot meet any more."""
        return Unavailable(
            f"too little is left of the limit of {_spell(self.meter)}",
            code="budget_exhausted" if self.meter.is_budget else "rate_limited",
            retry_after_s=max(1.0, (self.until_ms - now_ms) / 1000),
        )


class Slices:
    """Fills and empties the windows of one gateway. `share`: a slice is that part of the limit."""

    def __init__(self, store: TenantStore, *, gateway: str, share: int) -> None:
        self._store = store
        self._gateway = gateway
        self._share = share
        self._returned: list[tuple[Window, int]] = []
        self.lock = threading.Lock()

    def fill(self, window: Window, need: int, now_ms: int) -> None:
        """Lease until `need` is available, or a slice where that is more. Raises Unavailable when it cannot be.

        Who finds another at it waits `LEASING_S`, no longer: while the store is slow, requests must not queue up.
        """
        with _lease(window):
            with self.lock:
                if window.is_closed or window.check(need, now_ms) <= window.available:
                    return
            if not window.is_floored:
                self._count_what_was_used(window)
            with self.lock:
                window.check(need, now_ms)
                lacking = max(need, self._slice_of(window)) - window.available
            self._receive(window, self._grant(window, lacking), need, now_ms)

    def tidy(self, window: Window, now_ms: int) -> None:
        """Give back what is idle or more than a slice; lease what was overrun. Nothing for a window that ended."""
        with self.lock:
            if window.until_ms <= now_ms:
                return
            kept = 0 if now_ms - window.touched_ms > IDLE_MS else self._slice_of(window)
            spare, overrun = max(0, window.available - kept), max(0, -window.available)
            window.available -= spare
        self._give_back(window, spare)
        if overrun:
            granted = self._grant(window, overrun)
            with self.lock:
                window.available += granted

    def add(self, window: Window, amount: int) -> None:
        """Make more of it available, or less. The lock is held; a closed window's goes to the store by and by."""
        if window.is_closed:
            self._returned.append((window, amount))
        else:
            window.available += amount

    def empty(self, window: Window) -> None:
        """Close it: what is available goes to the store by and by. The lock is held."""
        window.is_closed = True
        self._returned.append((window, window.available))
        window.available = 0

    def return_all(self, now_ms: int) -> None:
        """Tell the store what came back to closed windows. If that fails it is lost until the window ends."""
        with self.lock:
            returned, self._returned = self._returned, []
        for window, amount in returned:
            if amount > 0 and window.until_ms > now_ms:
                self._give_back(window, amount)
            elif amount < 0 and window.until_ms > now_ms:
                self._grant(window, -amount)

    def reclaim(self, window: Window) -> None:
        """Give back all that an earlier run was granted of a budget's window, but for what the ledger says was used."""
        self._give_back(window, MAX_SAFE_INTEGER)
        self._count_what_was_used(window)

    def _receive(self, window: Window, granted: int, need: int, now_ms: int) -> None:
        with self.lock:
            self.add(window, granted)
            window.touched_ms = now_ms
            if window.is_closed or need <= window.available:
                return
            window.available -= granted  # too little for this request may be enough for another gateway's
            window.refused_need, window.refused_until_ms = need, now_ms + REFUSAL_MS
            refusal = window.exhaustion(now_ms)
        self._give_back(window, granted)
        raise refusal

    def _slice_of(self, window: Window) -> int:
        return window.meter.limit // self._share

    def _count_what_was_used(self, window: Window) -> None:
        """Make the grants of a budget's window at least what the ledger says was used in it, whoever used it."""
        meter = window.meter
        since_ms, until_ms = bounds_of(meter.period, window.number)
        whose = None if window.tenant_id == ORGANIZATION else window.tenant_id
        totals = self._store.used(tenant_id=whose, since_ms=since_ms, until_ms=until_ms)
        if meter.unit == "millijoules" and totals.unmetered:
            window.is_unmeasured = True
        used = _measure(meter.unit, totals)
        if used:
            self._grant(window, used, gateway=LEDGER, limit=used)
        window.is_floored = True

    def _grant(self, window: Window, amount: int, *, gateway: str = "", limit: int = 0) -> int:
        return self._store.lease(
            gateway=gateway or self._gateway,
            tenant_id=window.tenant_id,
            meter=window.meter.name,
            window=window.number,
            amount=min(amount, MAX_SAFE_INTEGER),
            limit=limit or window.meter.limit,
        )

    def _give_back(self, window: Window, amount: int) -> None:
        if amount > 0:
            self._store.give_back(
                gateway=self._gateway,
                tenant_id=window.tenant_id,
                meter=window.meter.name,
                window=window.number,
                amount=amount,
            )


@contextmanager
def _lease(window: Window) -> Iterator[None]:
    if not window.leasing.acquire(timeout=LEASING_S):
        raise Unavailable("the tenants' database is too slow", code="tenants_unavailable", retry_after_s=1)
    try:
        yield
    finally:
        window.leasing.release()


def _unmeasurable(meter: UsageLimit) -> Unavailable:
    """The error for a limit on energy where not all energy is known."""
    return Unavailable(
        f"the limit of {_spell(meter)} cannot be kept: not all energy is measured",
        code="budget_unmeasurable",
        hint="whoever set it can limit tokens or engine_ms instead",
    )


def _never(meter: UsageLimit, need: int) -> Invalid:
    return Invalid(
        f"this may use {need} {meter.unit}, and the limit is {_spell(meter)}",
        code="exceeds_limit",
        param="max_tokens" if meter.unit == "tokens" else None,
        hint="ask for a shorter answer, or of a shorter prompt",
    )


def _measure(unit: Unit, totals: Totals) -> int:
    if unit == "tokens":
        return totals.prompt_tokens + totals.completion_tokens
    used: int = getattr(totals, unit)
    return used


def _spell(meter: UsageLimit) -> str:
    return f"{meter.limit} {meter.unit} a {meter.period}"
