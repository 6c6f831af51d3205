"""Day keys: random, durable before use, one per tenant and day, and gone when destroyed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.requests import chat_answer
from allod.prove.commitments import commitment, day_of, nonce_of
from allod.prove.daykeys import DayKeys

DAY = "2026-11-22"
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
    assert nonce_of(keys.opening_salt("a", predicate)) == predicate["nonce"]
    keys.use("b", DAY)
    for stranger in ("b", "c"):
        with pytest.raises(Denied):
            keys.opening_salt(stranger, predicate)


def test_destroying_a_key_is_erasure(tmp_path: Path) -> None:
    """Neither this keystore nor a new one can derive the salt again; asking makes no new key by accident."""
    keys = DayKeys(tmp_path)
    predicate = predicate_of(keys, "a")
    assert keys.destroy("a", DAY)
    for store in (keys, DayKeys(tmp_path)):
        with pytest.raises(Denied):
            store.opening_salt("a", predicate)
    assert not keys.destroy("a", DAY)
    assert keys.use("a", DAY).pseudonym != predicate["tenant"]


def test_a_broken_or_shared_key_file_is_refused(tmp_path: Path) -> None:
    """A wrong length or wider permissions stop the tenant's day rather than weaken it."""
    DayKeys(tmp_path).use("a", DAY)
    (file,) = (tmp_path / DAY).iterdir()
    file.chmod(0o644)
    with pytest.raises(Invalid):
        DayKeys(tmp_path).use("a", DAY)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(Invalid):
        DayKeys(tmp_path).use("a", DAY)


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
