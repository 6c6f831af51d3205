"""The contract of the store of tenants, on every adapter: leases and the ledger."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tests.contracts.tenants import (
    BEYOND,
    DAY_MS,
    HOUR_MS,
    charge,
    expected,
    give_back,
    key,
    lease,
    put,
    random_charges,
    refused,
    tenant,
)

from allod.govern.tenancy.store import Changes, Position, TenantStore, Totals
from allod.govern.tenancy.tenants import Charge


def test_leases_stay_within_the_limit(store: TenantStore) -> None:
    """Whoever asks first; what remains is granted in part, then nothing. Each meter, window and tenant by itself."""
    assert [lease(store, 40, gateway=gateway) for gateway in "abcd"] == [40, 40, 20, 0]
    assert lease(store, 40, window=2) == lease(store, 40, meter="requests") == lease(store, 40, tenant_id="two") == 40
    assert lease(store, 40, limit=120) == 20
    assert lease(store, 40, limit=50) == 0


def test_what_is_given_back_can_be_granted_again(store: TenantStore) -> None:
    """By the gateway that had it, up to what it had: nobody makes room that was not theirs."""
    assert lease(store, 60, gateway="a") == 60
    assert lease(store, 60, gateway="b") == 40
    give_back(store, 1000, gateway="b")
    give_back(store, 1000, gateway="b")
    give_back(store, 1000, gateway="nobody")
    give_back(store, 1000, gateway="a", window=9)
    assert lease(store, 1000, gateway="c") == 40


def test_strange_limits_grant_nothing_and_break_nothing(store: TenantStore) -> None:
    """Nought and negative limits, the largest numbers; beyond them, and negative amounts, are refused."""
    assert lease(store, 1, limit=0) == lease(store, 1, limit=-5) == lease(store, 0) == 0
    assert lease(store, BEYOND - 1, limit=BEYOND - 1) == BEYOND - 1
    assert lease(store, BEYOND - 1, limit=BEYOND - 1) == 0
    for fields in ({"amount": -1}, {"amount": BEYOND}, {"limit": BEYOND}, {"window": 10**30}):
        assert refused(partial(lease, store, **{"amount": 1, **fields}))[0] == "invalid"
    assert refused(lambda: give_back(store, -1)) == ("invalid", "amount")
    assert lease(store, 1, limit=BEYOND - 1) == 0


def test_old_windows_are_forgotten(store: TenantStore) -> None:
    """The last five before a window are remembered, so that a gateway whose clock is late is granted no more."""
    for window in range(10):
        assert lease(store, 100, window=window) == 100
    assert [lease(store, 100, window=window) for window in range(4, 10)] == [0] * 6
    assert lease(store, 1, window=3) == 1


def test_threads_share_a_limit_exactly(store: TenantStore) -> None:
    """Eight at once, asking until there is no more: together they get the limit, not one more and not one less."""

    def take_all(gateway: int) -> int:
        chance, taken = random.Random(gateway), 0
        while granted := lease(store, chance.randrange(1, 40), gateway=str(gateway), limit=1000):
            taken += granted
            if chance.random() < 0.3:
                give_back(store, 1, gateway=str(gateway))
                taken -= 1
        return taken

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(take_all, range(8))) == 1000


def test_totals_equal_the_charges_exactly(store: TenantStore) -> None:
    """Ten thousand random charges in batches of random size, from two logs; by tenant and time, and by every group
    of minute, hour and day, each sum is the sum of its charges, to the last unit, and nothing is counted twice."""
    charges, chance = random_charges(10_000, seed=1), random.Random(2)
    for origin, left in (("a", charges[:6000]), ("b", charges[6000:])):
        done = 0
        while left:
            batch, left = left[:512][: (size := chance.randrange(1, 512))], left[size:]
            done += len(batch)
            store.charge(origin, Position(done, done * 700), batch)
        assert store.position(origin) == Position(done, done * 700)
    assert store.used(tenant_id="one", since_ms=0, until_ms=3 * DAY_MS) == expected(
        [one for one in charges if one.tenant_id == "one"]
    )
    assert store.used(tenant_id="one", since_ms=HOUR_MS, until_ms=DAY_MS) == expected(
        [one for one in charges if one.tenant_id == "one" and HOUR_MS <= one.start_ms < DAY_MS]
    )
    assert store.used(tenant_id=None, since_ms=0, until_ms=3 * DAY_MS) == expected(charges)
    for bucket_ms in (60_000, HOUR_MS, DAY_MS, 2 * DAY_MS):
        for group_by in ((), ("tenant",), ("key", "model"), ("tenant", "key", "model")):
            rows = store.usage(since_ms=0, until_ms=3 * DAY_MS, bucket_ms=bucket_ms, group_by=group_by)
            got = {(row.start_ms, row.tenant_id, row.key_id, row.model): row.totals for row in rows}
            groups: dict[tuple[Any, ...], list[Charge]] = {}
            for one in charges:
                names = [
                    getattr(one, field) if group in group_by else None
                    for group, field in (("tenant", "tenant_id"), ("key", "key_id"), ("model", "model"))
                ]
                groups.setdefault((one.start_ms // bucket_ms * bucket_ms, *names), []).append(one)
            assert got == {name: expected(members) for name, members in groups.items()}
            order = [(row.start_ms, row.tenant_id or "", row.key_id or "", row.model or "") for row in rows]
            assert order == sorted(order)


def test_usage_is_filtered_by_tenant_key_and_model(store: TenantStore) -> None:
    """By any of them, all at once, by words that are not there; in a time without use there is no row."""
    charges = random_charges(500, seed=3)
    store.charge("a", Position(500, 1), charges)

    def total(since_ms: int = 0, until_ms: int = 10**30, **filters: Any) -> Totals:
        rows = store.usage(since_ms=since_ms, until_ms=until_ms, bucket_ms=30 * DAY_MS, **filters)
        return sum((row.totals for row in rows), Totals())

    assert total() == expected(charges)
    assert total(tenant_ids=["one", "two"], models=["é"], key_ids=["key_1", ""]) == expected(
        [one for one in charges if one.tenant_id in ("one", "two") and one.model == "é" and one.key_id != "key_2"]
    )
    assert total(models=["nothing"]) == total(since_ms=10**30) == total(until_ms=-(10**30)) == Totals()
    for bucket_ms in (0, -60_000, 90_000, 59_999):
        assert refused(partial(store.usage, since_ms=0, until_ms=1, bucket_ms=bucket_ms))[1] == "bucket_ms"
    assert refused(lambda: total(group_by=["hour"]))[1] == "group_by"


def test_a_batch_counts_once(store: TenantStore) -> None:
    """Sent again in whole or in part, or beside another that overlaps it: refused, and nothing of it is counted."""
    store.charge("a", Position(10, 1000), [charge(micros=1)] * 10)
    for position, num in (
        (Position(10, 1000), 10),
        (Position(12, 1200), 10),
        (Position(9, 900), 0),
        (Position(11, 999), 1),
        (Position(BEYOND, 2000), 1),
    ):
        repeated = [charge(micros=1)] * num
        assert refused(partial(store.charge, "a", position, repeated))[0] == "bad_position"
    store.charge("a", Position(10, 1000), [])
    store.charge("a", Position(30, 3000), [charge(micros=1)] * 2)  # entries that cost nobody anything lie between
    assert store.used(tenant_id="one", since_ms=0, until_ms=60_000).micros == 12
    assert store.position("a") == Position(30, 3000)


def test_the_ledger_of_one_log_can_be_rebuilt(store: TenantStore) -> None:
    """What another log said stays, and the rebuilt ledger is what it was."""
    ours, theirs = random_charges(300, seed=4), random_charges(300, seed=5)
    for origin, charges in (("ours", ours), ("theirs", theirs), ("ours", ours)):
        store.forget_ledger(origin)
        assert store.position(origin) is None
        store.charge(origin, Position(300, 1), charges)
    rows = store.usage(since_ms=0, until_ms=10**15, bucket_ms=60_000)
    assert sum((row.totals for row in rows), Totals()) == expected(ours + theirs)
    store.forget_ledger("nothing")


def test_the_ledger_says_when_a_key_was_used_last(store: TenantStore) -> None:
    """The latest of its receipts, whatever is put; telling it is no change of the key."""
    put(store, tenant(), key(), key("key_2", last_used_ms=5))
    version = store.changes_since(0).version
    for number, start_ms in enumerate((70, 90, 80), start=1):
        store.charge("a", Position(number, number), [charge(start_ms=start_ms)])
    assert [one.last_used_ms for one in store.keys(tenant_id="one")] == [90, None]
    assert store.key("key_1").last_used_ms == 90
    assert store.changes_since(version) == Changes(version)
