"""Keys: made once, readable by their owner only; looked up by digest, refused alike, and never on old news."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.labels import Label, Tier
from allod.core.nations.nation import Nation
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy import keys
from allod.govern.tenancy.keys import MAX_NEWS_AGE_S, KeyRing, read_or_make_key, rotate
from allod.govern.tenancy.store import Changes
from allod.govern.tenancy.tenants import (
    ADMIN_PREFIX,
    USE_PREFIX,
    AuditEvent,
    Key,
    Scope,
    Tenant,
    api_key_digest,
    new_api_key,
    new_id,
)
from allod.settings.files import load_nation

NOW_MS = 1_790_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "local.key"


def test_a_key_is_made_once(path: Path) -> None:
    """The second start reads what the first wrote."""
    made = read_or_make_key(path)
    assert read_or_make_key(path) == made
    assert path.read_text() == made + "\n"


def test_no_two_realms_share_a_key(tmp_path: Path) -> None:
    """Keys are random, and long enough not to be guessed: 32 bytes."""
    made = {read_or_make_key(tmp_path / f"{number}.key") for number in range(20)}
    assert len(made) == 20
    assert all(len(key.removeprefix("allod-")) == 43 for key in made)


def test_only_the_owner_can_read_a_new_key(path: Path) -> None:
    """Mode 0600 from the first moment, even where the umask would allow more."""
    before = os.umask(0)
    try:
        read_or_make_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o700 | 0o001])
def test_a_key_that_others_can_touch_is_refused(path: Path, mode: int) -> None:
    """A key that was readable may have been read; the hint says how to close it."""
    read_or_make_key(path)
    path.chmod(mode)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_permissions"
    assert "chmod 600" in (caught.value.hint or "")


def test_a_symbolic_link_is_no_key(path: Path) -> None:
    """Not to a key that is in order, and not to a place where one would be made."""
    elsewhere = path.with_name("elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_permissions"
    assert not elsewhere.exists()
    read_or_make_key(elsewhere)
    with pytest.raises(Invalid):
        read_or_make_key(path)


def test_a_directory_is_no_key(path: Path) -> None:
    """Whatever is not a regular file is refused with the same code."""
    path.mkdir(0o700)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_permissions"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\n", b"allod-\n", b"allod-short\n", b"sk-" + b"a" * 43, b"\xff" * 50, b"\x00" * 50),
        *(b"allod-" + b"a" * 44, b"allod-" + b"a" * 42 + b"=", b"allod-admin-" + b"a" * 43),
    ],
)
def test_what_is_too_weak_to_be_a_key_is_refused(path: Path, data: bytes) -> None:
    """An empty file, as a crash between making and writing leaves it, must never become an empty key; noise neither."""
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_malformed"


def test_the_admin_key_has_a_form_of_its_own(path: Path) -> None:
    """So that neither file is taken for the other."""
    made = read_or_make_key(path, ADMIN_PREFIX)
    assert made.startswith(ADMIN_PREFIX)
    assert read_or_make_key(path, ADMIN_PREFIX) == made
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_malformed"


class Clock:
    """A monotonic clock that is told the time."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Realm:
    """A store, a ring on it, and a clock; what is put is taken up at once."""

    def __init__(self, nation: Nation) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.ring = KeyRing(nation, monotonic_s=self.clock)

    def tenant(self, tenant_id: str = "one", **fields: Any) -> Tenant:
        tenant = Tenant(**{"id": tenant_id, "name": tenant_id, "created_ms": 1, **fields})
        self.store.put_tenant(tenant, self.event())
        self.ring.refresh(self.store)
        return tenant

    def key(self, tenant_id: str | None = "one", **fields: Any) -> tuple[str, Key]:
        secret, digest, hint = new_api_key(ADMIN_PREFIX if tenant_id is None else USE_PREFIX)
        given = {"id": new_id("key_"), "name": "k", "created_ms": 1, "is_admin": tenant_id is None, **fields}
        key = Key(tenant_id=tenant_id, digest=digest, hint=hint, **given)
        self.put(key)
        return secret, key

    def put(self, key: Key) -> None:
        self.store.put_key(key, self.event())
        self.ring.refresh(self.store)

    def event(self) -> AuditEvent:
        return AuditEvent(new_id("audit_log-"), NOW_MS, "api_key.created", "test")

    def is_let_in(self, secret: str, now_ms: int = NOW_MS) -> bool:
        try:
            self.ring.caller_of(secret, now_ms)
        except Denied as denied:
            if denied.code != "invalid_api_key":
                raise
            return False
        return True


@pytest.fixture(scope="session")
def gb() -> Nation:
    return load_nation("gb")


@pytest.fixture
def realm(gb: Nation) -> Realm:
    return Realm(gb)


def test_a_key_opens_for_its_own_tenant(realm: Realm) -> None:
    """Each key leads to the tenant that it was given to, and to itself."""
    for name in ("one", "two"):
        tenant = realm.tenant(name)
        secret, key = realm.key(name)
        caller = realm.ring.caller_of(secret, NOW_MS)
        assert (caller.tenant, caller.key) == (tenant, key)


@pytest.mark.parametrize("change", ["", "allod-", " {}", "{} ", "{}x", "upper", "\x00", "é", "\ud800", "x" * 100_000])
def test_every_other_text_is_denied(realm: Realm, change: str) -> None:
    """Missing, cut, longer, in other letters, no text at all, enormous: all the same refusal."""
    realm.tenant()
    secret, _ = realm.key()
    assert not realm.is_let_in(secret.upper() if change == "upper" else change.format(secret))


def test_the_digest_of_a_key_is_no_key(realm: Realm) -> None:
    """What is in the database, or in a dump of memory, opens nothing; and the key itself is in neither."""
    realm.tenant()
    secret, key = realm.key()
    assert not realm.is_let_in(key.digest)
    assert secret not in repr(vars(realm.ring)) + repr(realm.store.changes_since(0))


def test_all_that_ended_is_refused_alike(realm: Realm) -> None:
    """Revoked, expired, of an archived tenant, unknown: one message and one hint. Only the note says why."""
    realm.tenant()
    realm.tenant("gone", archived_ms=2)
    secrets = [
        new_api_key(USE_PREFIX)[0],
        realm.key(revoked_ms=2)[0],
        realm.key(expires_ms=NOW_MS)[0],
        realm.key("gone")[0],
        realm.key(None, revoked_ms=2)[0],
        realm.key(None, expires_ms=NOW_MS)[0],
    ]
    seen = set()
    for secret in secrets:
        for question in (realm.ring.caller_of, realm.ring.administrator_of):
            with pytest.raises(Denied) as caught:
                question(secret, NOW_MS)
            seen.add((caught.value.code, caught.value.message, caught.value.hint, caught.value.param))
    assert len(seen) == 1
    assert next(iter(seen))[0] == "invalid_api_key"


def test_why_a_key_is_refused_is_for_the_operator(realm: Realm) -> None:
    """A note on the error, which a log shows and an answer does not."""
    realm.tenant()
    secret, key = realm.key(expires_ms=NOW_MS)
    with pytest.raises(Denied) as caught:
        realm.ring.caller_of(secret, NOW_MS)
    assert caught.value.__notes__ == [f"{key.id}: it has expired"]


def test_administration_and_use_are_apart(realm: Realm) -> None:
    """A key of the one kind is told that it is the wrong kind, once it has shown to be valid."""
    realm.tenant()
    use, admin = realm.key()[0], realm.key(None)[0]
    assert realm.ring.administrator_of(admin, NOW_MS).is_admin
    for question, secret in ((realm.ring.caller_of, admin), (realm.ring.administrator_of, use)):
        with pytest.raises(Denied) as caught:
            question(secret, NOW_MS)
        assert caught.value.code == "wrong_kind_of_key"


def test_a_key_lasts_until_its_last_millisecond(realm: Realm) -> None:
    """`expires_ms` is the first at which it opens nothing."""
    realm.tenant()
    secret, _ = realm.key(expires_ms=NOW_MS)
    assert realm.is_let_in(secret, NOW_MS - 1)
    assert not realm.is_let_in(secret, NOW_MS)


def test_a_clock_set_back_revives_nothing(realm: Realm) -> None:
    """The highest time ever seen counts, whichever key it was seen with."""
    realm.tenant()
    expiring, other = realm.key(expires_ms=NOW_MS)[0], realm.key()[0]
    assert realm.is_let_in(other, NOW_MS)
    assert not realm.is_let_in(expiring, NOW_MS - 3_600_000)
    assert realm.is_let_in(other, NOW_MS - 3_600_000)


def test_a_ring_that_was_never_told_opens_to_nobody(gb: Nation) -> None:
    """No news is not good news."""
    with pytest.raises(Unavailable) as caught:
        KeyRing(gb).caller_of("allod-", NOW_MS)
    assert caught.value.code == "tenants_unavailable"


def test_nobody_gets_in_on_old_news(realm: Realm) -> None:
    """A second after the last question that the store answered, every key waits; the next answer opens again."""
    realm.tenant()
    secret, _ = realm.key()
    realm.clock.seconds += MAX_NEWS_AGE_S
    assert realm.is_let_in(secret)
    realm.clock.seconds += 0.001
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            realm.ring.caller_of(secret, NOW_MS - 10_000)  # a wall clock that is set back makes no news newer
        assert (caught.value.code, caught.value.retry_after_s) == ("tenants_unavailable", 1)
    realm.ring.refresh(realm.store)
    assert realm.is_let_in(secret)


def test_news_is_as_old_as_the_question(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that took two seconds to answer answered with what was true two seconds ago."""
    realm.tenant()
    secret, _ = realm.key()

    def slowly(version: int) -> Changes:
        realm.clock.seconds += 2
        return Changes(version)

    monkeypatch.setattr(realm.store, "changes_since", slowly)
    realm.ring.refresh(realm.store)
    with pytest.raises(Unavailable):
        realm.ring.caller_of(secret, NOW_MS)


def test_a_store_that_fails_leaves_the_ring_as_it_was(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its news gets no newer, and nothing is lost when the store is back."""
    realm.tenant()
    secret, _ = realm.key()

    def failing(version: int) -> Changes:
        raise Unavailable("gone", code="tenants_unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(realm.store, "changes_since", failing)
        with pytest.raises(Unavailable):
            realm.ring.refresh(realm.store)
    assert realm.is_let_in(secret)


def test_changes_count_from_the_next_refresh(realm: Realm) -> None:
    """Revoking a key, giving it another secret, archiving a tenant."""
    realm.tenant()
    secret, key = realm.key()
    other, _ = realm.key()
    realm.put(replace(key, revoked_ms=NOW_MS))
    assert [realm.is_let_in(one) for one in (secret, other)] == [False, True]
    realm.put(replace(key, digest=api_key_digest("allod-another")))
    assert [realm.is_let_in(one) for one in (secret, other, "allod-another")] == [False, True, True]
    realm.tenant(archived_ms=NOW_MS)
    assert [realm.is_let_in(one) for one in (secret, other, "allod-another")] == [False] * 3


def test_a_store_put_back_to_an_older_state_is_believed_whole(realm: Realm, gb: Nation) -> None:
    """What the restored store does not hold opens nothing any more."""
    realm.tenant()
    old, _ = realm.key()
    new, _ = realm.key()
    restored = Realm(gb)
    restored.tenant()
    secret, _ = restored.key()
    realm.ring.refresh(restored.store)
    assert [realm.is_let_in(one) for one in (old, new, secret)] == [False, False, True]
    assert realm.ring.version == restored.ring.version


def test_one_change_touches_one_tenant(realm: Realm, gb: Nation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among a thousand tenants, putting one makes the callers of its own keys anew, and no other."""
    for number in range(1000):
        realm.store.put_tenant(Tenant(f"t{number}", f"n{number}", 1), realm.event())
        key = Key(f"key_{number}", f"t{number}", "k", api_key_digest(f"allod-{number}"), "hint", 1)
        realm.store.put_key(key, realm.event())
    realm.ring.refresh(realm.store)
    made = []
    monkeypatch.setattr(keys, "caller_for", lambda tenant, key, nation: made.append(key.id))
    realm.tenant("t7", weight=2)
    assert made == ["key_7"]


ANY_OR_SET = [(None, None, None), (None, {"a"}, {"a"}), ({"a"}, None, {"a"}), ({"a", "b"}, {"b", "c"}, {"b"})]


@pytest.mark.parametrize(("of_tenant", "of_key", "both"), [*ANY_OR_SET, ({"a"}, {"b"}, set()), (set(), None, set())])
def test_a_caller_may_use_the_models_that_key_and_tenant_allow(
    realm: Realm, of_tenant: set[str] | None, of_key: set[str] | None, both: set[str] | None
) -> None:
    """None does not restrict; an empty set allows none."""
    realm.tenant(scope=Scope(models=None if of_tenant is None else frozenset(of_tenant)))
    secret, _ = realm.key(scope=Scope(models=None if of_key is None else frozenset(of_key)))
    assert realm.ring.caller_of(secret, NOW_MS).scope.models == both


@pytest.mark.parametrize(
    ("of_tenant", "of_key", "clearance"),
    [
        (None, None, "TOP SECRET"),
        (None, "SECRET", "SECRET"),
        ("OFFICIAL", None, "OFFICIAL"),
        ("OFFICIAL", "TOP SECRET", "OFFICIAL"),
        ("TOP SECRET", "SECRET", "SECRET"),
        ("SECRET", "OFFICIAL-SENSITIVE", "OFFICIAL"),  # an alias has a tier, too
    ],
)
def test_clearance_is_the_lower_of_the_two(
    realm: Realm, of_tenant: str | None, of_key: str | None, clearance: str
) -> None:
    """Of key and tenant, each of which may leave it open."""
    realm.tenant(scope=Scope(clearance=of_tenant))
    secret, _ = realm.key(scope=Scope(clearance=of_key))
    caller = realm.ring.caller_of(secret, NOW_MS)
    assert caller.clearance.name == clearance
    assert caller.scope.clearance == (None if of_tenant is of_key is None else clearance)


def test_clearances_are_compared_by_rank() -> None:
    """Not by the alphabet, which in another nation may run the other way."""
    realm = Realm(Nation("xx", "Nowhere", "made up", (Tier("open", 0, "xx"), Tier("closed", 1, "xx"))))
    realm.tenant(scope=Scope(clearance="closed"))
    secret, _ = realm.key(scope=Scope(clearance="open"))
    assert realm.ring.caller_of(secret, NOW_MS).clearance.name == "open"


def test_a_label_is_the_tenants_for_the_scopes_purposes(realm: Realm, gb: Nation) -> None:
    """Tier, markings and places come from the tenant; only purposes that tenant and key both allow are left."""
    first, second, third = sorted(gb.purposes)[:3]
    realm.tenant(
        tier="OFFICIAL-SENSITIVE",
        jurisdictions=frozenset({"GB"}),
        purposes=frozenset({first, second, third}),
        scope=Scope(purposes=frozenset({first, second})),
    )
    secret, _ = realm.key(scope=Scope(purposes=frozenset({second, third})))
    caller = realm.ring.caller_of(secret, NOW_MS)
    assert caller.label == gb.label("OFFICIAL-SENSITIVE", jurisdictions={"GB"}, purposes={second})
    assert caller.scope.purposes == frozenset({second})
    realm.tenant("plain")
    plain, _ = realm.key("plain")
    assert realm.ring.caller_of(plain, NOW_MS).label == gb.lowest == Label(gb.tiers[0])


@pytest.mark.parametrize(
    ("tenant", "key"),
    [
        ({"tier": "COSMIC"}, {}),
        ({"markings": frozenset({"NO SUCH"})}, {}),
        ({"purposes": frozenset({"no such"})}, {}),
        ({"scope": Scope(clearance="COSMIC")}, {}),
        ({}, {"scope": Scope(clearance="COSMIC")}),
        ({}, {"scope": Scope(purposes=frozenset({"no such"}))}),
    ],
)
def test_unknown_words_close_one_tenant_and_no_other(realm: Realm, tenant: dict[str, Any], key: dict[str, Any]) -> None:
    """A word that the nation's profile lost is never taken for a lower one; the other tenants work on."""
    realm.tenant("sound")
    sound, _ = realm.key("sound")
    realm.tenant("broken", **tenant)
    broken, _ = realm.key("broken", **key)
    assert realm.is_let_in(sound)
    with pytest.raises(Unavailable) as caught:
        realm.ring.caller_of(broken, NOW_MS)
    assert "unknown" in caught.value.message


def test_rotation_leaves_no_gap(realm: Realm) -> None:
    """Both keys work until the grace ends, then the successor alone; it may do what its predecessor might."""
    realm.tenant()
    secret, key = realm.key(created_ms=NOW_MS - 1000, expires_ms=NOW_MS + 9000, scope=Scope(models=frozenset({"m"})))
    rotation = rotate(key, NOW_MS, 5)
    realm.put(rotation.successor)
    realm.put(rotation.key)
    let_in = {
        after_ms: [realm.is_let_in(one, NOW_MS + after_ms) for one in (secret, rotation.secret)]
        for after_ms in (0, 4999, 5000, 9999, 10_000)
    }
    assert let_in == {0: [True] * 2, 4999: [True] * 2, 5000: [False, True], 9999: [False, True], 10_000: [False] * 2}
    successor = rotation.successor
    assert (successor.tenant_id, successor.name, successor.scope) == (key.tenant_id, key.name, key.scope)
    assert successor.id != key.id


def test_rotation_never_lengthens_a_life(realm: Realm) -> None:
    """A grace beyond the key's own end changes nothing of it; an admin key's successor is an admin key."""
    _, key = realm.key(None, expires_ms=NOW_MS + 10)
    rotation = rotate(key, NOW_MS, 3600)
    assert rotation.key == key
    assert rotation.secret.startswith(ADMIN_PREFIX)
    assert rotation.successor.is_admin


@pytest.mark.parametrize(
    ("ended", "grace_s", "param"),
    [
        ({"revoked_ms": 1}, 5, "key_id"),
        ({"expires_ms": NOW_MS}, 5, "key_id"),
        ({}, -1, "grace_s"),
        ({}, 1e9, "grace_s"),
        ({}, float("nan"), "grace_s"),
    ],
)
def test_what_cannot_be_rotated_is_refused(realm: Realm, ended: dict[str, Any], grace_s: float, param: str) -> None:
    """A key that has ended has no successor, and a grace is bounded."""
    realm.tenant()
    _, key = realm.key(**ended)
    with pytest.raises(Invalid) as caught:
        rotate(key, NOW_MS, grace_s)
    assert caught.value.param == param
