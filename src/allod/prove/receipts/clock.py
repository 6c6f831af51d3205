"""The clock that receipts are dated by, held against the log's last time and against the clock that only runs.

A clock that was put back or forward dates receipts as nobody could have, so nothing is answered by it: until it is
right again, or until the operator accepts it, which is a statement in the artefacts log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from allod.core.errors import Unavailable
from allod.core.times import DAY_MS, now_ms

CLOCK_HINT = "put the clock right; if it is right, `allod log accept-clock` says so in the artefacts log"


@dataclass(frozen=True, slots=True)
class ClockBounds:
    """`step_ms`: how far the clock may move against the one that only runs, or lie before the log's last time; NTP
    steps by less. `idle_ms`: how far after the log's last time it may lie at a start; a realm may be off for long.
    `accepted_for_ms`: how old an acceptance may be that a running gateway takes up."""

    step_ms: int = 60_000
    idle_ms: int = 366 * DAY_MS
    accepted_for_ms: int = 600_000


def running_ms() -> int:
    """Milliseconds by a clock that nobody sets and that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


class Clock:
    """`last_ms` is the log's last time, or None in a log without one. Asked from any thread; never blocks."""

    def __init__(
        self,
        last_ms: int | None,
        *,
        wall_ms: Callable[[], int] = now_ms,
        running_ms: Callable[[], int] = running_ms,
        bounds: ClockBounds | None = None,
    ) -> None:
        self._wall_ms, self._running_ms, self._bounds = wall_ms, running_ms, bounds or ClockBounds()
        self._last_ms = last_ms
        self._good: tuple[int, int] | None = None  # both clocks when they last agreed

    def now_ms(self) -> int:
        """Milliseconds since 1970. Raises Unavailable (`clock_wrong`) where they cannot be believed."""
        wall, running = self._wall_ms(), self._running_ms()
        bounds, good = self._bounds, self._good
        if good is not None:
            expected = good[0] + running - good[1]
            if abs(wall - expected) > bounds.step_ms:
                raise _wrong(wall, "by the clock that only runs it is", expected)
        elif (last := self._last_ms) is not None and not last - bounds.step_ms <= wall <= last + bounds.idle_ms:
            raise _wrong(wall, "the log's last time is", last)
        self._good = wall, running
        return wall

    def end_ms(self) -> int:
        """When what was begun by a believed clock ends: where that has stepped since, by the one that only runs.

        So work that is done is not lost to a clock that nobody believes. Raises Unavailable where none ever was.
        """
        try:
            return self.now_ms()
        except Unavailable:
            if self._good is None:
                raise
            wall, running = self._good
            return wall + self._running_ms() - running

    def accept(self, at_ms: int) -> None:
        """Take the clock for right, if it still is near what was accepted."""
        wall = self._wall_ms()
        if abs(wall - at_ms) <= self._bounds.accepted_for_ms:
            self._good = wall, self._running_ms()


def _wrong(wall: int, against: str, other: int) -> Unavailable:
    return Unavailable(
        f"the clock says {_as_text(wall)}, and {against} {_as_text(other)}",
        code="clock_wrong",
        hint=CLOCK_HINT,
        retry_after_s=2,
    )


def _as_text(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms since 1970"
