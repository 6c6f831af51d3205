"""Values for the tests of the store of tenants, and where its adapters keep theirs."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.postgres import WHY_NOT

from allod.core.errors import Invalid, Unavailable
from allod.govern.stores.sqlite import sqlite_store
from allod.govern.tenancy.store import TOTALS, TenantStore, Totals
from allod.govern.tenancy.tenants import Account, AuditEvent, Budget, Charge, Key, Quota, Scope, Tenant, api_key_digest

BEYOND = 2**53
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
POSTGRES = pytest.param(
    "postgres", marks=[pytest.mark.services, pytest.mark.skipif(WHY_NOT != "", reason=f"missing: {WHY_NOT}")]
)

durable = pytest.mark.parametrize("place", ["sqlite", POSTGRES], indirect=True)
in_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
in_postgres = pytest.mark.parametrize("place", [POSTGRES], indirect=True)


@dataclass(frozen=True)
class Place:
    """Where a store is kept, so that it can be opened again: by us, or by another process."""

    kind: str
    address: str

    def open(self) -> TenantStore:
        return open_store(self.kind, self.address)


def open_store(kind: str, address: str) -> TenantStore:
    if kind == "sqlite":
        return sqlite_store(Path(address))
    from allod.govern.stores.postgres import postgres_store

    return postgres_store(address)


numbers = iter(range(10**9))


def event(**fields: Any) -> AuditEvent:
    return AuditEvent(
        **{"id": f"audit_log-{next(numbers)}", "at_ms": 1, "kind": "project.created", "actor": "test", **fields}
    )


def tenant(tenant_id: str = "one", **fields: Any) -> Tenant:
    return Tenant(**{"id": tenant_id, "name": f"Benefits {tenant_id.encode().hex()}", "created_ms": 1, **fields})


def key(key_id: str = "key_1", tenant_id: str | None = "one", **fields: Any) -> Key:
    given = {"name": "k", "digest": api_key_digest(key_id), "hint": "wxyz", "created_ms": 1}
    return Key(**{"id": key_id, "tenant_id": tenant_id, "is_admin": tenant_id is None, **given, **fields})


def account(account_id: str = "svc_1", tenant_id: str = "one", **fields: Any) -> Account:
    return Account(
        **{"id": account_id, "tenant_id": tenant_id, "name": "n", "role": "member", "created_ms": 1, **fields}
    )


def charge(**fields: Any) -> Charge:
    given = {"receipt_id": "r", "tenant_id": "one", "key_id": "key_1", "model": "m", "start_ms": 1}
    return Charge(**{**given, "decision": "permit", "finish": "stop", **fields})


def lease(store: TenantStore, amount: int, **fields: Any) -> int:
    given = {"gateway": "g", "tenant_id": "one", "meter": "tokens", "window": 1, "limit": 100, **fields}
    return store.lease(amount=amount, **given)


def give_back(store: TenantStore, amount: int, **fields: Any) -> None:
    store.give_back(**{"gateway": "g", "tenant_id": "one", "meter": "tokens", "window": 1, "amount": amount, **fields})


def put(store: TenantStore, *values: Tenant | Account | Key) -> None:
    for value in values:
        if isinstance(value, Tenant):
            store.put_tenant(value, event())
        elif isinstance(value, Account):
            store.put_account(value, event())
        else:
            store.put_key(value, event())


def refused(call: Callable[[], object]) -> tuple[str, str | None]:
    with pytest.raises(Invalid) as caught:
        call()
    return caught.value.code, caught.value.param


def unavailable(call: Callable[[], object]) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        call()
    return caught.value


RICH = tenant(
    name="Sozialdienst „Ü“ 🏛",
    tier="OFFICIAL-SENSITIVE",
    markings=frozenset({"PERSONAL DATA", "SENSITIVE"}),
    jurisdictions=frozenset({"GB", "DE"}),
    purposes=frozenset(),
    scope=Scope(frozenset({"m", "n"}), "SECRET", frozenset({"benefits"})),
    weight=1000,
    priority=1,
    quota=Quota(1, 2**53 - 1, None),
    model_quotas={"m": Quota(concurrent=3), "a 'quoted' \"model\"": Quota()},
    budgets=(Budget("day", tokens=5), Budget("month", 1, 2, 3, 2**53 - 1)),
    archived_ms=2,
)


def random_charges(num: int, seed: int) -> list[Charge]:
    chance = random.Random(seed)
    return [
        charge(
            receipt_id=f"r{number}",
            tenant_id=chance.choice(["one", "two", "three", ""]),
            key_id=chance.choice(["key_1", "key_2", ""]),
            model=chance.choice(["m", "n", "é"]),
            start_ms=chance.randrange(3 * DAY_MS),
            decision=chance.choice(["permit", "permit", "forbid"]),
            prompt_tokens=chance.randrange(5000),
            completion_tokens=chance.randrange(2**32),
            cached_tokens=chance.randrange(100),
            engine_ms=chance.randrange(10**6),
            millijoules=chance.choice([None, chance.randrange(10**6)]),
            micros=chance.randrange(10**9),
        )
        for number in range(num)
    ]


def expected(charges: list[Charge]) -> Totals:
    """Added up in the plainest way, without the code under test."""
    permitted = [one for one in charges if one.decision == "permit"]
    sums = {name: sum(getattr(one, name) for one in charges) for name in TOTALS[2:6]}
    return Totals(
        requests=len(permitted),
        refused=len(charges) - len(permitted),
        **sums,
        millijoules=sum(one.millijoules or 0 for one in charges),
        micros=sum(one.micros for one in charges),
        unmetered=sum(one.millijoules is None for one in permitted),
    )


def start(program: str, place: Place, *words: str) -> subprocess.Popen[str]:
    """The program in a process of its own, once it is ready."""
    command = [sys.executable, "-c", program, place.kind, place.address, *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
