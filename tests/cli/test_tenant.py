"""`allod tenant` and `allod key`: what they change, what they refuse, and what they leave in the audit log."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.govern.test_ledger import RECEIPT

from allod.app.gateway.open_realm import open_realm
from allod.app.gateway.open_store import open_store
from allod.app.home import Home, load_settings
from allod.cli.main import main
from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.statements.receipt import statement_bytes
from allod.core.times import now_ms
from allod.govern.policy.decision import default_text
from allod.govern.tenancy.store import Position, TenantStore
from allod.govern.tenancy.tenants import AuditEvent as AuditEvent
from allod.govern.tenancy.tenants import Budget, Charge, Key, Quota, Scope, api_key_digest, local_tenant, new_id
from allod.prove.formats.signing_key import load_signing_key
from allod.prove.tlog.log import Entry, open_log

DAY_MS = 86_400_000
Say = Callable[..., Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A realm of the test's own."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def store(home: Path) -> Iterator[TenantStore]:
    """The same store, as another process would have it open."""
    with closing(open_store(load_settings())) as opened:
        yield opened


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Say it to the command line with `--json`: what it answers."""

    def said(*words: str) -> Any:
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return said


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Say what is wrong: it ends with 2, and says why and what would be right; what it said."""

    def said(*words: str) -> str:
        status = main(words)
        printed = capsys.readouterr()
        assert (status, printed.out) == (2, "")
        assert any(text in printed.err for text in ("hint: ", "usage: ", " must be "))
        return printed.err

    return said


def words_of(*words: str) -> frozenset[str]:
    return frozenset(words)


# Tenants


def test_a_tenant_is_kept_as_it_was_said(say: Say, store: TenantStore) -> None:
    """Label, scope, share, quotas and budgets; and what was not said is not restricted."""
    words = ["--tier=OFFICIAL", "--markings=SENSITIVE,PERSONAL DATA", "--purposes=research", "--jurisdictions=GB"]
    words += ["--models=a,b", "--clearance=SECRET", "--weight=5", "--priority=1", "--requests-per-minute=60"]
    words += ["--tokens-per-minute=1000", "--concurrent=3", "--model-quota", "my model concurrent=1"]
    words += ["--budget", "day tokens=100", "--budget", "month engine-ms=5 micros=7 millijoules=9 tokens=3"]
    made = store.tenant(say("tenant", "add", "Press office", *words)["id"])
    assert (made.name, made.tier, made.markings) == ("Press office", "OFFICIAL", words_of("SENSITIVE", "PERSONAL DATA"))
    assert (made.purposes, made.jurisdictions) == (words_of("research"), words_of("GB"))
    assert (made.scope.models, made.scope.clearance) == (words_of("a", "b"), "SECRET")
    assert (made.weight, made.priority, made.quota) == (5, 1, Quota(60, 1000, 3))
    assert made.model_quotas == {"my model": Quota(concurrent=1)}
    assert made.budgets == (Budget("day", tokens=100), Budget("month", 3, 5, 9, 7))
    plain = store.tenant(say("tenant", "add", "Plain")["id"])
    assert (plain.quota, plain.budgets, plain.scope.models, plain.purposes) == (Quota(), (), None, None)


def test_set_changes_what_is_named_and_nothing_else(say: Say, store: TenantStore) -> None:
    """One quota lifted, one budget replaced; the others stay as they were."""
    made = say("tenant", "add", "T", "--requests-per-minute=60", "--concurrent=2", "--budget", "day tokens=1")
    say("tenant", "set", made["id"], "--concurrent=none", "--budget", "month tokens=9", "--name=U")
    found = store.tenant(made["id"])
    assert (found.name, found.quota) == ("U", Quota(60))
    assert found.budgets == (Budget("day", tokens=1), Budget("month", tokens=9))
    say("tenant", "set", "U", "--budget", "day none", "--models=a", "--markings=none")
    say("tenant", "set", "U", "--models=any", "--model-quota", "m tokens-per-minute=5")
    found = store.tenant(made["id"])
    assert (found.budgets, found.scope.models) == ((Budget("month", tokens=9),), None)
    assert found.model_quotas == {"m": Quota(tokens_per_minute=5)}
    assert say("tenant", "set", "U", "--model-quota", "m none")["rate_limits"] == []


def test_an_archived_tenant_is_seen_only_when_asked_for(say: Say, refused: Callable[..., str]) -> None:
    """It stays, and changes no more; a new one may have its name."""
    old = say("tenant", "add", "T")["id"]
    assert say("tenant", "archive", "T")["status"] == "archived"
    assert [one["id"] for one in say("tenant", "list")] == ["local"]
    assert [one["id"] for one in say("tenant", "list", "--all")] == ["local", old]
    assert "archived" in refused("tenant", "set", "T", "--weight=2")
    assert "archived" in refused("key", "add", "T")
    new = say("tenant", "add", "T")["id"]
    assert say("tenant", "show", "T")["id"] == new
    assert say("tenant", "show", old)["archived_at"] is not None


def test_two_of_one_name_must_be_told_apart(say: Say, refused: Callable[..., str]) -> None:
    """The hint names their ids. Only of tenants that have ended can there be two."""
    ids = {say("tenant", "archive", say("tenant", "add", "T")["id"])["id"] for _ in range(2)}
    said = refused("tenant", "archive", "T")
    assert all(one in said for one in ids)


@pytest.mark.parametrize(
    "words",
    [
        ("--tier=COSMIC",),
        ("--markings=NO SUCH",),
        ("--purposes=fun",),
        ("--clearance=COSMIC",),
        ("--requests-per-minute=0",),
        ("--tokens-per-minute=-1",),
        (f"--concurrent={MAX_SAFE_INTEGER + 1}",),
        ("--weight=0",),
        ("--weight=1001",),
        ("--priority=2",),
        ("--models=a,,b",),
        ("--requests-per-minute=many",),
        ("--budget=day",),
        ("--budget=",),
        ("--budget=year tokens=1",),
        ("--budget=day tokens=0",),
        ("--budget=day tokens=-1",),
        ("--budget=day euros=1",),
        ("--budget=day tokens=1 none",),
        ("--model-quota=m",),
        ("--model-quota=concurrent=1",),
        ("--name=",),
        ("--name= ",),
        ("--name=T\u202efdp.exe",),
        ("--name=T\ufeff",),
        ("--name=" + "x" * 300,),
        (),
    ],
    ids=str,
)
def test_what_makes_no_sense_changes_nothing(
    say: Say, refused: Callable[..., str], store: TenantStore, words: tuple[str, ...]
) -> None:
    """Refused with what is wrong and what would be right; the tenant and the audit log stay as they were."""
    made = say("tenant", "add", "T")["id"]
    before, events = store.tenant(made), store.events()
    refused("tenant", "set", "T", *words)
    assert (store.tenant(made), store.events()) == (before, events)


def test_the_local_tenant_cannot_be_archived(store: TenantStore, refused: Callable[..., str]) -> None:
    """The realm's own key would open nothing any more."""
    store.put_tenant(local_tenant(0), AuditEvent(new_id("audit_log-"), 0, "project.created", "test"))
    assert "local" in refused("tenant", "archive", "local")


@pytest.mark.parametrize("words", [("tenant", "show"), ("tenant", "archive"), ("key", "add"), ("key", "list")], ids=str)
def test_a_tenant_that_is_not_there(refused: Callable[..., str], words: tuple[str, ...]) -> None:
    """The hint says where to look."""
    assert "allod tenant list" in refused(*words, "Nobody")


def test_every_change_is_in_the_audit_log(say: Say, store: TenantStore) -> None:
    """Who, what and when; what changed, and never a key or its digest."""
    tenant = say("tenant", "add", "T")["id"]
    say("tenant", "set", "T", "--weight=9")
    first = say("key", "add", "T")
    second = say("key", "rotate", first["id"])
    say("key", "revoke", second["id"])
    say("tenant", "archive", "T")
    events = [event for event in store.events()[::-1] if event.actor != "allod:start"]
    assert [event.kind for event in events] == [
        "project.created",
        "project.updated",
        "api_key.created",
        "api_key.created",
        "api_key.updated",
        "api_key.deleted",
        "project.archived",
    ]
    assert {event.actor for event in events} == {f"cli:{getpass.getuser()}"}
    assert {event.tenant_id for event in events} == {tenant}
    assert [event.details["id"] for event in events] == [
        *[tenant] * 2,
        *[first["id"], second["id"], first["id"], second["id"]],
        tenant,
    ]
    changed: Any = events[1].details["changes_requested"]
    assert changed["allod"]["weight"] == 9
    assert events[4].details["changes_requested"] == {"expires_in_seconds": 86_400}
    written = str(events)
    for secret in (first["value"], second["value"]):
        assert secret not in written
        assert api_key_digest(secret) not in written


# Keys


def test_a_key_is_shown_once_and_kept_as_its_digest(
    say: Say, store: TenantStore, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone on standard output, so that a program can take it; in the realm's files it is nowhere."""
    tenant = say("tenant", "add", "T")["id"]
    assert main(["key", "add", "T", "--name=CI", "--models=a", "--clearance=SECRET", "--purposes=research"]) == 0
    secret = capsys.readouterr().out.removesuffix("\n")
    [key] = store.keys(tenant_id=tenant)
    assert (len(secret), secret[:6], key.digest, key.hint) == (49, "allod-", api_key_digest(secret), secret[-4:])
    assert (key.name, key.scope) == ("CI", Scope(words_of("a"), "SECRET", words_of("research")))
    assert not any(secret.encode() in file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert main(["key", "list", "T"]) == 0
    listed = capsys.readouterr().out
    assert key.id in listed
    assert secret not in listed
    assert key.digest not in json.dumps(say("key", "list", "T"))


def test_a_key_that_expires(say: Say) -> None:
    """After thirty days, counted from now."""
    say("tenant", "add", "T")
    made = say("key", "add", "T", "--expires=30d")
    assert made["expires_at"] - made["created_at"] == 30 * 86_400


def test_rotation_leaves_no_gap(say: Say, store: TenantStore) -> None:
    """The new key opens at once what the old one does, for as long; the old one still does for the overlap."""
    say("tenant", "add", "T")
    old = say("key", "add", "T", "--expires=30d", "--models=a")
    new = say("key", "rotate", old["id"], "--overlap=2h")
    kept = store.key(old["id"])
    assert kept.revoked_ms is None
    assert kept.expires_ms is not None
    assert kept.expires_ms // 1000 - new["created_at"] == 7200
    assert (new["allod"], new["name"], new["project_id"]) == (old["allod"], old["name"], old["project_id"])
    assert new["expires_at"] - new["created_at"] == 30 * 86_400
    assert new["value"] != old["value"]


def test_rotation_does_not_prolong_a_key(say: Say, store: TenantStore) -> None:
    """One that ends sooner than the overlap ends when it would have."""
    say("tenant", "add", "T")
    old = say("key", "add", "T", "--expires=1h")
    ends_ms = store.key(old["id"]).expires_ms
    say("key", "rotate", old["id"], "--overlap=24h")
    assert store.key(old["id"]).expires_ms == ends_ms


def test_a_revoked_key_is_ended(say: Say, store: TenantStore, refused: Callable[..., str]) -> None:
    """At once; it is not listed any more and cannot be rotated. Revoking it again changes nothing."""
    say("tenant", "add", "T")
    made = say("key", "add", "T")["id"]
    assert say("key", "revoke", made)["revoked_at"] is not None
    before = store.key(made)
    say("key", "revoke", made)
    assert store.key(made) == before
    assert say("key", "list", "T") == []
    assert [one["id"] for one in say("key", "list", "T", "--all")] == [made]
    assert "ended" in refused("key", "rotate", made)


@pytest.mark.parametrize(
    "words",
    [
        ("--expires=0d",),
        ("--expires=-1d",),
        ("--expires=soon",),
        ("--expires=9999999w",),
        ("--clearance=COSMIC",),
        ("--purposes=fun",),
        ("--models=",),
        ("--name=",),
        ("--name=CI\u2066",),
    ],
    ids=ascii,
)
def test_a_key_that_makes_no_sense_is_not_made(say: Say, refused: Callable[..., str], words: tuple[str, ...]) -> None:
    """Refused with what would be right."""
    say("tenant", "add", "T")
    refused("key", "add", "T", *words)
    assert say("key", "list", "T", "--all") == []


@pytest.mark.parametrize("part", ["rotate", "revoke"])
def test_a_key_that_is_not_there(refused: Callable[..., str], part: str) -> None:
    """The hint says where to look."""
    assert "allod key list" in refused("key", part, "key_x")


def test_a_used_key_is_not_called_unused(say: Say, store: TenantStore, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger knows, whether one tenant's keys are listed or everybody's."""
    tenant = say("tenant", "add", "T")["id"]
    made = say("key", "add", "T")
    charge = Charge("rcpt_1", tenant, made["id"], "m", made["created_at"] * 1000, "permit", "stop")
    store.charge("a/receipts/b", Position(1, 100), [charge])
    for words in ([], ["T"]):
        (listed,) = [one for one in say("key", "list", *words) if one["id"] == made["id"]]
        assert listed["last_used_at"] is not None
    assert main(["key", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(made["id"])]
    assert "never used" not in line


def test_keys_of_archived_tenants_are_not_listed_as_live(say: Say, refused: Callable[..., str]) -> None:
    """They open nothing: only `--all` shows them, and says why; nor is there a successor to one."""
    say("tenant", "add", "T")
    made = say("key", "add", "T")["id"]
    say("tenant", "archive", "T")
    for words in ([], ["T"]):
        assert made not in {one["id"] for one in say("key", "list", *words)}
        assert [one["ended"] for one in say("key", "list", "--all", *words) if one["id"] == made] == ["archived"]
    assert "archived" in refused("key", "rotate", made)


@pytest.mark.parametrize("part", ["rotate", "revoke"])
@pytest.mark.parametrize(("tenant_id", "file"), [("local", "local.key"), (None, "admin.key")])
def test_the_realms_own_keys_are_not_left_dead_in_their_files(
    store: TenantStore, refused: Callable[..., str], part: str, tenant_id: str | None, file: str
) -> None:
    """The hint is the way that works: without the file a new key is made."""
    (own,) = store.keys(tenant_id=tenant_id)
    assert "remove the file and start" in refused("key", part, own.id)
    assert file in refused("key", part, own.id)
    assert store.key(own.id) == own


def test_the_last_admin_key_that_lasts_stays(store: TenantStore, say: Say, refused: Callable[..., str]) -> None:
    """As over HTTP: one that expires does not count, nor one that is revoked."""
    (own,) = store.keys(tenant_id=None)
    lasting = replace(own, id="key_second", digest="1" * 64)
    for key in (lasting, replace(own, id="key_third", digest="2" * 64), replace(own, id="key_short", digest="3" * 64)):
        store.put_key(key, audited(key))
    short = replace(store.key("key_short"), expires_ms=1 << 42)
    store.put_key(short, audited(short))
    store.put_key(replace(own, revoked_ms=1), audited(own))
    say("key", "revoke", "key_third")
    assert "last admin key" in refused("key", "revoke", "key_second")
    assert store.key("key_second").revoked_ms is None


def audited(key: Key) -> AuditEvent:
    return AuditEvent(new_id("audit_log-"), 0, "api_key.updated", "test", None, {"id": key.id})


def test_an_overlap_ends_within_thirty_days(say: Say, store: TenantStore, refused: Callable[..., str]) -> None:
    """Thirty days are the most: after that, the old key would simply be another key."""
    say("tenant", "add", "T")
    made = say("key", "add", "T")
    for overlap in ("31d", "721h", "5w"):
        assert "30d" in refused("key", "rotate", made["id"], f"--overlap={overlap}")
    assert len(store.keys(tenant_id=made["project_id"])) == 1
    say("key", "rotate", made["id"], "--overlap=30d")


def test_beside_a_gateway_the_ledger_is_not_counted_anew(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log is the gateway's while it runs: the hint says to stop it."""
    settings = load_settings()
    with closing(open_log(Home(home).receipts, Home(home).signing_key(settings.origin))):
        for words in (["tenant", "recount"], ["log", "fsck", "--rebuild"]):
            Home(home).trust.touch()
            assert main(words) == 3
            assert "hint: stop the gateway" in capsys.readouterr().err
    assert main(["tenant", "recount"]) == 0


def test_what_a_person_sees(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    """The limits in words, and what was used of them."""
    say("tenant", "add", "Press", "--requests-per-minute=60", "--budget", "day tokens=100")
    assert main(["tenant", "show", "Press"]) == 0
    shown = capsys.readouterr().out
    for text in ("60 requests per minute", "100 tokens a day", "today", "0 requests"):
        assert text in shown
    assert main(["tenant", "list"]) == 0
    assert "Press" in capsys.readouterr().out


def test_while_the_clock_is_wrong_nothing_is_changed_but_what_ends(
    home: Path, store: TenantStore, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log's last time is two days ahead: what would be dated is refused, and the operator is not locked out."""
    tenant, key = say("tenant", "add", "Dyfed"), say("key", "add", "Dyfed")
    settings = load_settings()
    with closing(open_realm(settings).resources) as _:
        pass
    paths = Home(settings.home)
    ahead_ms = now_ms() + 2 * DAY_MS
    log = open_log(paths.receipts, load_signing_key(paths.log_key))
    log.append([Entry(statement_bytes(replace(RECEIPT, id="r1", start_ms=ahead_ms, end_ms=ahead_ms)), "r1")])
    log.close()
    policy = home / "policy.cedar"
    policy.write_text(default_text() + "// another\n")
    version = store.changes_since(0).version
    for words in (
        ["tenant", "add", "Powys"],
        ["tenant", "set", "Dyfed", "--weight=2"],
        ["key", "add", "Dyfed"],
        ["key", "rotate", key["id"]],
        ["policy", "set", str(policy), "--even-so"],
    ):
        assert main(words) == 3, words
        assert "the log's last time is" in capsys.readouterr().err
    assert store.changes_since(0).version == version
    assert say("policy", "history")[-1]["version"] == 1
    assert say("key", "revoke", key["id"])["revoked_at"] is not None
    assert say("tenant", "archive", tenant["id"])["status"] == "archived"
    assert say("log", "accept-clock")["log"] == settings.origin
    segment = (paths.artefacts / "segment").read_bytes()
    assert say("log", "accept-clock") is None
    assert main(["log", "accept-clock"]) == 0
    assert capsys.readouterr().out == "the clock is believed already: nothing was written\n"
    assert (paths.artefacts / "segment").read_bytes() == segment
    say("tenant", "add", "Powys")
    say("policy", "set", str(policy), "--even-so")
