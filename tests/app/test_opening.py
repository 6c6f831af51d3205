"""Opening a realm: made on first use, found again afterwards, and let go of whole if any step fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from sqlite3 import DatabaseError, connect

import pytest
from tests.conftest import CACHE, environment, run_allod
from tests.govern.test_ledger import RECEIPT

from allod.app.artefacts.log import ArtefactsLog
from allod.app.gateway import open_realm as opening_module
from allod.app.gateway.meter import recount
from allod.app.gateway.open_realm import OpenRealm, open_realm
from allod.app.home import Home, load_settings
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.statements.receipt import MeterPart, statement_bytes
from allod.core.times import day_of, now_ms
from allod.govern.metering.quotas import Cost, NeedsLease, Reservation
from allod.govern.policy.decision import default_text
from allod.govern.stores.memory import MemoryStore
from allod.govern.stores.sqlite import sqlite_store
from allod.govern.tenancy.store import Position
from allod.govern.tenancy.tenants import LOCAL, ORGANIZATION_MICROS, AuditEvent, Budget, Tenant, new_id, organization
from allod.prove.tlog.log import Entry
from allod.settings.tree import Settings, TenantsOptions

OWN_TEXT = (
    default_text() + '\n@id("none-for-b")\n@reason("Not b.")\nforbid (principal in Tenant::"b", action, resource);\n'
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


@contextmanager
def opened(made: Settings) -> Iterator[OpenRealm]:
    found = open_realm(made)
    with found.resources:
        yield found


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def event() -> AuditEvent:
    return AuditEvent(new_id("audit_log-"), 1, "project.updated", "test")


def write_receipts(found: OpenRealm, num: int) -> None:
    """Receipts of the local tenant's, durable and not charged."""
    entries = []
    start_ms = now_ms()
    day = day_of(start_ms)
    for number in range(num):
        key = found.day_keys.use(LOCAL, day)
        meter = MeterPart(found.day_keys.key_name(LOCAL, day, "key_1"), engine_ms=5, micros=7)
        receipt = replace(
            RECEIPT, id=f"r{number}", start_ms=start_ms, end_ms=start_ms, tenant=key.pseudonym, meter=meter
        )
        entries.append(Entry(statement_bytes(receipt), receipt.id))
    found.log.append(entries)


def spend(found: OpenRealm, tenant: Tenant, micros: int) -> Reservation:
    """Hold so many millionths of the tenant's, leased as they must be."""
    for _ in range(3):
        one = found.quotas.reserve(tenant, model="m", tokens=1, now_ms=now_ms(), cost=Cost(micros=micros))
        if isinstance(one, Reservation):
            return one
        found.quotas.lease(one)
    raise AssertionError("nothing was leased")


def test_a_log_that_is_gone_is_not_begun_anew(settings: Settings) -> None:
    """Neither by a start nor by counting anew: nothing is written, and the ledger keeps what it has."""
    with opened(settings) as found:
        write_receipts(found, 3)
        found.meter.catch_up()
    home = Home(settings.home)
    home.receipts.rename(settings.home / "elsewhere")
    for begin in (lambda: open_realm(settings), lambda: recount(settings, sqlite_store(home.tenants))):
        with pytest.raises(Unavailable) as caught:
            begin()
        assert (caught.value.code, home.receipts.exists()) == ("log_gone", False)
    (settings.home / "elsewhere").rename(home.receipts)
    with opened(settings) as found:
        assert (found.store.position(settings.origin) or Position(0, 0)).num_entries == found.log.head.size == 3


# Well opened


def test_everything_is_made_on_first_use(settings: Settings) -> None:
    """A policy in force, an empty log, the local tenant; its lowest tier and no label above it."""
    with opened(settings) as found:
        assert found.policy.text == default_text()
        assert (found.log.head.size, found.log.origin) == (0, settings.origin)
        assert found.store.tenant(LOCAL).archived_ms is None
        assert found.tier == found.nation.tiers[0]
        assert len(found.salt_secret) == 32
        assert found.meter.catch_up() == 0


def test_a_later_opening_finds_what_was_there(settings: Settings) -> None:
    """The same keys, the same secret, the same policy, and one version of it in its history."""
    with opened(settings) as first:
        told = first.trust, first.salt_secret, first.policy.digest
        keys = first.store.changes_since(0)
    with opened(settings) as again:
        assert (again.trust, again.salt_secret, again.policy.digest) == told
        assert again.store.changes_since(0) == keys
        assert len(again.policies.history().versions) == 1


def test_gateways_of_one_store_derive_the_same_salts(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an engine that both ask a tenant finds its own there, through whichever; alone each has its own secret."""
    store = MemoryStore()
    monkeypatch.setattr(opening_module, "open_store", lambda settings: store)
    other = load_settings(home=tmp_path / "other")
    with opened(settings) as one, opened(other) as two:
        assert one.salt_secret != two.salt_secret
    shared = TenantsOptions(database="postgresql://db.example/allod")
    with opened(replace(settings, tenants=shared)) as one, opened(replace(other, tenants=shared)) as two:
        assert one.salt_secret == two.salt_secret
        assert len(one.salt_secret) == 32


def test_a_policy_of_the_realms_own_stays_in_force(settings: Settings) -> None:
    """The built-in one is for a realm that never had any; a restart does not bring it back."""
    with opened(settings) as first:
        first.policies.set(OWN_TEXT, who="test", now_ms=now_ms(), even_so=True)
    with opened(settings) as again:
        assert again.policy.text == OWN_TEXT


def test_what_may_be_trusted_is_told_outside(settings: Settings) -> None:
    """Both logs' keys, in the file that is handed to whoever verifies; made again if it was lost."""
    with opened(settings) as found:
        trust = found.trust
        assert found.log.verifier_key in trust
        assert ArtefactsLog(settings).signing_key().verifier_key in trust
    file = Home(settings.home).trust
    assert file.read_text() == trust
    file.unlink()
    with opened(settings):
        assert file.read_text() == trust


@pytest.mark.parametrize("tier", ["OFFICIAL", "SECRET", "TOP SECRET"])
def test_the_site_may_handle_what_its_settings_say(settings: Settings, tier: str) -> None:
    """By the nation's own word."""
    with opened(replace(settings, realm=replace(settings.realm, tier=tier))) as found:
        assert found.tier.name == tier


def test_the_ledger_has_caught_up(settings: Settings) -> None:
    """What was answered before a kill counts against limits before anything else is answered."""
    with opened(settings) as first:
        write_receipts(first, 5)
        assert first.store.position(settings.origin) is None
    with opened(settings) as again:
        assert (again.store.position(settings.origin) or Position(0, 0)).num_entries == 5
        totals = again.store.used(tenant_id=LOCAL, since_ms=0, until_ms=2**53 - 1)
        assert (totals.requests, totals.micros) == (5, 35)
        assert again.meter.catch_up() == 0


# What an earlier run had leased


@pytest.mark.parametrize("whose", ["tenant", "organization"])
def test_what_a_killed_run_had_leased_is_found_again(settings: Settings, whose: str) -> None:
    """A budget for a month is not lost with the gateway that held a part of it: only what receipts charge is gone."""
    limited = organization("1000")
    assert limited is not None
    if whose == "tenant":
        limited = Tenant("b", "B", 1, budgets=(Budget("month", micros=1000),))
    with opened(settings) as first:
        if whose == "tenant":
            first.store.put_tenant(limited, event())
        else:
            first.store.put_setting(ORGANIZATION_MICROS, "1000", event())
        spend(first, limited, 1000)
        write_receipts(first, 0 if whose == "tenant" else 3)  # of another tenant: 21 millionths of all tenants'
    with opened(settings) as again:
        spend(again, limited, 1000 if whose == "tenant" else 979)


def test_what_other_gateways_hold_is_left_to_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shared database nobody can tell a killed gateway's slice from that of one that is about to spend it."""
    store = MemoryStore()
    monkeypatch.setattr(opening_module, "open_store", lambda settings: store)
    shared = replace(settings, tenants=TenantsOptions(database="postgresql://db.example/allod"))
    limited = Tenant("b", "B", 1, budgets=(Budget("month", micros=1000),))
    store.put_tenant(limited, event())
    with opened(shared) as first:
        spend(first, limited, 1000)
    with opened(shared) as again:
        needed = again.quotas.reserve(limited, model="m", tokens=1, now_ms=now_ms(), cost=Cost(micros=1))
        assert isinstance(needed, NeedsLease)
        with pytest.raises(Unavailable):
            again.quotas.lease(needed)


# Badly opened


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def is_ahead(home: Path) -> None:
    store = sqlite_store(home / "tenants.sqlite")
    store.charge(f"{(home / 'realm').read_text().strip()}/receipts/local", Position(10**6, 10**9), [])
    store.close()


def lose_index_and_damage(home: Path) -> None:
    damage(home / "logs" / "receipts" / "segment")
    (home / "logs" / "receipts" / "index.sqlite").unlink()
    (home / "trust.policy").unlink()


def lose_logs_and_keys(home: Path) -> None:
    rmtree(home / "logs")
    for key in (home / "keys").glob("*.key"):
        key.unlink()


def hide(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "the tenants' file is damaged": (
        lambda home: (home / "tenants.sqlite").write_bytes(b"x" * 8192),
        "tenants_corrupt",
    ),
    "a key can be read by others": (lambda home: (home / "local.key").chmod(0o644), "key_permissions"),
    "the artefacts log is damaged": (lambda home: damage(home / "logs" / "artefacts" / "segment"), "log_damaged"),
    "a policy's text is gone": (lambda home: hide(home / "policies"), "policy_unavailable"),
    "the artefacts key can be read by others": (
        lambda home: (home / "keys" / "artefacts.key").chmod(0o644),
        "unsafe_secret",
    ),
    "the log's key can be read by others": (
        lambda home: (home / "keys" / "receipts.key").chmod(0o644),
        "unsafe_secret",
    ),
    "the log is damaged": (lambda home: damage(home / "logs" / "receipts" / "segment"), "log_damaged"),
    "the log's segment is gone": (lambda home: (home / "logs" / "receipts" / "segment").unlink(), "log_damaged"),
    "the ledger is ahead of the log": (is_ahead, "ledger_ahead"),
    "the salts can be read by others": (lambda home: (home / "keys" / "salts.key").chmod(0o644), "unsafe_secret"),
    "the artefacts log is gone": (lambda home: rmtree(home / "logs" / "artefacts"), "log_gone"),
    "the artefacts log's segment is gone": (
        lambda home: (home / "logs" / "artefacts" / "segment").unlink(),
        "log_gone",
    ),
    "the log's key is gone": (lambda home: (home / "keys" / "receipts.key").unlink(), "key_gone"),
    "the artefacts log's key is gone": (lambda home: (home / "keys" / "artefacts.key").unlink(), "key_gone"),
    "both logs are gone, and nothing was charged": (lambda home: rmtree(home / "logs"), "log_gone"),
    "both logs and all their keys are gone": (
        lose_logs_and_keys,
        "log_gone",
    ),
    "the log is damaged and its index gone": (lose_index_and_damage, "log_damaged"),
}


@pytest.mark.parametrize("why", SPOILED)
def test_nothing_is_left_open_or_changed_where_a_step_fails(settings: Settings, why: str) -> None:
    """No file, no lock, no connection, and nothing is made or changed: whoever repairs it can start again in the same
    process, and finds all that there was to repair it from."""
    spoil, code = SPOILED[why]
    with opened(settings) as found:
        write_receipts(found, 3)
    spoil(settings.home)
    before = num_open_files(), contents(settings.home)
    with pytest.raises(AllodError) as caught:
        open_realm(settings)
    assert caught.value.code == code
    assert (num_open_files(), contents(settings.home)) == before


def test_a_name_that_is_gone_is_not_made_up(settings: Settings) -> None:
    """A log has been written under it: another would be another realm's."""
    with opened(settings):
        pass
    (settings.home / "realm").unlink()
    with pytest.raises(Invalid) as caught:
        load_settings(home=settings.home)
    assert (caught.value.code, (settings.home / "realm").exists()) == ("realm_unnamed", False)
    assert load_settings({"realm.name": settings.realm.name}, home=settings.home) == settings


def test_salts_that_cannot_be_read_begin_no_log(settings: Settings) -> None:
    """Nor a policy: what was put into a new home is checked before anything is made of it."""
    salts = Home(settings.home).salts
    salts.parent.mkdir(parents=True)
    salts.write_bytes(bytes(32))
    salts.chmod(0o644)
    with pytest.raises(AllodError):
        open_realm(settings)
    assert not (settings.home / "logs").exists()


def contents(home: Path) -> dict[str, bytes]:
    """Of every file in the realm; of a database what it says, whichever of SQLite's files that stands in."""
    files = (path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(home)): said(path) for path in files}


def said(path: Path) -> bytes:
    if path.suffix == ".sqlite":
        with suppress(DatabaseError), closing(connect(path)) as database:
            return "\n".join(database.iterdump()).encode()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nation": "zz"}, "nation_unknown"),
        ({"tier": "COSMIC"}, "unknown_label"),
        ({"site": "moved"}, "log_origin"),
        ({"shard": "moved"}, "log_origin"),
    ],
)
def test_nothing_is_left_open_for_settings_that_cannot_be(
    settings: Settings, changes: dict[str, str], code: str
) -> None:
    """And the realm opens as it was once they are put right."""
    with opened(settings):
        pass
    before = num_open_files(), contents(settings.home)
    for _ in range(2):
        with pytest.raises(Invalid) as caught:
            open_realm(replace(settings, realm=replace(settings.realm, **changes)))
        assert caught.value.code == code
    assert (num_open_files(), contents(settings.home)) == before
    with opened(settings):
        pass


def test_a_realm_is_open_once(settings: Settings) -> None:
    """The second is told so and takes nothing from the first, which goes on."""
    before = num_open_files()
    with opened(settings) as first:
        held = contents(settings.home)
        with pytest.raises(Unavailable) as caught:
            open_realm(settings)
        assert caught.value.code == "log_locked"
        assert contents(settings.home) == held
        write_receipts(first, 1)
        assert first.meter.catch_up() == 1
    assert num_open_files() == before


@pytest.mark.parametrize(
    "words", [["allod.cli", "up", "--port=0"], ["allod.cli", "ask", "?"], ["allod.web", "--port=0"]]
)
def test_a_realm_that_is_open_is_said_before_a_model_is_fetched(settings: Settings, words: list[str]) -> None:
    """On whichever port, by whatever starts a gateway; nothing is begun."""
    with opened(settings):
        before = contents(settings.home)
        ran = subprocess.run(
            [sys.executable, "-m", *words, "--model=smollm2-135m"],
            env=environment(settings.home),
            input="",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, "another process has this log open" in ran.stderr) == (3, True), ran.stderr
        assert contents(settings.home) == before


def test_a_damaged_log_is_said_before_a_model_is_fetched(settings: Settings) -> None:
    """Which no gateway would serve."""
    with opened(settings):
        pass
    damage(settings.home / "logs" / "receipts" / "segment")
    before = contents(settings.home)
    ran = run_allod(settings.home, "up", "--port=0", "--model=smollm2-135m")
    assert (ran.returncode, "the log is damaged" in ran.stderr) == (2, True), ran.stderr
    assert contents(settings.home) == before


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "the log is damaged": (lambda home: damage(home / "logs" / "receipts" / "segment"), "the log is damaged"),
    "the artefacts log's key is gone": (lambda home: (home / "keys" / "artefacts.key").unlink(), "artefacts.key"),
    "no such nation": (lambda home: (home / "allod.toml").write_text('[realm]\nnation = "zz"\n'), "the nation 'zz'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("why", REFUSED)
def test_a_start_that_is_refused_leaves_the_engines_own_words_at_most(
    settings: Settings, weights: Path, why: str
) -> None:
    """With the model at hand the engine begins beside the opening; what receipts would give digests of is not kept."""
    spoil, said_of_it = REFUSED[why]
    with opened(settings):
        pass
    (settings.home / "store").symlink_to(CACHE / "store")
    (settings.home / "engine.log").touch()
    spoil(settings.home)
    before = contents(settings.home)
    ran = run_allod(settings.home, "up", "--port=0", "--model=smollm2-135m")
    assert (ran.returncode, said_of_it in ran.stderr) == (2, True), ran.stderr
    assert {**contents(settings.home), "engine.log": b""} == before
    assert not (settings.home / "evidence").exists()


def test_what_no_error_of_ours_describes_leaves_nothing_open_either(settings: Settings) -> None:
    """A directory where the trust file belongs, as an example of what a disk may hold."""
    with opened(settings):
        pass
    Home(settings.home).trust.unlink()
    Home(settings.home).trust.mkdir()
    before = num_open_files()
    with pytest.raises(OSError, match="trust"):
        open_realm(settings)
    assert num_open_files() == before


def test_closing_lets_go_of_everything(settings: Settings) -> None:
    """Once all is closed nothing is held, and closing it again is no error."""
    before = num_open_files()
    found = open_realm(settings)
    assert num_open_files() > before
    found.resources.close()
    found.resources.close()
    assert num_open_files() == before
