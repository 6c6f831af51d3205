"""The contract of the store of tenants, on every adapter: tenants, accounts, keys, events, settings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from tests.contracts.tenants import (
    RICH,
    account,
    charge,
    event,
    key,
    put,
    refused,
    tenant,
)

from allod.core.errors import Invalid
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.store import Changes, Position, TenantStore
from allod.govern.tenancy.tenants import Scope, api_key_digest


def test_what_is_put_is_what_is_read(store: TenantStore) -> None:
    """Every field, in any letters, the largest numbers included; None, empty and nought stay apart."""
    full_key = key(account_id="svc_1", scope=Scope(frozenset(), "SECRET", None), expires_ms=0, revoked_ms=2**53 - 1)
    details = {"name": "“Ü”", "nothing": None, "list": [1, True, "\x00"]}
    full_event = event(tenant_id="one", details=details)
    store.put_tenant(RICH, full_event)
    put(store, account(role="owner"), full_key, key("key_admin", None))
    assert store.tenant("one") == RICH
    assert store.account("one", "svc_1") == account(role="owner")
    assert store.key("key_1") == full_key
    assert store.key("key_admin") == key("key_admin", None)
    assert store.events()[-1] == full_event


def test_a_put_replaces(store: TenantStore) -> None:
    """There is one of each id, and it is the last that was put."""
    put(store, tenant(), account(), key(), tenant(weight=2), account(name="other"), key(name="other"))
    assert [one.weight for one in store.tenants()] == [2]
    assert [one.name for one in store.accounts("one")] == ["other"]
    assert [one.name for one in store.keys(tenant_id="one")] == ["other"]


def test_what_was_ended_stays_ended(store: TenantStore) -> None:
    """A change made from what was read before a revocation or an archiving is refused, whole: it would undo it."""
    put(store, tenant(), key())
    read_tenant, read_key = store.tenant("one"), store.key("key_1")
    put(store, replace(read_tenant, archived_ms=5), replace(read_key, revoked_ms=5))
    before = (store.changes_since(0), store.events())
    assert refused(lambda: put(store, replace(read_tenant, weight=7))) == ("conflict", "archived_ms")
    assert refused(lambda: put(store, replace(read_key, scope=Scope(frozenset())))) == ("conflict", "revoked_ms")
    assert (store.changes_since(0), store.events()) == before
    assert (store.tenant("one").archived_ms, store.key("key_1").revoked_ms) == (5, 5)


def test_what_was_ended_can_be_changed(store: TenantStore) -> None:
    """As long as it stays ended; and a revoked key may be made anew with another secret, which opens anew."""
    put(store, tenant(), key())
    put(store, tenant(archived_ms=5), key(revoked_ms=5))
    put(store, tenant(archived_ms=5, weight=7), key(revoked_ms=6, name="other"))
    assert (store.tenant("one").weight, store.key("key_1").name) == (7, "other")
    put(store, key(digest="f" * 64))
    assert store.key("key_1").revoked_ms is None


def test_deleting_an_account_is_not_undone(store: TenantStore) -> None:
    """The keys that it revoked stay revoked, whoever had read them before."""
    put(store, tenant(), account(), key(account_id="svc_1"))
    read = store.key("key_1")
    store.delete_account("one", "svc_1", event(at_ms=7))
    assert refused(lambda: put(store, replace(read, name="other"))) == ("conflict", "revoked_ms")
    assert store.key("key_1").revoked_ms == 7


def test_changes_are_told_once(store: TenantStore) -> None:
    """Whoever knows version n is told what was put since and nothing else; whoever knows nothing, everything."""
    assert store.changes_since(0) == Changes(0, (), (), True)
    put(store, tenant("one"), tenant("two"), key(), key("key_2", "two"))
    everything = store.changes_since(0)
    assert everything.is_everything
    assert {one.id for one in everything.tenants} == {"one", "two"}
    assert {one.id for one in everything.keys} == {"key_1", "key_2"}
    assert store.changes_since(everything.version) == Changes(everything.version)
    put(store, tenant("two", weight=5), key("key_2", "two", revoked_ms=9))
    changes = store.changes_since(everything.version)
    assert changes[1:] == ((tenant("two", weight=5),), (key("key_2", "two", revoked_ms=9),), False)
    store.put_setting("budget", "1", event())
    assert store.changes_since(changes.version)[1:] == ((), (), False)


def test_a_version_that_never_was_gets_everything(store: TenantStore) -> None:
    """As after a restored backup: the asker must not go on with what the store no longer holds."""
    put(store, tenant(), key())
    for version in (3, 10**30, -1):
        changes = store.changes_since(version)
        assert (changes.version, len(changes.tenants), len(changes.keys), changes.is_everything) == (2, 1, 1, True)


def test_lists_come_in_pages_by_id(store: TenantStore) -> None:
    """By code point, whatever the database's language; archived tenants when asked for."""
    names = ["b", "a_", "a0", "a-", "a", "Z", "B", "A"]
    put(store, *(tenant(name) for name in names), tenant("c", archived_ms=2))
    put(store, *(account(f"svc_{name}", "A") for name in names), *(key(f"key_{name}", "A") for name in names))
    by_code_point = sorted(names)
    assert [one.id for one in store.tenants()] == by_code_point
    assert [one.id for one in store.tenants(include_archived=True)] == [*by_code_point, "c"]
    assert [one.id for one in store.tenants(after=by_code_point[2], limit=3)] == by_code_point[3:6]
    assert [one.id for one in store.accounts("A", after="svc_Z", limit=2)] == [f"svc_{n}" for n in by_code_point[3:5]]
    assert [one.id for one in store.keys(tenant_id="A", after="key_Z", limit=2)] == [
        f"key_{n}" for n in by_code_point[3:5]
    ]
    assert (store.tenants(after="~"), store.accounts("B"), store.keys(tenant_id="B")) == ([], [], [])


@pytest.mark.parametrize("limit", [0, -1, 1001, 10**30])
def test_a_page_is_bounded(store: TenantStore, limit: int) -> None:
    """No list is asked for without a bound."""
    calls = [
        lambda: store.tenants(limit=limit),
        lambda: store.accounts("one", limit=limit),
        lambda: store.keys(tenant_id="one", limit=limit),
        lambda: store.events(limit=limit),
    ]
    assert {refused(call) for call in calls} == {("invalid", "limit")}


@pytest.mark.parametrize("name", ["nobody", "", "one'--", "%", "x" * 10_000, "\x00", "\ud800", "🏛"])
def test_what_is_not_there_is_not_found(store: TenantStore, name: str) -> None:
    """Unknown ids, and texts that are no ids: refused as such, never a failure of the database."""
    put(store, tenant())
    calls: list[Callable[[], object]] = [
        lambda: store.tenant(name),
        lambda: store.account("one", name),
        lambda: store.account(name, "svc_1"),
        lambda: store.delete_account("one", name, event()),
        lambda: store.key(name),
        lambda: store.events(after=name),
        lambda: store.events(before=name),
    ]
    assert {refused(call)[0] for call in calls} <= {"not_found", "invalid"}
    if name.isprintable():
        assert {refused(call)[0] for call in calls} == {"not_found"}
        assert store.read_setting(name) is None
        assert store.position(name) is None


def test_what_is_anothers_is_not_found(store: TenantStore) -> None:
    """Accounts and keys stay with their tenant, and the answer does not tell that they exist."""
    put(store, tenant("one"), tenant("two"), account(), key())
    not_found = [
        lambda: store.account("two", "svc_1"),
        lambda: store.delete_account("two", "svc_1", event()),
        lambda: put(store, account(tenant_id="two")),
        lambda: put(store, account("svc_2", "three")),
        lambda: put(store, key(tenant_id="two")),
        lambda: put(store, key(tenant_id=None)),
        lambda: put(store, key("key_2", "two", account_id="svc_1")),
        lambda: put(store, key("key_2", "three")),
    ]
    assert {refused(call)[0] for call in not_found} == {"not_found"}
    assert (store.keys(tenant_id="two"), store.accounts("two")) == ([], [])


def test_no_two_keys_have_one_digest(store: TenantStore) -> None:
    """Not even of two tenants; a key may be put again, with another digest, and the old one is then free."""
    put(store, tenant("one"), tenant("two"), key())
    digest = api_key_digest("key_1")
    assert refused(lambda: put(store, key("key_2", "two", digest=digest))) == ("key_exists", "digest")
    put(store, key(digest="f" * 64), key("key_2", "two", digest=digest))


def test_a_refused_change_leaves_nothing(store: TenantStore) -> None:
    """Neither its event nor a version: change and audit are one."""
    put(store, tenant(), key())
    before = (store.changes_since(0), store.events())
    known = store.events()[0]
    calls = [
        lambda: put(store, key("key_2", "nobody")),
        lambda: store.put_tenant(tenant("two"), known),
        lambda: store.put_setting("x", "y", known),
        lambda: store.put_setting("x", "\x00", event()),
        lambda: store.put_setting("x", "y" * 20_000, event()),
        lambda: store.delete_account("one", "svc_1", event()),
    ]
    for call in calls:
        refused(call)
    assert (store.changes_since(0), store.events()) == before
    assert store.read_setting("x") is None


def test_an_event_of_what_is_not_kept_here_stands_in_the_audit_log(store: TenantStore) -> None:
    """In its place, once, and with nothing else."""
    put(store, tenant(), key())
    version = store.changes_since(0).version
    alone = event(kind="replica.drained", at_ms=9, details={"id": "m/1"})
    store.put_event(alone)
    assert store.events(limit=1) == store.events(kinds=["replica.drained"]) == [alone]
    assert store.changes_since(version)[1:] == ((), (), False)
    assert refused(lambda: store.put_event(alone))[1] == "id"
    assert store.events(kinds=["replica.drained"]) == [alone]


def test_deleting_an_account_revokes_its_keys(store: TenantStore) -> None:
    """As of the event, all of them and no others; those revoked before keep their time, and all stay to be seen."""
    put(store, tenant(), account(), account("svc_2"))
    put(store, key("a", account_id="svc_1"), key("b", account_id="svc_1", revoked_ms=3), key("c", account_id="svc_2"))
    put(store, key("d"))
    version = store.changes_since(0).version
    store.delete_account("one", "svc_1", event(at_ms=7))
    assert {one.id: one.revoked_ms for one in store.keys(tenant_id="one")} == {"a": 7, "b": 3, "c": None, "d": None}
    assert [one.id for one in store.changes_since(version).keys] == ["a"]
    assert [one.id for one in store.accounts("one")] == ["svc_2"]
    put(store, key("a", account_id="svc_1", name="renamed", revoked_ms=7))
    assert refused(lambda: put(store, key("e", account_id="svc_1"))) == ("not_found", "account_id")


def test_keys_are_listed_by_owner(store: TenantStore) -> None:
    """A tenant's, one account's of it, or the realm's admin keys."""
    put(store, tenant(), account(), key("a"), key("b", account_id="svc_1"), key("c", None))
    assert [one.id for one in store.keys(tenant_id="one")] == ["a", "b"]
    assert [one.id for one in store.keys(tenant_id="one", account_id="svc_1")] == ["b"]
    assert [one.id for one in store.keys(tenant_id=None)] == ["c"]


def test_events_are_read_newest_first_from_any_point(store: TenantStore) -> None:
    """In the order in which they happened, whatever their clocks said; backwards and forwards from any of them."""
    clocks = [5, 4, 9, 1, 7, 7]
    for number, at_ms in enumerate(clocks):
        kind = "project.updated" if number % 2 else "project.created"
        store.put_tenant(tenant(), event(id=f"e{number}", at_ms=at_ms, kind=kind, tenant_id=f"t{number // 2}"))

    def ids(**question: Any) -> str:
        return "".join(one.id[1:] for one in store.events(**question))

    assert ids() == "543210"
    assert ids(limit=2) == "54"
    assert ids(after="e3", limit=2) == "21"
    assert ids(before="e2", limit=2) == "43"
    assert ids(before="e1", after="e4") == "32"
    assert ids(before="e0", after="e5", limit=2) == "43"
    assert ids(since_ms=5, until_ms=9) == "540"
    assert ids(since_ms=-(10**30), until_ms=10**30) == "543210"
    assert ids(kinds=["project.updated"], tenant_ids=["t0", "t2"]) == "51"
    assert ids(tenant_ids=["nobody"]) == ids(after="e0") == ids(before="e5") == ""
    assert refused(lambda: store.events(kinds=list(map(str, range(1001)))))[0] == "invalid"


def test_a_setting_is_a_word_by_name(store: TenantStore) -> None:
    """None until it is put, then the last that was."""
    assert store.read_setting("retention") is None
    for value in ("90 days", "", "ü" * 16_384):
        store.put_setting("retention", value, event())
        assert store.read_setting("retention") == value


def test_a_setting_that_is_kept_is_whose_came_first(store: TenantStore) -> None:
    """Of many at once all are told the same; it is no officer's act and no change of a tenant."""
    before = (store.changes_since(0), store.events())
    with ThreadPoolExecutor(8) as pool:
        told = set(pool.map(lambda number: store.keep_setting("secret", str(number)), range(16)))
    assert len(told) == 1
    assert store.keep_setting("secret", "late") == store.read_setting("secret") == told.pop()
    assert (store.changes_since(0), store.events()) == before
    assert refused(lambda: store.keep_setting("x", "\x00")) == ("invalid", "value")
    assert store.read_setting("x") is None


def test_ten_thousand_tenants(store: TenantStore) -> None:
    """All are told at once, and one change among them by itself."""
    for number in range(10_000):
        store.put_tenant(tenant(f"t{number:05}"), event())
    everything = store.changes_since(0)
    assert len(everything.tenants) == 10_000
    put(store, tenant("t04711", weight=9))
    assert store.changes_since(everything.version).tenants == (tenant("t04711", weight=9),)
    assert [one.id for one in store.tenants(after="t09998")] == ["t09999"]


def test_every_adapter_does_what_memory_does(store: TenantStore) -> None:
    """A thousand random calls with few ids, half of them wrong: the same answers and the same refusals."""
    memory, chance = MemoryStore(), random.Random(6)
    outcomes = Counter(compare_once(memory, store, chance) for _ in range(1000))
    assert outcomes["answered"] > 300
    assert outcomes["refused"] > 100
    assert sorted(store.changes_since(0).keys, key=lambda one: one.id) == sorted(
        memory.changes_since(0).keys, key=lambda one: one.id
    )


def compare_once(memory: TenantStore, store: TenantStore, chance: random.Random) -> str:
    def pick(prefix: str) -> str:
        return f"{prefix}{chance.randrange(4)}"

    happening = event(id=pick("e") + pick("") + pick("") + pick(""), at_ms=chance.randrange(9), tenant_id=pick("t"))
    a_tenant = tenant(pick("t"), weight=chance.randrange(1, 9), archived_ms=chance.choice([None, 1]))
    an_account = account(pick("s"), pick("t"))
    a_key = key(pick("k"), pick("t"), digest=pick("a" * 63), account_id=chance.choice([None, pick("s")]))
    window = {"gateway": pick("g"), "tenant_id": pick("t"), "meter": "m", "window": chance.randrange(12)}
    entries = chance.randrange(40)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("put_tenant", (a_tenant, happening), {}),
        ("put_account", (an_account, happening), {}),
        ("put_key", (a_key, happening), {}),
        ("put_key", (a_key, happening), {}),
        ("delete_account", (pick("t"), pick("s"), happening), {}),
        ("tenant", (pick("t"),), {}),
        ("tenants", (), {"after": pick("t"), "limit": 2, "include_archived": chance.random() < 0.5}),
        ("accounts", (pick("t"),), {"after": pick("s")}),
        ("account", (pick("t"), pick("s")), {}),
        ("key", (pick("k"),), {}),
        ("keys", (), {"tenant_id": pick("t"), "account_id": chance.choice([None, pick("s")])}),
        ("events", (), {"limit": 3, "tenant_ids": [pick("t")], "since_ms": chance.randrange(9)}),
        ("lease", (), {**window, "amount": chance.randrange(-1, 50), "limit": 60}),
        ("give_back", (), {**window, "amount": chance.randrange(50)}),
        ("charge", (pick("o"), Position(entries, entries), [charge(tenant_id=pick("t"))] * 3), {}),
        ("forget_ledger", (pick("o"),), {}),
        ("position", (pick("o"),), {}),
        ("used", (), {"tenant_id": pick("t"), "since_ms": 0, "until_ms": chance.randrange(2)}),
    ]
    method, arguments, options = chance.choice(calls)
    answers = []
    for one in (memory, store):
        try:
            answers.append(getattr(one, method)(*arguments, **options))
        except Invalid as error:
            answers.append((error.code, error.param))
    assert answers[0] == answers[1], (method, arguments, options)
    return "refused" if isinstance(answers[0], tuple) and type(answers[0]) is tuple else "answered"


@pytest.mark.parametrize(
    "name",
    [
        "housing",
        "Hous\u00ading",
        "Hous\u200bing",
        "\uff28ousing",
        "Housing\ufe0f\u3164",
        "Housing\u00a0",
        "\U0001d407OUSING",
        "\U000e0041Housing",
        "one",
    ],
)
def test_no_two_tenants_have_names_that_look_the_same(store: TenantStore, name: str) -> None:
    """Who reads a name in a list, or says it on the command line, means one tenant by it; nor is it another's id."""
    put(store, tenant("one", name="Housing"), tenant("two", name="Benefits"))
    for again in (tenant("three", name=name), tenant("two", name=name)):
        with pytest.raises(Invalid) as refused:
            put(store, again)
        assert (refused.value.code, refused.value.param) == ("tenant_exists", "name")
    assert [one.name for one in store.tenants()] == ["Housing", "Benefits"]
    put(store, tenant("one", name="HOUSING", weight=2))  # its own name, written otherwise


def test_a_tenant_that_ended_leaves_its_name(store: TenantStore) -> None:
    """Who was renamed leaves it, too; and what is archived is changed without being compared."""
    put(store, tenant("one", name="Housing"), tenant("one", name="Housing", archived_ms=5))
    put(store, tenant("two", name="housing"), tenant("one", name="Housing", archived_ms=5, weight=2))
    put(store, tenant("two", name="Parks"), tenant("x3", name="Housing"))
    assert [one.name for one in store.tenants()] == ["Parks", "Housing"]
