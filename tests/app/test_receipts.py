"""The latest receipts, read back from a real log: newest first, each once, and never more work than is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.app.gateway import receipts
from allod.app.gateway.meter import DayNames
from allod.app.gateway.receipts import ReceiptPage, ReceiptQuery, ReceiptReader
from allod.core.errors import Unavailable
from allod.core.statements.receipt import ANSWER, REFUSAL
from allod.core.times import DAY_MS, day_of
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.tenants import AuditEvent, Tenant
from allod.prove.formats.signing_key import SigningKey
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.log import Entry, Log, open_log

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
START_MS = 1_795_305_600_000  # 2026-11-22 00:00 UTC
TENANTS = ("a", "b")


class Counting:
    """A log that counts what is read of it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.num_read = 0

    @property
    def head(self) -> Any:
        return self._log.head

    def entries(self, first: int, count: int) -> list[bytes]:
        self.num_read += count
        return self._log.entries(first, count)


class Realm:
    """A log with the keys of its tenants' days."""

    def __init__(self, folder: Path) -> None:
        self.log = open_log(folder / "log", KEY)
        self.counting = Counting(self.log)
        self.days = folder / "days"
        self.day_keys = DayKeys(self.days)
        self.store = MemoryStore()
        for tenant in TENANTS:
            event = AuditEvent(f"audit_log-{tenant}", START_MS, "project.created", "test")
            self.store.put_tenant(Tenant(id=tenant, name=tenant.upper(), created_ms=START_MS), event)
        self.num = 0

    def append(self, *made: tuple[str, str, int]) -> None:
        """Receipts in one batch: (tenant, decision, day); a heartbeat where there is no tenant."""
        batch = [self._entry(tenant, decision, day) for tenant, decision, day in made]
        if batch:
            self.log.append(batch)

    def _entry(self, tenant: str, decision: str, day: int) -> Entry:
        self.num += 1
        start_ms = START_MS + day * DAY_MS + self.num
        predicate: dict[str, Any] = {"id": f"r{self.num}", "at": {"start_ms": start_ms, "end_ms": start_ms}}
        kind = {"": "urn:allod:heartbeat:v1", "permit": ANSWER, "forbid": REFUSAL}[decision if tenant else ""]
        if tenant:
            name = self.day_keys.use(tenant, day_of(start_ms)).pseudonym
            predicate |= {"tenant": name, "policy": {"decision": decision}}
        return Entry(json.dumps({"predicateType": kind, "predicate": predicate}).encode(), f"r{self.num}")

    def read(self, **wanted: Any) -> ReceiptPage:
        """As a gateway would that has just started: with no name in memory."""
        keys = DayKeys(self.days)
        names = DayNames(keys, self.store)
        reader = ReceiptReader(self.counting, find=keys.find, tenant_of=names.tenant_of)  # type: ignore[arg-type]
        return reader.read(ReceiptQuery(**{"limit": 10, **wanted}))


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    made = Realm(tmp_path)
    yield made
    made.log.close()


RECEIPTS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["", *TENANTS]), st.sampled_from(["permit", "forbid"]), st.integers(0, 3)),
        max_size=5,
    ),
    max_size=8,
)


@given(
    batches=RECEIPTS,
    limit=st.integers(1, 7),
    tenant=st.sampled_from([None, *TENANTS]),
    decision=st.sampled_from([None, "permit", "forbid"]),
    bounds=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3)),
)
def test_pages_hold_each_receipt_once_newest_first(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[str, str, int]]],
    limit: int,
    tenant: str | None,
    decision: str | None,
    bounds: tuple[int, int, int],
) -> None:
    """Whatever the batches, filters and bounds: read on with `before` until it is None, and nothing is left out."""
    realm = Realm(tmp_path_factory.mktemp("realm"))
    for batch in batches:
        realm.append(*batch)
    expected = [
        (number, who)
        for number, (who, decided, _) in enumerate(one for batch in batches for one in batch)
        if who and tenant in (None, who) and decision in (None, decided)
    ]
    found, before = [], None
    with pytest.MonkeyPatch.context() as patch:
        for name, bound in zip(("STEP", "MAX_LOOKED_AT", "MAX_DAYS"), bounds, strict=True):
            patch.setattr(receipts, name, bound)
        while True:
            reading = realm.read(limit=limit, before=before, tenant_id=tenant, decision=decision)
            found += [(one.entry, one.tenant_id) for one in reading.found]
            assert len(reading.found) <= limit
            if reading.before is None:
                break
            assert before is None or reading.before < before
            before = reading.before
    realm.log.close()
    assert found == expected[::-1]


def test_a_reading_looks_at_so_many_entries_and_no_more(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rare what is wanted: the reader says how far it came."""
    monkeypatch.setattr(receipts, "MAX_LOOKED_AT", 300)
    realm.append(("b", "permit", 0))
    for _ in range(10):
        realm.append(*[("a", "permit", 0)] * 100)
    reading = realm.read(tenant_id="b")
    assert (reading.found, reading.before) == ([], 701)
    assert realm.counting.num_read == 300


def test_the_latest_are_found_without_reading_the_rest(realm: Realm) -> None:
    """One step back from the end is enough for a page."""
    for _ in range(5):
        realm.append(*[("a", "permit", 0)] * 200)
    assert [one.entry for one in realm.read(limit=3).found] == [999, 998, 997]
    assert realm.counting.num_read == receipts.STEP


def test_an_erased_tenant_is_not_named(realm: Realm) -> None:
    """Once its day key is destroyed nobody can say whose a receipt was; it is still listed, under nobody's name."""
    realm.append(("a", "permit", 0), ("b", "forbid", 0))
    realm.day_keys.destroy("a", "2026-11-22")
    assert [one.tenant_id for one in realm.read().found] == ["b", None]
    assert realm.read(tenant_id="a").found == []


def test_a_log_that_cannot_be_read_is_said_so(realm: Realm) -> None:
    """Not an empty list: that would say that nothing happened."""
    realm.append(("a", "permit", 0))
    realm.log.segment_path.rename(realm.log.segment_path.with_name("elsewhere"))
    with pytest.raises(Unavailable) as refused:
        realm.read()
    assert refused.value.code == "log_unavailable"
