"""The meter: what is durable in the log is charged, all of it, nothing else, in its order, and to whom it belongs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.govern.test_ledger import RECEIPT

from allod.app.gateway import meter as meter_module
from allod.app.gateway.meter import DayNames, Meter, recount
from allod.app.home import Home, load_settings
from allod.core.canonical import canonical_json
from allod.core.errors import Unavailable
from allod.core.statements.receipt import MeterPart, RequestPart, statement_bytes
from allod.core.times import day_of
from allod.govern.metering.ledger import ERASED, Ledger
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.store import Changes, Position, Totals
from allod.govern.tenancy.tenants import AuditEvent, Charge, Key, Tenant, api_key_digest
from allod.prove.formats.signing_key import SigningKey
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.segment import FileCalls

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
START_MS, DAY_MS = 1_790_000_000_000, 86_400_000
TENANTS = ("a", "b")
HEARTBEAT = canonical_json({"predicateType": "urn:allod:heartbeat:v1", "predicate": {"id": "x"}})
EVER = 2**53 - 1


class Cut(Exception):
    """The process ended here."""


class Store(MemoryStore):
    """In memory, with the order in which receipts were charged, and `fault` to be raised before or after a charge."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: list[str] = []
        self.num_read = 0
        self.before: list[Exception | None] = []
        self.after: list[Exception | None] = []
        self.changes_fault: Exception | None = None

    def charge(self, origin: str, position: Position, charges: Sequence[Charge]) -> None:
        if self.before and (fault := self.before.pop(0)) is not None:
            raise fault
        super().charge(origin, position, charges)
        self.charged += [one.receipt_id for one in charges]
        if self.after and (fault := self.after.pop(0)) is not None:
            raise fault

    def changes_since(self, version: int) -> Changes:
        self.num_read += 1
        if self.changes_fault is not None:
            raise self.changes_fault
        return super().changes_since(version)


@dataclass
class Books:
    """A log, the keys of its days, and a store in which it is charged."""

    place: Path
    calls: FileCalls = field(default_factory=FileCalls)
    store: Store = field(default_factory=Store)
    num_made: int = 0

    def __post_init__(self) -> None:
        self.log: Log = open_log(self.place / "log", KEY, self.calls)
        self.day_keys = DayKeys(self.place / "days")
        for tenant in TENANTS:
            event = AuditEvent(f"e-{tenant}", 1, "project.created", "test")
            self.store.put_tenant(Tenant(tenant, tenant, 1), event)
            digest = api_key_digest(tenant)
            event = AuditEvent(f"k-{tenant}", 1, "api_key.created", "test")
            self.store.put_key(Key(f"key_{tenant}", tenant, "k", digest, "1234", 1), event)
        self.restart()

    def restart(self) -> None:
        """Everything that was only in memory is gone; the log stays open, since only its owner may open it."""
        self.day_keys = DayKeys(self.place / "days")
        self.meter = self.new_meter()

    def new_meter(self) -> Meter:
        return Meter(self.log, Ledger(self.store, self.log.origin, DayNames(self.day_keys, self.store)))

    def receipt(self, tenant: str = "a", start_ms: int = START_MS) -> Entry:
        """The next receipt, r0, r1 and so on; each costs a millionth more than the one before."""
        day, number = day_of(start_ms), self.num_made
        self.num_made += 1
        made = replace(
            RECEIPT,
            id=f"r{number}",
            seq=number,
            start_ms=start_ms,
            end_ms=start_ms,
            tenant=self.day_keys.use(tenant, day).pseudonym,
            request=RequestPart("0" * 64, 1, {}),
            meter=MeterPart(self.day_keys.key_name(tenant, day, f"key_{tenant}"), micros=number),
        )
        return Entry(statement_bytes(made), made.id)

    def write(self, num: int, tenant: str = "a", start_ms: int = START_MS) -> None:
        """One batch of receipts, durable on return."""
        self.log.append([self.receipt(tenant, start_ms) for _ in range(num)])

    def used(self, tenant: str | None = None) -> Totals:
        return self.store.used(tenant_id=tenant, since_ms=0, until_ms=EVER)

    def by_key(self) -> dict[tuple[str | None, str | None], int]:
        rows = self.store.usage(
            since_ms=0, until_ms=10**13, bucket_ms=10**13 // 60_000 * 60_000, group_by=("tenant", "key")
        )
        return {(row.tenant_id, row.key_id): row.totals.requests for row in rows}

    def is_right(self) -> None:
        """The sum of all receipts and not one more, in the order of the log."""
        assert self.store.charged == [f"r{number}" for number in range(self.num_made)]
        assert self.used().requests == self.num_made
        assert self.used().micros == self.num_made * (self.num_made - 1) // 2
        assert self.meter.catch_up() == 0


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path)
    yield made
    made.log.close()


# What is charged


def test_everything_durable_is_charged_once(books: Books) -> None:
    """However many batches there were since the last time; and nothing where nothing is new."""
    assert books.meter.catch_up() == 0
    books.write(3)
    books.write(1, "b")
    assert books.meter.catch_up() == 4
    assert books.meter.catch_up() == 0
    books.write(2)
    assert books.meter.catch_up() == 2
    assert (books.used("a").requests, books.used("b").requests) == (5, 1)
    books.is_right()


def test_other_statements_are_passed(books: Books) -> None:
    """They cost nothing, and the position goes on behind them."""
    books.write(1)
    books.log.append([Entry(HEARTBEAT, "beat"), books.receipt(), Entry(HEARTBEAT, "beat2")])
    books.meter.catch_up()
    books.log.append([Entry(HEARTBEAT, "beat3")])
    books.write(1)
    books.meter.catch_up()
    assert (books.store.position(books.log.origin) or Position(0, 0)).num_entries == 6
    books.is_right()


@settings(max_examples=40)
@given(
    steps=st.lists(st.integers(0, 9) | st.sampled_from(["charge", "restart"]), max_size=25),
    max_entries=st.integers(1, 12),
)
def test_however_it_is_cut_the_sum_is_that_of_the_receipts(steps: list[int | str], max_entries: int) -> None:
    """Batches of any size, charged in transactions of any size, now and then by another process."""
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter_module, "MAX_ENTRIES", max_entries)
        books = Books(Path(place))
        for step in steps:
            if isinstance(step, int):
                books.write(step, TENANTS[step % 2]) if step else None
            elif step == "restart":
                books.restart()
            else:
                waiting = books.num_made - len(books.store.charged)
                assert books.meter.catch_up() == waiting
        books.meter.catch_up()
        books.is_right()
        books.log.close()


def test_a_long_log_is_charged_in_bounded_transactions(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is not held for as long as a million receipts take, and what was charged is charged if the next fails."""
    monkeypatch.setattr(meter_module, "MAX_ENTRIES", 5)
    sizes: list[int] = []
    charge = books.store.charge

    def watched(origin: str, position: Position, charges: Sequence[Charge]) -> None:
        sizes.append(len(charges))
        charge(origin, position, charges)

    monkeypatch.setattr(books.store, "charge", watched)
    for _ in range(10):
        books.write(2)
    assert books.meter.catch_up() == 20
    assert sizes == [6, 6, 6, 2]  # whole batches


# What is not charged


def test_what_is_not_durable_is_not_charged(tmp_path: Path) -> None:
    """A batch that is written and not yet synced can be read in the file, and is nobody's debt yet."""
    seen: list[int] = []
    watching = False

    def fdatasync(fd: int) -> None:
        if watching:
            seen.append(made.meter.catch_up())
        os.fdatasync(fd)

    made = Books(tmp_path, FileCalls(fdatasync=fdatasync))
    made.write(3)
    watching = True
    made.write(2)  # the first batch is charged meanwhile
    made.write(4)
    assert seen == [3, 2]
    assert len(made.store.charged) == 5
    assert made.meter.catch_up() == 4
    made.is_right()
    made.log.close()


def test_what_the_disk_refused_is_never_charged(tmp_path: Path) -> None:
    """Its entries were in the file for a moment."""
    fail = False

    def fdatasync(fd: int) -> None:
        if fail:
            made.meter.catch_up()
            raise OSError(5, "Input/output error")
        os.fdatasync(fd)

    made = Books(tmp_path, FileCalls(fdatasync=fdatasync))
    made.write(2)
    fail = True
    with pytest.raises(Unavailable):
        made.write(3)
    assert made.meter.catch_up() == 0
    assert made.store.charged == ["r0", "r1"]
    made.log.close()


def test_what_comes_behind_the_head_waits(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head that is read first says how far; what is appended meanwhile is for the next time."""
    books.write(2)
    head = books.log.head
    books.write(3)
    books.write(9)
    monkeypatch.setattr(type(books.log), "head", property(lambda log: head))
    assert books.meter.catch_up() == 2
    monkeypatch.undo()
    assert books.meter.catch_up() == 12
    books.is_right()


# Crashes, and stores that fail


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("restarts", [False, True], ids=["live", "restarted"])
def test_a_failure_between_transactions_changes_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch, *, number: int, is_done: bool, restarts: bool
) -> None:
    """Wherever the store fails or the process dies, also where the charge was made and nobody heard of it."""
    monkeypatch.setattr(meter_module, "MAX_ENTRIES", 4)
    for _ in range(4):
        books.write(4)
    fault = Cut() if restarts else Unavailable("locked", code="tenants_unavailable")
    (books.store.after if is_done else books.store.before).extend([*[None] * number, fault])
    with pytest.raises((Cut, Unavailable)):
        books.meter.catch_up()
    assert len(books.store.charged) == 4 * (number + is_done)
    if restarts:
        books.restart()
    assert books.meter.catch_up() == 16 - 4 * (number + is_done)
    books.is_right()


def test_a_ledger_ahead_of_its_log_charges_nothing(books: Books) -> None:
    """The log was put back, or another was put in its place: to go on would charge some receipts never."""
    books.write(3)
    books.store.charge(books.log.origin, Position(4, 10_000), [])
    with pytest.raises(Unavailable) as caught:
        books.meter.catch_up()
    assert caught.value.code == "ledger_ahead"
    assert "recount" in (caught.value.hint or "")
    assert books.store.charged == []


def test_a_position_in_the_middle_of_another_log_charges_nothing(books: Books) -> None:
    """No frame of this log starts there."""
    books.write(3)
    books.store.charge(books.log.origin, Position(1, 77), [])
    with pytest.raises(Unavailable) as caught:
        books.meter.catch_up()
    assert (caught.value.code, books.store.charged) == ("log_short", [])


def test_a_segment_that_was_cut_is_noticed(books: Books) -> None:
    """Its head says more than it holds: what is there is charged, and the rest is missed aloud."""
    books.write(2)
    size = books.log.segment_path.stat().st_size
    books.write(3)
    os.truncate(books.log.segment_path, size)
    with pytest.raises(Unavailable) as caught:
        books.meter.catch_up()
    assert caught.value.code == "log_short"
    assert set(books.store.charged) <= {"r0", "r1"}


def test_a_segment_that_is_gone_is_unavailable(books: Books) -> None:
    """Whatever the system says about the file is an error of ours, which the gateway reports."""
    books.write(2)
    books.log.segment_path.unlink()
    with pytest.raises(Unavailable) as caught:
        books.meter.catch_up()
    assert caught.value.code == "log_unavailable"


def test_an_entry_that_is_no_receipt_is_stepped_over(books: Books) -> None:
    """What is behind it is owed all the same; a process that starts later steps over it, too."""
    books.write(2)
    books.meter.catch_up()
    books.log.append([Entry(b"[]", "x")])
    books.write(2)
    assert books.meter.catch_up() == 3
    assert books.meter.num_unreadable == 1
    books.is_right()
    books.store.forget_ledger(books.log.origin)
    books.store.charged.clear()
    books.restart()
    assert books.meter.catch_up() == 5
    books.is_right()


# Whose it is


def test_names_are_found_again_after_a_restart(books: Books) -> None:
    """Of every day for which keys are left, tenants and their API keys alike."""
    for start_ms in (START_MS, START_MS + DAY_MS):
        for tenant in TENANTS:
            books.write(2, tenant, start_ms)
    books.restart()
    books.meter.catch_up()
    assert books.by_key() == {("a", "key_a"): 4, ("b", "key_b"): 4}


def test_who_came_today_is_known_without_being_read(books: Books) -> None:
    """A tenant's first request makes its name; the day was read before that, and need not be again."""
    books.write(1, "a")
    books.restart()
    books.meter.catch_up()
    num_read = books.store.num_read
    books.write(1, "b")
    books.write(1, "a")
    books.meter.catch_up()
    assert books.by_key() == {("a", "key_a"): 2, ("b", "key_b"): 1}
    assert books.store.num_read == num_read


def test_a_day_is_read_once(books: Books) -> None:
    """Not for each receipt that nobody can be named for: there may be a million."""
    books.write(5)
    books.write(5, start_ms=START_MS + DAY_MS)
    for day in (START_MS, START_MS + DAY_MS):
        books.day_keys.destroy("a", day_of(day))
    books.restart()
    books.store.num_read = 0
    books.meter.catch_up()
    assert books.store.num_read == 2


def test_a_day_that_could_not_be_read_is_read_again(books: Books) -> None:
    """The store did not answer just then: nothing is charged to nobody for that."""
    books.write(3)
    books.restart()
    books.store.changes_fault = Unavailable("locked", code="tenants_unavailable")
    for _ in range(2):
        with pytest.raises(Unavailable):
            books.meter.catch_up()
    books.store.changes_fault = None
    assert books.meter.catch_up() == 3
    assert books.by_key() == {("a", "key_a"): 3}


def test_a_day_key_that_cannot_be_trusted_stops_the_ledger(books: Books) -> None:
    """One that others could read is not the same as one that was destroyed."""
    books.write(1)
    (file,) = (books.place / "days" / day_of(START_MS)).iterdir()
    file.chmod(0o644)
    books.restart()
    with pytest.raises(Unavailable) as caught:
        books.meter.catch_up()
    assert (caught.value.code, books.store.charged) == ("unsafe_secret", [])
    file.chmod(0o600)
    books.meter.catch_up()
    assert books.by_key() == {("a", "key_a"): 1}


@pytest.mark.parametrize("restarts", [False, True], ids=["live", "restarted"])
def test_what_was_erased_is_nobodys_and_still_counts(books: Books, *, restarts: bool) -> None:
    """The tenant's day is gone, its other days and the other tenants are not."""
    books.write(3, "a")
    books.write(2, "a", START_MS + DAY_MS)
    books.write(1, "b")
    books.day_keys.destroy("a", day_of(START_MS))
    if restarts:
        books.restart()
    books.meter.catch_up()
    assert books.by_key() == {(ERASED, ""): 3, ("a", "key_a"): 2, ("b", "key_b"): 1}
    books.is_right()


def test_a_tenant_that_was_archived_is_still_charged(books: Books) -> None:
    """For what it used before."""
    books.write(2)
    books.store.put_tenant(replace(books.store.tenant("a"), archived_ms=5), AuditEvent("e", 1, "project.archived", "t"))
    books.restart()
    books.meter.catch_up()
    assert books.by_key() == {("a", "key_a"): 2}


# Counted anew


@dataclass(frozen=True)
class Counted:
    """A realm whose log has seven receipts of two tenants, and a ledger that says what it likes."""

    home: Path
    store: Store
    origin: str
    recount: Callable[[], int]
    log: Callable[[], Log]

    def destroy(self, tenant: str) -> None:
        assert DayKeys(Home(self.home).day_keys).destroy(tenant, day_of(START_MS))

    def by_tenant(self) -> dict[str | None, int]:
        rows = self.store.usage(since_ms=0, until_ms=10**13, bucket_ms=60_000 * 10**8, group_by=("tenant",))
        return {row.tenant_id: row.totals.requests for row in rows}


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    made = load_settings(home=tmp_path / "home")
    home = Home(made.home)
    key = home.signing_key(made.origin)
    books = Books(tmp_path / "spare")
    books.log.close()
    books.log = log = open_log(home.receipts, key)
    books.day_keys = DayKeys(home.day_keys)
    books.write(4, "a")
    books.write(3, "b")
    log.close()
    return Counted(
        made.home,
        books.store,
        made.origin,
        recount=lambda: recount(made, books.store),
        log=lambda: open_log(home.receipts, key),
    )


def test_a_recount_makes_the_ledger_that_the_log_says(counted: Counted) -> None:
    """Whatever it said before: nothing, too much, or a position that the log never had; and as often as one likes."""
    wrong = Charge("x", "a", "", "m", START_MS, "permit", "stop", 5, 5, micros=10**6)
    counted.store.charge(counted.origin, Position(900, 900_000), [wrong])
    for _ in range(3):
        assert counted.recount() == 7
        assert counted.by_tenant() == {"a": 4, "b": 3}
        assert counted.store.used(tenant_id=None, since_ms=0, until_ms=EVER).micros == 21


def test_a_recount_leaves_other_gateways_receipts(counted: Counted) -> None:
    """They share the store, each with a log of its own."""
    other = Charge("x", "a", "", "m", START_MS, "permit", "stop", 5, 5)
    counted.store.charge("other/receipts/b", Position(1, 100), [other])
    counted.recount()
    assert counted.by_tenant() == {"a": 5, "b": 3}


def test_after_erasure_a_recount_knows_less(counted: Counted) -> None:
    """The sum stays, and whose part of it that was is gone: that is what erasure means."""
    counted.recount()
    counted.destroy("a")
    assert counted.by_tenant() == {"a": 4, "b": 3}
    assert counted.recount() == 7
    assert counted.by_tenant() == {ERASED: 4, "b": 3}


def test_while_a_gateway_runs_nothing_is_forgotten(counted: Counted) -> None:
    """Two who charge the same log would each think that the other had not."""
    counted.recount()
    log = counted.log()
    with pytest.raises(Unavailable) as caught:
        counted.recount()
    log.close()
    assert caught.value.code == "log_locked"
    assert counted.by_tenant() == {"a": 4, "b": 3}


def test_a_recount_that_fails_lets_go_of_the_log(counted: Counted) -> None:
    """It can be tried again, or the gateway started, which goes on where it ended."""
    counted.store.changes_fault = Unavailable("locked", code="tenants_unavailable")
    with pytest.raises(Unavailable):
        counted.recount()
    counted.store.changes_fault = None
    counted.log().close()
    assert counted.recount() == 7
