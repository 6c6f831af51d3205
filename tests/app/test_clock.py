"""The clock: it dates receipts once it has been held against the log's last time and a clock that only runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.policies import open_policies
from allod.app.gateway.clock import NUM_LAST, Acceptances, clock_of_realm, last_time_ms
from allod.app.home import Home, load_settings
from allod.core.errors import Invalid, Unavailable
from allod.core.statements.clock import ClockAccepted, check_clock_statement, clock_statement
from allod.core.statements.policy import POLICY
from allod.prove.formats.signing_key import SigningKey
from allod.prove.receipts.clock import Clock, ClockBounds, running_ms
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.reader import LogRead, Visit
from allod.settings.tree import Settings

BOUNDS = ClockBounds()
LAST_MS = 1_795_262_400_000
DAY_MS = 86_400_000


@dataclass
class Clocks:
    """A machine's two clocks, set by the test."""

    wall: int = LAST_MS
    running: int = 5_000

    def made(self, last_ms: int | None = LAST_MS) -> Clock:
        return Clock(last_ms, wall_ms=lambda: self.wall, running_ms=lambda: self.running, bounds=BOUNDS)

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.running += ms


def refused(clock: Clock) -> str:
    with pytest.raises(Unavailable) as caught:
        clock.now_ms()
    assert caught.value.code == "clock_wrong"
    return caught.value.message


@pytest.mark.parametrize("off", [-400 * DAY_MS, -BOUNDS.step_ms - 1, BOUNDS.idle_ms + 1], ids=str)
def test_a_start_beside_the_logs_last_time_is_refused_with_both_times(off: int) -> None:
    """A receipt that is dated before the one before it, or years after, is nobody's evidence of anything."""
    clocks = Clocks(LAST_MS + off)
    message = refused(clocks.made())
    assert "2026-11-21 12:00:00 UTC" in message
    assert message.count("UTC") == 2


@pytest.mark.parametrize("off", [0, -BOUNDS.step_ms, 30 * DAY_MS, BOUNDS.idle_ms], ids=str)
def test_a_realm_may_have_been_off_for_long(off: int) -> None:
    """And its clock may have been a little ahead when it was stopped."""
    clocks = Clocks(LAST_MS + off)
    assert clocks.made().now_ms() == LAST_MS + off


@pytest.mark.parametrize(
    "step", [BOUNDS.step_ms + 1, -BOUNDS.step_ms - 1, 400 * DAY_MS, -400 * DAY_MS, -(10**14)], ids=str
)
def test_a_step_while_it_runs_is_refused_until_it_is_undone(step: int) -> None:
    """Either way, however long it lasts; and then it is right again by itself."""
    clocks = Clocks()
    clock = clocks.made()
    clock.now_ms()
    clocks.wall += step
    for _ in range(3):
        refused(clock)
        clocks.passes(DAY_MS)
    clocks.wall -= step
    assert clock.now_ms() == clocks.wall


@pytest.mark.parametrize("step", [BOUNDS.step_ms, -BOUNDS.step_ms, 1, 0], ids=str)
def test_what_ntp_corrects_passes(step: int) -> None:
    """Each correction by itself: a clock that drifts is right as long as somebody keeps it so."""
    clocks = Clocks()
    clock = clocks.made()
    for _ in range(100):
        clock.now_ms()
        clocks.passes(3_600_000)
        clocks.wall += step
    assert clock.now_ms() == clocks.wall


def test_an_accepted_clock_dates_receipts() -> None:
    """What was accepted is this clock as it is now: not one that was changed again since."""
    clocks = Clocks(LAST_MS - 400 * DAY_MS)
    clock = clocks.made()
    refused(clock)
    clock.accept(clocks.wall - BOUNDS.accepted_for_ms - 1)
    refused(clock)
    clock.accept(clocks.wall - 250)
    assert clock.now_ms() == clocks.wall
    clocks.wall += BOUNDS.step_ms + 1
    refused(clock)
    clock.accept(clocks.wall)
    assert clock.now_ms() == clocks.wall


def test_the_clock_that_runs_goes_on_while_the_machine_sleeps() -> None:
    """Nobody sets it, and a machine that slept for a night has no wrong clock in the morning."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    assert before <= running_ms() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def test_a_log_without_a_time_begins_with_any() -> None:
    """There is nothing yet that it could contradict; from then on the clock that only runs watches it."""
    clocks = Clocks(wall=1_000)
    clock = clocks.made(None)
    assert clock.now_ms() == 1_000
    clocks.wall += DAY_MS
    refused(clock)


def test_an_acceptance_is_a_statement() -> None:
    """It says when, of which log at which size, and who; and nothing else is read as one."""
    accepted = ClockAccepted("clock_1", LAST_MS, "realm.example/receipts/a", 7, "ab" * 32, "cli:operator")
    data = clock_statement(accepted)
    assert check_clock_statement(data) == accepted
    with pytest.raises(Invalid):
        check_clock_statement(data.replace(b'"entries":7', b'"entries":-7'))
    with pytest.raises(Invalid, match="not a clock statement"):
        check_clock_statement(data.replace(b"urn:allod:clock:v1", b"urn:allod:heartbeat:v1"))
    with pytest.raises(Invalid):
        clock_statement(replace(accepted, entries=-7))


# What the logs say

RECEIPTS = SigningKey("realm.example/receipts/a", bytes([4]) * 32)


def ended(*times: object) -> list[Entry]:
    """Entries that ended then, as JSON writes it."""
    return [Entry(b'{"predicate":{"at":{"end_ms":%s}}}' % str(time).encode(), f"r{time}") for time in times]


def accepted(number: int, *, entries: int = 0, log: str = RECEIPTS.name) -> ClockAccepted:
    return ClockAccepted(f"clock_{number:032x}", LAST_MS + number, log, entries, "ab" * 32, "cli:operator")


def said(one: ClockAccepted) -> Entry:
    return Entry(clock_statement(one), one.id)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"realm.name": "realm.example"}, home=tmp_path / "home")


@pytest.fixture
def artefacts(settings: Settings) -> Iterator[Log]:
    with ArtefactsLog(settings).open() as log:
        yield log


@pytest.fixture
def receipts(tmp_path: Path) -> Iterator[Log]:
    with closing(open_log(tmp_path / "receipts", RECEIPTS)) as log:
        yield log


class CountedLog(ArtefactsLog):
    """The artefacts log, and how often it was read."""

    num_read = 0

    def read(self, visit: Visit) -> LogRead:
        self.num_read += 1
        return super().read(visit)


def test_the_newest_acceptance_of_this_logs_clock_counts(artefacts: Log, settings: Settings) -> None:
    """Not another log's, nor what merely has the word in it; and the log is read again when it has grown, only then."""
    log = CountedLog(settings)
    acceptances = Acceptances(log, RECEIPTS.name)
    assert acceptances.newest() is None
    first, second = accepted(1), accepted(2, entries=1)
    artefacts.append([said(first), said(accepted(7, log="realm.example/receipts/b"))])
    assert acceptances.newest() == acceptances.known == first
    mentions = (
        said(accepted(8))
        .leaf.replace(b"urn:allod:clock:v1", POLICY.encode())
        .replace(b"cli:operator", b"urn:allod:clock:v1")
    )
    artefacts.append([said(second), Entry(mentions, "other")])
    assert [acceptances.newest() for _ in range(3)] == [second] * 3
    assert log.num_read == 3


def test_a_damaged_artefacts_log_accepts_nothing(artefacts: Log, settings: Settings) -> None:
    """Its key did not sign that."""
    for number in range(2):
        artefacts.append([said(accepted(number))])
    segment = settings.home / "logs" / "artefacts" / "segment"
    segment.write_bytes(segment.read_bytes().replace(b"cli:operator", b"cli:0perator", 1))
    with pytest.raises(Invalid):
        Acceptances(ArtefactsLog(settings), RECEIPTS.name).newest()


def test_a_log_that_was_put_back_accepts_nothing(settings: Settings, tmp_path: Path) -> None:
    """Whatever is known of the log from the bundles of policies and releases holds for acceptances, too."""
    log = ArtefactsLog(settings)
    log.append([clock_statement(accepted(1))])
    shutil.copytree(settings.home / "logs", tmp_path / "older")
    open_policies(settings).set_default(now_ms=5_000)
    assert Acceptances(log, RECEIPTS.name).newest() == accepted(1)
    shutil.rmtree(settings.home / "logs")
    shutil.copytree(tmp_path / "older", settings.home / "logs")
    with pytest.raises(Invalid, match="size 2 once, and now ends at 1"):
        Acceptances(ArtefactsLog(settings), RECEIPTS.name).newest()


@pytest.mark.parametrize("odd", ["1e400", "-1", str(1 << 53), "true", "[]", "x", '{"a":1}'])
def test_the_logs_last_time_is_the_latest_that_is_one(receipts: Log, odd: str) -> None:
    """Requests end in another order than they began, and a log may hold what nobody can read."""
    assert last_time_ms(receipts, None) is None
    receipts.append(ended(*range(1, 10)))
    receipts.append(ended(LAST_MS, 5, odd))
    assert last_time_ms(receipts, None) == LAST_MS
    receipts.append([Entry(b"[]", "o"), *ended(*range(10, 10 + NUM_LAST))])
    assert last_time_ms(receipts, None) == 9 + NUM_LAST


def test_what_is_older_than_an_acceptance_counts_no_more(receipts: Log) -> None:
    """Its own time does, until a receipt follows it."""
    receipts.append(ended(LAST_MS * 2, LAST_MS * 2))
    since = accepted(3, entries=2)
    assert last_time_ms(receipts, since) == since.at_ms
    receipts.append(ended(LAST_MS + 5))
    assert last_time_ms(receipts, since) == LAST_MS + 5


def test_beside_no_log_every_clock_is_believed(settings: Settings) -> None:
    """A realm that was only trained in has no receipts, and its first use makes the artefacts log's key."""
    assert clock_of_realm(settings).now_ms() > 0
    (settings.home / "keys").mkdir()
    (settings.home / "keys" / "artefacts.key").touch()
    assert clock_of_realm(settings).now_ms() > 0


def test_who_only_reads_makes_no_key(tmp_path: Path) -> None:
    """The clock watches acceptances four times a second: where the log was never begun, or was taken away with all
    that was kept of it, no key appears by that."""
    settings = load_settings(home=tmp_path / "home")
    with pytest.raises(Invalid) as caught:
        ArtefactsLog(settings).read(lambda number, entry: None)
    assert caught.value.code == "no_log"
    assert not Home(settings.home).artefacts_key.exists()
