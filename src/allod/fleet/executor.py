"""The port of whatever runs jobs: this machine, or a site's scheduler. Its adapters are in `executors/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from allod.fleet.jobs import Job, JobId, JobStatus

Report = Callable[[JobStatus], None]
"""Called when a job's status has changed."""


class Executor(Protocol):
    """Every call raises Unavailable where the scheduler does not answer, Invalid (`job_unknown`) for a strange id."""

    def submit(self, job: Job) -> JobId:
        """Start it, or queue it. Its output goes to OUTPUT_FILE in its folder."""
        ...

    def state(self, id: JobId) -> JobStatus:
        """Where it stands. May be as old as the executor's polling interval."""
        ...

    def cancel(self, id: JobId) -> None:
        """Have it ended. What is over already stays as it is."""
        ...

    def wait(self, id: JobId, report: Report) -> JobStatus:
        """Return once it is over; `report` hears of every change that was seen, the last included."""
        ...
