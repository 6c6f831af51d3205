"""The store of tenants at a start: who is in it from the first one on, and what a later one must leave alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from allod.app.gateway import open_store as tenants_module
from allod.app.gateway.open_store import STARTED, open_store
from allod.app.home import Home
from allod.core.digests import sha256_hex
from allod.core.errors import Denied, Invalid
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.keys import KeyRing
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import LOCAL, AuditEvent, Key, Scope, api_key_digest, local_tenant, new_id
from allod.settings.files import load_nation
from allod.settings.tree import RealmOptions, Settings, TenantsOptions

NATION = load_nation("gb")


def settings(home: Path, *, site: str = "local") -> Settings:
    home.mkdir(exist_ok=True)
    return Settings(home=home, realm=RealmOptions(name="dyfed", site=site))


def started(made: Settings) -> None:
    """One start, with nothing else in it."""
    open_store(made).close()


def sharing(home: Path, shard: str = "") -> Settings:
    """A gateway at the one site, with its tenants in a database that others share."""
    home.mkdir()
    realm = RealmOptions(name="dyfed", site="north", shard=shard)
    return Settings(home=home, realm=realm, tenants=TenantsOptions(database="postgresql://db/allod"))


def secrets(made: Settings) -> tuple[str, str]:
    home = Home(made.home)
    return home.local_key.read_text().strip(), home.admin_key.read_text().strip()


def pair(store: TenantStore, made: Settings) -> tuple[Key, Key]:
    """The gateway's two keys as they are kept."""
    name = sha256_hex(made.origin.encode())[:12]
    return store.key(f"key_local_{name}"), store.key(f"key_admin_{name}")


def opens(store: TenantStore, secret: str) -> bool:
    """Whether the key is let in, for whatever it is."""
    ring = KeyRing(NATION)
    ring.refresh(store)
    try:
        ring.caller_of(secret, 1_900_000_000_000)
    except Denied as error:
        return error.code == "wrong_kind_of_key"
    return True


def event() -> AuditEvent:
    return AuditEvent(new_id("audit_log-"), 1, "api_key.updated", "test")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A database that all gateways of the test share."""
    store = MemoryStore()
    monkeypatch.setattr(tenants_module, "_open", lambda settings: store)
    return store


# The first start


def test_the_first_start_makes_a_tenant_and_two_keys(tmp_path: Path) -> None:
    """Whoever can read the files can use and govern this realm; nothing limits the tenant but policy."""
    made = settings(tmp_path)
    store = open_store(made)
    tenant = store.tenant(LOCAL)
    assert tenant == local_tenant(tenant.created_ms)
    assert [one.id for one in store.tenants()] == [LOCAL]
    local, admin = pair(store, made)
    assert (local.tenant_id, local.is_admin, local.scope) == (LOCAL, False, Scope())
    assert (admin.tenant_id, admin.is_admin) == (None, True)
    assert [local.digest, admin.digest] == [api_key_digest(secret) for secret in secrets(made)]
    assert [local.hint, admin.hint] == [secret[-4:] for secret in secrets(made)]
    assert (local.expires_ms, admin.expires_ms) == (None, None)
    store.close()


def test_its_keys_open_what_they_are_for(tmp_path: Path) -> None:
    """The local key is for use, the admin key for administration, and neither for the other."""
    made = settings(tmp_path)
    store = open_store(made)
    ring = KeyRing(NATION)
    ring.refresh(store)
    local, admin = secrets(made)
    assert ring.caller_of(local, 1).tenant.id == LOCAL
    assert ring.administrator_of(admin, 1).is_admin
    for ask, secret in ((ring.caller_of, admin), (ring.administrator_of, local)):
        with pytest.raises(Denied) as caught:
            ask(secret, 1)
        assert caught.value.code == "wrong_kind_of_key"
    store.close()


def test_key_files_are_for_their_owner_and_the_store_has_no_secret(tmp_path: Path) -> None:
    """0600; what is in the database opens nothing."""
    made = settings(tmp_path)
    started(made)
    home = Home(made.home)
    assert {path.stat().st_mode & 0o777 for path in (home.local_key, home.admin_key, home.tenants)} == {0o600}
    for file in made.home.glob("tenants.sqlite*"):
        for secret in secrets(made):
            assert secret.encode() not in file.read_bytes()


def test_the_first_start_is_in_the_audit_log(tmp_path: Path) -> None:
    """What nobody did by hand was done by the start, and says so."""
    store = open_store(settings(tmp_path))
    events = store.events()
    assert [(one.kind, one.actor, one.tenant_id) for one in reversed(events)] == [
        ("project.created", STARTED, LOCAL),
        ("api_key.created", STARTED, LOCAL),
        ("api_key.created", STARTED, None),
    ]
    store.close()


# Later starts


def test_a_later_start_changes_nothing(tmp_path: Path) -> None:
    """The same secrets, the same rows, no line in the audit log."""
    made = settings(tmp_path)
    store = open_store(made)
    version, before = store.changes_since(0).version, secrets(made)
    store.close()
    started(made)
    store = open_store(made)
    assert (store.changes_since(0).version, secrets(made), len(store.events())) == (version, before, 3)
    store.close()


def test_what_was_done_to_the_local_tenant_stays(tmp_path: Path) -> None:
    """A name, a weight, an archive: a restart is no way round what an administrator decided."""
    made = settings(tmp_path)
    store = open_store(made)
    changed = replace(store.tenant(LOCAL), name="The box", weight=5, archived_ms=7)
    store.put_tenant(changed, event())
    store.close()
    store = open_store(made)
    assert store.tenant(LOCAL) == changed
    assert not opens(store, secrets(made)[0])
    store.close()


def test_a_revoked_key_stays_revoked(tmp_path: Path) -> None:
    """As long as the file has the same key: starting again must not let it in."""
    made = settings(tmp_path)
    store = open_store(made)
    store.put_key(replace(pair(store, made)[0], revoked_ms=5), event())
    store.close()
    store = open_store(made)
    assert not opens(store, secrets(made)[0])
    store.close()


@pytest.mark.parametrize("which", [0, 1], ids=["local", "admin"])
@pytest.mark.parametrize("ended", [{}, {"revoked_ms": 5}, {"expires_ms": 5}], ids=str)
def test_a_new_key_file_takes_the_place_of_the_old(tmp_path: Path, which: int, ended: dict[str, int]) -> None:
    """Whoever removed the file and started again has a key that opens, also where the old one had ended; that one
    opens nothing any more, and the other of the pair is as it was."""
    made = settings(tmp_path)
    store = open_store(made)
    store.put_key(replace(pair(store, made)[which], **ended), event())  # type: ignore[arg-type]
    store.close()
    before = secrets(made)
    (Home(made.home).local_key, Home(made.home).admin_key)[which].unlink()
    store = open_store(made)
    after = secrets(made)
    assert (before[which] != after[which], before[1 - which] == after[1 - which]) == (True, True)
    assert [opens(store, secret) for secret in (before[which], *after)] == [False, True, True]
    assert pair(store, made)[which].hint == after[which][-4:]
    assert (store.events()[0].kind, store.events()[0].actor) == ("api_key.updated", STARTED)
    assert len(store.keys(tenant_id=LOCAL)) == len(store.keys(tenant_id=None)) == 1
    store.close()


def test_a_new_key_has_the_old_ones_scope(tmp_path: Path) -> None:
    """Making a key anew is no way to a wider one."""
    made = settings(tmp_path)
    store = open_store(made)
    scope = Scope(models=frozenset({"m"}), clearance="OFFICIAL")
    store.put_key(replace(pair(store, made)[0], scope=scope), event())
    store.close()
    Home(made.home).local_key.unlink()
    store = open_store(made)
    assert pair(store, made)[0].scope == scope
    store.close()


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    """A gateway and the command line may be first together: one tenant, one pair of keys, and they are the files'."""
    made = settings(tmp_path)
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(started, made) for _ in range(6)]:
            done.result()
    store = open_store(made)
    assert len(store.keys(tenant_id=LOCAL)) == len(store.keys(tenant_id=None)) == 1
    assert all(opens(store, secret) for secret in secrets(made))
    store.close()


# Gateways that share their tenants


def test_two_sites_do_not_fight_over_keys(tmp_path: Path, shared: MemoryStore) -> None:
    """Each has a pair of its own; starting one again changes nothing of the other's."""
    north, south = settings(tmp_path / "n", site="north"), settings(tmp_path / "s", site="south")
    for made in (north, south):
        started(made)
    everything, num_events = shared.changes_since(0), len(shared.events())
    for made in (north, south, north):
        started(made)
    assert (shared.changes_since(0), len(shared.events())) == (everything, num_events)
    assert len({*secrets(north), *secrets(south)}) == 4
    assert all(opens(shared, secret) for made in (north, south) for secret in secrets(made))
    assert {key.name for key in shared.keys(tenant_id=LOCAL)} == {"local.key of north", "local.key of south"}


def test_a_new_key_of_one_site_leaves_the_others(tmp_path: Path, shared: MemoryStore) -> None:
    """Only the old key of the site whose file was removed opens nothing any more."""
    north, south = settings(tmp_path / "n", site="north"), settings(tmp_path / "s", site="south")
    for made in (north, south):
        started(made)
    old = secrets(north)
    Home(north.home).local_key.unlink()
    started(north)
    assert not opens(shared, old[0])
    assert all(opens(shared, secret) for secret in (old[1], *secrets(north), *secrets(south)))


def test_a_log_of_one_name_is_one_gateways(tmp_path: Path, shared: MemoryStore) -> None:
    """A second one would take the first one's keys and its part of the ledger; with a shard of its own it is let in."""
    first = sharing(tmp_path / "first")
    started(first)
    before = pair(shared, first), shared.events()
    with pytest.raises(Invalid) as caught:
        started(sharing(tmp_path / "second"))
    assert (caught.value.code, caught.value.param) == ("origin_taken", "realm.shard")
    started(first)
    assert (pair(shared, first), shared.events()) == before
    third = sharing(tmp_path / "third", "north-2")
    started(third)
    assert [key.name for key in pair(shared, third)] == ["local.key of north-2", "admin.key of north-2"]


# What may fail


@pytest.mark.parametrize(
    "spoil",
    [
        lambda home: home.local_key.chmod(0o644),
        lambda home: home.admin_key.chmod(0o640),
        lambda home: home.local_key.write_text("allod-short\n"),
        lambda home: home.admin_key.write_text(home.local_key.read_text()),
    ],
    ids=["readable", "readable by the group", "no key", "a key for use where an admin key belongs"],
)
def test_a_key_file_that_cannot_be_used_stops_the_start(
    tmp_path: Path, shared: MemoryStore, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Home], object]
) -> None:
    """Refused with its name, nothing is changed, and the store is let go of."""
    made, closed = settings(tmp_path), list[bool]()
    started(made)
    monkeypatch.setattr(shared, "close", lambda: closed.append(True))
    spoil(Home(made.home))
    version = shared.changes_since(0).version
    with pytest.raises(Invalid) as caught:
        open_store(made)
    assert caught.value.code in ("key_permissions", "key_malformed")
    assert (shared.changes_since(0).version, closed) == (version, [True])


def test_whatever_fails_lets_go_of_the_store(
    tmp_path: Path, shared: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no error of ours, and a connection is open all the same."""
    closed = list[bool]()
    monkeypatch.setattr(shared, "close", lambda: closed.append(True))

    def fail(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tenants_module, "read_or_make_key", fail)
    with pytest.raises(OSError, match="No space"):
        open_store(settings(tmp_path))
    assert closed == [True]


def test_without_the_driver_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A realm with an address of a PostgreSQL and without its driver does not fall back to a file of its own."""
    monkeypatch.setitem(sys.modules, "allod.govern.stores.postgres", None)
    made = replace(settings(tmp_path), tenants=TenantsOptions(database="postgresql://db.example/allod"))
    with pytest.raises(Invalid) as caught:
        open_store(made)
    assert (caught.value.code, caught.value.param) == ("driver_missing", "tenants.database")
    assert list(tmp_path.iterdir()) == []
