"""Tenants, keys and charges: a value that exists is in order, and a wrong field is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.govern.tenancy.store import TOTALS, Bucket, Totals, sum_charges
from allod.govern.tenancy.tenants import (
    ADMIN_PREFIX,
    LOCAL,
    USE_PREFIX,
    Account,
    AuditEvent,
    Budget,
    Charge,
    Key,
    Quota,
    Scope,
    Tenant,
    local_tenant,
    new_api_key,
    new_id,
)

BEYOND = 2**53


def tenant(**fields: Any) -> Tenant:
    return Tenant(**{"id": "proj_1", "name": "Benefits", "created_ms": 1, **fields})


def key(**fields: Any) -> Key:
    given = {"id": "key_1", "tenant_id": "proj_1", "name": "k", "digest": "a" * 64, "hint": "wxyz", "created_ms": 1}
    return Key(**{**given, **fields})


def account(**fields: Any) -> Account:
    given = {"id": "svc_acct_1", "tenant_id": "proj_1", "name": "n", "role": "member", "created_ms": 1}
    return Account(**{**given, **fields})


def event(**fields: Any) -> AuditEvent:
    return AuditEvent(**{"id": "audit_log-1", "at_ms": 1, "kind": "project.created", "actor": "key_1", **fields})


def charge(**fields: Any) -> Charge:
    given = {"receipt_id": "r", "tenant_id": "proj_1", "key_id": "key_1", "model": "m", "start_ms": 1}
    return Charge(**{**given, "decision": "permit", "finish": "stop", **fields})


@pytest.mark.parametrize("limit", [0, -1, BEYOND, 1.5, True, "10", float("nan")])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "concurrent"])
def test_a_quota_is_a_positive_whole_number_or_nothing(name: str, limit: object) -> None:
    """Nought, negative, enormous and what is no whole number are refused by name."""
    with pytest.raises(Invalid) as caught:
        Quota(**{name: limit})  # type: ignore[arg-type]
    assert caught.value.param == name


def test_whoever_asks_for_a_quota_of_nought_is_told_what_to_do() -> None:
    """What may do nothing is archived or revoked, where it can be seen."""
    with pytest.raises(Invalid) as caught:
        Quota(concurrent=0)
    assert "archive" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("make", "param", "value"),
    [
        (tenant, "id", ""),
        (tenant, "id", "../etc"),
        (tenant, "id", "proj_1\n"),
        (tenant, "id", "x" * 65),
        (tenant, "name", ""),
        (tenant, "name", "a\x00b"),
        (tenant, "name", "\ud800"),
        (tenant, "name", "x" * 257),
        (tenant, "tier", "a\nb"),
        (tenant, "markings", frozenset({""})),
        (tenant, "markings", ["PERSONAL DATA"]),
        (tenant, "jurisdictions", frozenset(map(str, range(65)))),
        (tenant, "purposes", frozenset({"a\x7f"})),
        (tenant, "weight", 0),
        (tenant, "weight", 1001),
        (tenant, "priority", 2),
        (tenant, "priority", -1),
        (tenant, "model_quotas", {"": Quota()}),
        (tenant, "budgets", (Budget("day", tokens=1), Budget("day", micros=1))),
        (tenant, "created_ms", -1),
        (tenant, "archived_ms", BEYOND),
        (key, "id", "é"),
        (key, "tenant_id", None),
        (key, "is_admin", True),
        (key, "account_id", ""),
        (key, "digest", "A" * 64),
        (key, "digest", "a" * 63),
        (key, "hint", "abc"),
        (key, "hint", "a\nbc"),
        (key, "expires_ms", -1),
        (key, "revoked_ms", 1.0),
        (account, "role", "root"),
        (account, "tenant_id", ""),
        (event, "kind", "created"),
        (event, "kind", "Project.created"),
        (event, "actor", ""),
        (event, "details", {"a": 1.5}),
        (event, "details", {"a": "\ud800"}),
        (event, "details", {"a": "x" * 20_000}),
        (charge, "decision", "maybe"),
        (charge, "prompt_tokens", -1),
        (charge, "micros", BEYOND),
        (charge, "millijoules", -1),
        (charge, "model", "a\x00"),
        (charge, "start_ms", None),
    ],
)
def test_a_wrong_field_is_named(make: Callable[..., object], param: str, value: object) -> None:
    """Whoever sent it learns which field it was; what may hold anything is checked where it is made, once."""
    with pytest.raises(Invalid) as caught:
        make(**{param: value})
    assert caught.value.param == ("tenant_id" if param == "is_admin" else param)


@pytest.mark.parametrize("fields", [{"period": "week", "tokens": 1}, {"period": "day"}, {"period": "day", "micros": 0}])
def test_a_budget_has_a_period_and_an_amount(fields: dict[str, Any]) -> None:
    """A budget that limits nothing is a mistake, not a budget."""
    with pytest.raises(Invalid):
        Budget(**fields)


def test_a_scope_may_allow_nothing() -> None:
    """An empty set allows none; only None does not restrict."""
    assert Scope(models=frozenset()).models == frozenset()


def test_a_key_carries_256_random_bits() -> None:
    """The secret is shown once; what is kept of it are its digest and four characters."""
    for prefix in (USE_PREFIX, ADMIN_PREFIX):
        secret, digest, hint = new_api_key(prefix)
        assert re.fullmatch(re.escape(prefix) + r"[A-Za-z0-9_-]{43}", secret)
        assert digest == sha256(secret.encode()).hexdigest()
        assert secret.endswith(hint)
        assert len(hint) == 4
    assert len({new_api_key(USE_PREFIX)[0] for _ in range(100)}) == 100


def test_ids_look_as_clients_expect() -> None:
    """A prefix and 24 hexadecimal digits, from the randomness that is given."""
    assert re.fullmatch(r"proj_[0-9a-f]{24}", new_id("proj_"))
    assert new_id("key_", lambda size: b"\x0f" * size) == "key_" + "0f" * 12


def test_the_local_tenant_is_limited_by_policy_alone() -> None:
    """It has no quota, no budget and no scope, and its label is the nation's lowest."""
    local = local_tenant(1)
    assert (local.id, local.tier, local.quota, local.budgets, local.scope) == (LOCAL, "", Quota(), (), Scope())


def test_totals_of_a_receipt_tell_unmetered_from_nought() -> None:
    """Energy that nobody measured adds nothing and is counted as missing; a refusal is no request."""
    assert Totals.of(charge(millijoules=None)) == Totals(requests=1, unmetered=1)
    assert Totals.of(charge(millijoules=0)) == Totals(requests=1)
    assert Totals.of(charge(decision="forbid", prompt_tokens=3)) == Totals(refused=1, prompt_tokens=3)


def test_totals_add_every_field() -> None:
    """None is forgotten when a field is added."""
    ones = Totals(*([1] * len(TOTALS)))
    assert ones + ones == Totals(*([2] * len(TOTALS)))


def test_charges_are_summed_by_minute_tenant_key_and_model() -> None:
    """The last millisecond of a minute and the first of the next are apart."""
    sums = sum_charges(
        [charge(start_ms=59_999), charge(start_ms=60_000), charge(start_ms=60_001), charge(model="other")]
    )
    assert {bucket: totals.requests for bucket, totals in sums.items()} == {
        Bucket(0, "proj_1", "key_1", "m"): 1,
        Bucket(1, "proj_1", "key_1", "m"): 2,
        Bucket(0, "proj_1", "key_1", "other"): 1,
    }
