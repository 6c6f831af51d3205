"""The clock: it dates receipts once it has been held against the log's last time and a clock that only runs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from allod.app.clock import Clock, ClockBounds
from allod.core.clock_statements import ClockAccepted, check_clock_statement, clock_statement
from allod.core.errors import Invalid, Unavailable

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
