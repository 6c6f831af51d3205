"""Waiting for a job by asking again and again, no more often than one may."""

from __future__ import annotations

from collections.abc import Callable

from allod.fleet.executor import Report
from allod.fleet.jobs import JobStatus


def wait_until_over(ask: Callable[[], JobStatus], report: Report, pause: Callable[[], None]) -> JobStatus:
    """The status that `ask` gives at last; `report` hears of each that differs from the one before."""
    seen: JobStatus | None = None
    while True:
        status = ask()
        if status != seen:
            report(status)
            seen = status
        if status.state.is_over:
            return status
        pause()
