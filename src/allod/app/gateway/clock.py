"""What a realm's clock is held against at a start: the log's last time, and what the operator accepted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from allod.app.artefacts.log import ArtefactsLog, Stamp
from allod.app.home import Home
from allod.core.statements.clock import CLOCK, ClockAccepted, check_clock_statement
from allod.core.statements.receipt import check_statement
from allod.prove.receipts.clock import Clock
from allod.prove.tlog.begun import is_begun
from allod.prove.tlog.log import Log
from allod.prove.tlog.reader import newest_entries
from allod.settings.tree import Settings

NUM_LAST = 64  # entries from whose times the log's last time is taken: requests end in another order than they began


class Acceptances:
    """The acceptances of one log's clock in the artefacts log. For one thread at a time."""

    def __init__(self, log: ArtefactsLog, origin: str) -> None:
        self._log, self._origin = log, origin
        self._stamp: Stamp = None
        self.known: ClockAccepted | None = None  # the newest when it was last asked for

    def newest(self) -> ClockAccepted | None:
        """The newest; the log is read again only where its file has changed. Raises Invalid for a damaged log, or one
        that is gone."""
        stamp = self._log.stamp()
        if stamp is None or stamp != self._stamp:
            self.known = self._read()
            self._stamp = stamp
        return self.known

    def _read(self) -> ClockAccepted | None:
        found: list[ClockAccepted] = []

        def see(_: int, entry: bytes) -> None:
            if CLOCK.encode() in entry and check_statement(entry).kind == CLOCK:
                accepted = check_clock_statement(entry)
                if accepted.log == self._origin:
                    found.append(accepted)

        self._log.read(see)
        return found[-1] if found else None


def last_time_ms(log: Log, accepted: ClockAccepted | None) -> int | None:
    """The log's last time; what is older than an acceptance counts no more."""
    size = log.head.size
    num = min(NUM_LAST, size)
    return _last_of(list(enumerate(log.entries(size - num, num) if num else (), size - num)), accepted)


def clock_of_realm(settings: Settings) -> Clock:
    """For what is dated beside the gateway; it is held against this realm's log of receipts. Blocks."""
    home = Home(settings.home)
    last = None
    if is_begun(home.receipts) and home.artefacts_key.exists():
        accepted = Acceptances(ArtefactsLog(settings), settings.origin).newest()
        last = _last_of(newest_entries(home.receipts, NUM_LAST), accepted)
    return Clock(last)


def _last_of(entries: Sequence[tuple[int, bytes]], accepted: ClockAccepted | None) -> int | None:
    times = [_end_ms(entry) for number, entry in entries if accepted is None or number >= accepted.entries]
    return max((time for time in times if time is not None), default=accepted.at_ms if accepted else None)


def _end_ms(entry: bytes) -> int | None:
    """When it ended; None for an entry that nobody can read."""
    try:
        end = json.loads(entry)["predicate"]["at"]["end_ms"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return end if type(end) is int and 0 <= end < 1 << 53 else None
