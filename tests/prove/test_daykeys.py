"""Day keys: random, durable before use, one per tenant and day, and gone when destroyed."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.requests import chat_answer
from allod.core.times import day_of
from allod.prove.receipts.commitments import commitment, nonce_of
from allod.prove.receipts.day_keys import DayKeys

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"
START_MS = 1_795_305_600_000  # 2026-11-22 00:00 UTC


def predicate_of(keys: DayKeys, tenant: str) -> dict[str, object]:
    """What a receipt of this tenant would carry."""
    key = keys.use(tenant, DAY)
    return {"id": "r1", "at": {"start_ms": START_MS}, "tenant": key.pseudonym, "nonce": nonce_of(key.salt("r1"))}


def test_a_key_outlives_the_process(tmp_path: Path) -> None:
    """Another keystore over the same directory derives the same salts and pseudonym."""
    assert DayKeys(tmp_path).use("a", DAY) == DayKeys(tmp_path).use("a", DAY)


def test_tenants_and_days_share_nothing(tmp_path: Path) -> None:
    """Neither secret nor pseudonym links one tenant's day to another."""
    keys = DayKeys(tmp_path)
    made = [keys.use(tenant, day) for tenant in ("a", "b") for day in (DAY, "2026-11-23")]
    assert len({key.secret for key in made}) == len({key.pseudonym for key in made}) == 4


def test_key_files_are_for_their_owner_and_name_nobody(tmp_path: Path) -> None:
    """0600 in a 0700 directory; the tenant's name is not in the file's."""
    DayKeys(tmp_path / "days").use("housing", DAY)
    (file,) = (tmp_path / "days" / DAY).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert "housing" not in file.name


def test_a_key_is_durable_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk refuses to sync, no key is handed out."""

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    keys = DayKeys(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unavailable, match="Input/output"):
        keys.use("a", DAY)
    assert keys.known("a", DAY) is None


def test_only_the_tenant_can_open(tmp_path: Path) -> None:
    """The salt of a receipt goes to whom the receipt belongs."""
    keys = DayKeys(tmp_path)
    predicate = predicate_of(keys, "a")
    assert nonce_of(keys.salt_of_opening("a", predicate)) == predicate["nonce"]
    keys.use("b", DAY)
    for stranger in ("b", "c"):
        with pytest.raises(Denied):
            keys.salt_of_opening(stranger, predicate)


def test_destroying_a_key_is_erasure(tmp_path: Path) -> None:
    """Neither this keystore nor a new one can derive the salt again; asking makes no new key by accident."""
    keys = DayKeys(tmp_path)
    predicate = predicate_of(keys, "a")
    assert keys.destroy("a", DAY)
    for store in (keys, DayKeys(tmp_path)):
        with pytest.raises(Denied):
            store.salt_of_opening("a", predicate)
    assert not keys.destroy("a", DAY)
    assert keys.use("a", DAY).pseudonym != predicate["tenant"]


def test_names_lead_back_to_whose_they_are(tmp_path: Path) -> None:
    """A day's pseudonyms of tenants and of their API keys, each by itself, and only on that day."""
    keys = DayKeys(tmp_path)
    tenants = {tenant: keys.use(tenant, DAY).pseudonym for tenant in ("a", "b")}
    names = {
        key_id: keys.key_name(tenant, DAY, key_id) for tenant in ("a", "b") for key_id in (f"{tenant}1", f"{tenant}2")
    }
    assert len({*tenants.values(), *names.values()}) == 6
    assert {keys.tenant_named(DAY, name) for name in tenants.values()} == {"a", "b"}
    assert {key_id: keys.key_named(DAY, name) for key_id, name in names.items()} == {key_id: key_id for key_id in names}
    for stranger in ("0" * 32, *names.values()):
        assert keys.tenant_named(DAY, stranger) is None
    for stranger in ("0" * 32, *tenants.values()):
        assert keys.key_named(DAY, stranger) is None
    assert keys.tenant_named(NEXT_DAY, tenants["a"]) is None
    assert keys.key_named(NEXT_DAY, names["a1"]) is None


def test_a_keys_name_is_stable_for_a_day_and_new_on_the_next(tmp_path: Path) -> None:
    """Receipts of one day can be counted by key; those of two days cannot be linked. A restart changes nothing."""
    keys = DayKeys(tmp_path)
    name = keys.key_name("a", DAY, "key_1")
    assert keys.key_name("a", DAY, "key_1") == DayKeys(tmp_path).key_name("a", DAY, "key_1") == name
    assert keys.key_name("a", NEXT_DAY, "key_1") != name


def test_a_day_is_read_again_after_a_restart(tmp_path: Path) -> None:
    """Nothing is known at first; then the names of whoever has a key left, and no key is made for anybody else."""
    before = DayKeys(tmp_path)
    tenant, key = before.use("a", DAY).pseudonym, before.key_name("a", DAY, "key_1")
    keys = DayKeys(tmp_path)
    assert (keys.tenant_named(DAY, tenant), keys.key_named(DAY, key)) == (None, None)
    keys.read_day(DAY, {"idle": ["key_2"], "a": ["key_0", "key_1"]})
    assert (keys.tenant_named(DAY, tenant), keys.key_named(DAY, key)) == ("a", "key_1")
    assert len(list((tmp_path / DAY).iterdir())) == 1
    keys.read_day(NEXT_DAY, {"a": ["key_1"]})
    assert not (tmp_path / NEXT_DAY).exists()


def test_erasure_takes_the_names_and_nobody_elses(tmp_path: Path) -> None:
    """After it no pseudonym of that tenant's day leads anywhere, in this process or the next; all others still do."""
    keys = DayKeys(tmp_path)
    kept = {
        (tenant, day): (keys.use(tenant, day).pseudonym, keys.key_name(tenant, day, f"key_of_{tenant}"))
        for tenant in ("a", "b")
        for day in (DAY, NEXT_DAY)
    }
    gone = kept.pop(("a", DAY))
    assert keys.destroy("a", DAY)
    assert keys.key_named(DAY, kept["b", DAY][1]) == "key_of_b"  # without being read again
    again = DayKeys(tmp_path)
    for store in (keys, again):
        for day in (DAY, NEXT_DAY):
            store.read_day(day, {"a": ["key_of_a"], "b": ["key_of_b"]})
        assert (store.tenant_named(DAY, gone[0]), store.key_named(DAY, gone[1])) == (None, None)
        for (tenant, day), (name, key) in kept.items():
            assert (store.tenant_named(day, name), store.key_named(day, key)) == (tenant, f"key_of_{tenant}")
    assert keys.known("a", DAY) is None


def test_a_key_that_is_not_in_memory_can_be_destroyed(tmp_path: Path) -> None:
    """The file counts, not who read it last."""
    DayKeys(tmp_path).use("a", DAY)
    assert DayKeys(tmp_path).destroy("a", DAY)
    assert list((tmp_path / DAY).iterdir()) == []


def test_after_erasure_the_same_day_has_another_name(tmp_path: Path) -> None:
    """The tenant may go on using the realm that day; what it does then is not linked to what was erased."""
    keys = DayKeys(tmp_path)
    tenant, key = keys.use("a", DAY).pseudonym, keys.key_name("a", DAY, "key_1")
    keys.destroy("a", DAY)
    assert keys.key_name("a", DAY, "key_1") != key
    assert keys.use("a", DAY).pseudonym != tenant
    assert keys.key_named(DAY, key) is None


def test_a_key_that_cannot_be_read_is_not_made_anew(tmp_path: Path) -> None:
    """A disk that fails stops the tenant's day; another key in its place would erase the day's receipts unasked."""
    DayKeys(tmp_path).use("a", DAY)
    (file,) = (tmp_path / DAY).iterdir()
    file.unlink()
    file.mkdir(mode=0o600)
    with pytest.raises(Unavailable) as refused:
        DayKeys(tmp_path).use("a", DAY)
    assert refused.value.code == "keystore_unavailable"
    assert file.is_dir()


def test_a_broken_or_shared_key_file_is_refused(tmp_path: Path) -> None:
    """A wrong length or wider permissions stop the tenant's day rather than weaken it."""
    DayKeys(tmp_path).use("a", DAY)
    (file,) = (tmp_path / DAY).iterdir()
    file.chmod(0o644)
    with pytest.raises(Unavailable, match="only its owner can read"):
        DayKeys(tmp_path).use("a", DAY)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(Unavailable, match="not 32 bytes"):
        DayKeys(tmp_path).use("a", DAY)


def test_nobody_is_recorded_only_where_no_key_can_be_used(tmp_path: Path) -> None:
    """One tenant's broken key is its own trouble; a store that none can be written to is everybody's."""
    DayKeys(tmp_path).use("a", DAY)
    (file,) = (tmp_path / DAY).iterdir()
    file.chmod(0o644)
    keys = DayKeys(tmp_path)
    keys.check([], DAY)
    keys.check(["a", "b"], DAY)
    keys.check(["a"], NEXT_DAY)
    with pytest.raises(Unavailable, match="only its owner can read"):
        keys.check(["a"], DAY)
    assert not (tmp_path / NEXT_DAY).exists()
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="no day key can be kept"):
        DayKeys(tmp_path / "file").check(["a", "b"], DAY)


@pytest.mark.parametrize("day", ["", "today", "../../etc", "2026-1-1", "2026-11-22/x"])
def test_a_day_is_a_day(tmp_path: Path, day: str) -> None:
    """Nothing else becomes a path."""
    with pytest.raises(Invalid):
        DayKeys(tmp_path).use("a", day)


def test_the_day_is_utc() -> None:
    """A receipt belongs to the UTC day in which its request began."""
    assert (day_of(START_MS), day_of(START_MS - 1)) == (DAY, "2026-11-21")
    with pytest.raises(Invalid):
        day_of(2**60)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=50))
def test_roles_do_not_collide(salt: bytes, data: bytes) -> None:
    """The same bytes as request, answer and passage have three commitments."""
    assert len({commitment(role, salt, data) for role in ("request", "answer", "passage")}) == 3


def test_a_chat_answer_is_its_content_and_calls() -> None:
    """What a client saw, in one spelling; ids and positions of tool calls do not count."""
    call = {"id": "c1", "name": "f", "arguments": '{"a": 1}'}
    assert chat_answer(None, [call]) == b'{"content":null,"tool_calls":[{"arguments":"{\\"a\\": 1}","name":"f"}]}'
    assert chat_answer("é") == '{"content":"é","tool_calls":[]}'.encode()


@pytest.mark.parametrize("key_bytes", [0, 1, 32, 63, 64, 65, 200])
def test_commitments_are_hmac(key_bytes: int) -> None:
    """What is written out for speed is HMAC-SHA256 for keys of any length."""
    key, data = bytes(range(key_bytes)), b"what was said" * key_bytes
    assert commitment("answer", key, data) == hmac.digest(key, b"allod answer v1\0" + data, "sha256").hex()
