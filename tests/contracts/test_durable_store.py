"""What a store on disk keeps: after kill -9, between processes, and when its rows are not what they should be."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from tests.contracts.tenants import (
    RICH,
    Place,
    account,
    charge,
    durable,
    event,
    key,
    lease,
    put,
    start,
    tenant,
    unavailable,
)

from allod.core.errors import Invalid
from allod.govern.metering.quotas import NeedsLease, Quotas
from allod.govern.tenancy.store import Position
from allod.govern.tenancy.tenants import Quota

MOST = 1 << 32  # tokens of one kind in one receipt

WRITER = """
import sys
from tests.contracts.tenants import charge, open_store
from allod.govern.tenancy.store import Position
store = open_store(*sys.argv[1:3])
print("ready", flush=True)
while True:
    at = store.position("log") or Position(0, 0)
    batch = [charge(receipt_id=f"r{n}", prompt_tokens=n, start_ms=n * 7000, key_id=f"k{n % 5}")
             for n in range(at.num_entries, at.num_entries + 50)]
    store.charge("log", Position(at.num_entries + 50, at.offset + 50 * 700), batch)
"""
TAKER = """
import sys
from tests.contracts.tenants import lease, open_store
store, gateway = open_store(*sys.argv[1:3]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
taken = 0
while granted := lease(store, 7, gateway=gateway, limit=2000):
    taken += granted
print(taken, flush=True)
"""


@durable
def test_a_killed_ledger_counted_every_receipt_once(place: Place) -> None:
    """kill -9 at random moments, again and again: totals and position agree, and the next run goes on from there."""
    chance = random.Random(7)
    for _ in range(12):
        with start(WRITER, place) as writer:
            time.sleep(chance.uniform(0.02, 0.25))
            writer.kill()
        with closing(place.open()) as store:
            num = (store.position("log") or Position(0, 0)).num_entries
            used = store.used(tenant_id="one", since_ms=0, until_ms=10**15)
            assert (used.requests, used.prompt_tokens) == (num, num * (num - 1) // 2)
    assert num > 100


@durable
def test_processes_share_a_limit_exactly(place: Place) -> None:
    """Two gateways on one database, asking until there is no more: together they get the limit."""
    place.open().close()
    takers = [start(TAKER, place, gateway) for gateway in "ab"]
    taken = []
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    for taker in takers:
        with taker:
            taken.append(int(taker.communicate(timeout=60)[0]))
    assert sum(taken) == 2000


@durable
def test_a_locked_database_makes_nobody_wait_for_long(place: Place) -> None:
    """Requests that need a lease of one window while another process holds the counters: all are told so
    within seconds, not one after another, and are let in when it has let go."""
    who = tenant(quota=Quota(requests_per_minute=1000))
    with closing(place.open()) as store, closing(holding(place)) as holder:
        quotas = Quotas(store, gateway="one")
        reserved = [quotas.reserve(who, model="m", tokens=1, now_ms=1) for _ in range(24)]
        needed = [one for one in reserved if isinstance(one, NeedsLease)]
        assert len(needed) == 24
        began = time.monotonic()
        with ThreadPoolExecutor(24) as threads:
            errors = list(threads.map(lambda one: unavailable(lambda: quotas.lease(one)), needed))
        assert time.monotonic() - began < 8
        assert {error.code for error in errors} == {"tenants_unavailable"}
        holder.execute("ROLLBACK")
        quotas.lease(needed[0])


def holding(place: Place) -> Any:
    """A connection past the store, in a transaction that keeps everybody else from the counters."""
    if place.kind == "sqlite":
        connection: Any = sqlite3.connect(place.address, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        return connection
    import psycopg

    connection = psycopg.connect(place.address, autocommit=True)
    connection.execute("BEGIN")
    connection.execute("LOCK TABLE windows")
    return connection


@durable
def test_all_is_found_again(place: Place) -> None:
    """Closed and opened, every part of it is there."""
    with closing(place.open()) as store:
        put(store, RICH, account(), key())
        store.put_setting("a", "b", event())
        store.charge("log", Position(3, 4), [charge()])
        lease(store, 90)
        before = (store.changes_since(0), store.events(), store.accounts("one"), store.key("key_1"))
    with closing(place.open()) as store:
        assert (store.changes_since(0), store.events(), store.accounts("one"), store.key("key_1")) == before
        assert (store.read_setting("a"), store.position("log"), lease(store, 90)) == ("b", Position(3, 4), 10)


@durable
def test_a_closed_store_answers_nobody(place: Place) -> None:
    """Unavailable, like every other way of not being there."""
    store = place.open()
    store.close()
    store.close()
    assert unavailable(lambda: store.changes_since(0)).code == "tenants_unavailable"


@durable
def test_first_starts_at_once_make_one_database(place: Place) -> None:
    """Eight gateways that start together on nothing all come up, on the same tables."""
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: place.open(), range(8)))
    put(stores[0], tenant())
    assert all(store.tenant("one") == tenant() for store in stores)
    for store in stores:
        store.close()


@durable
def test_a_newer_database_is_left_alone(place: Place, execute: Callable[[str], object]) -> None:
    """An older Allod does not write into tables that it does not know."""
    place.open().close()
    execute("UPDATE realm SET version = 99")
    assert "newer" in (unavailable(place.open).hint or "")


@durable
def test_a_row_that_is_no_tenant_lets_nobody_in(place: Place, execute: Callable[[str], object]) -> None:
    """What somebody wrote by hand, and wrongly, is damage: said as such, not guessed at."""
    with closing(place.open()) as store:
        put(store, tenant())
        execute("UPDATE tenants SET body = '{\"id\": 7}'")
        assert unavailable(lambda: store.changes_since(0)).code == "tenants_corrupt"


@durable
def test_the_largest_charges_add_up_exactly(place: Place) -> None:
    """What one receipt may say at most, a thousand times over, is a number; and no charge says more."""
    batch = [charge(prompt_tokens=MOST)] * 500
    with pytest.raises(Invalid):
        charge(prompt_tokens=MOST + 1)
    with closing(place.open()) as store:
        store.charge("a", Position(1000, 1), batch + batch)
        assert store.used(tenant_id="one", since_ms=0, until_ms=60_000).prompt_tokens == 1000 * MOST
        assert store.position("a") == Position(1000, 1)
