"""Jobs in memory: nothing runs, and what each would have come to is said beforehand."""

from __future__ import annotations

from collections.abc import Callable

from allod.core.errors import Invalid
from allod.fleet.executor import Report
from allod.fleet.jobs import Job, JobId, JobStatus, State, status_of_exit
from allod.fleet.waiting import wait_until_over

Play = Callable[[Job], int | None]
"""The exit status that a job will have; None: it goes on until it is cancelled."""


class MemoryExecutor:
    """Each question moves a job one step on: pending, running, over."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self.jobs: dict[JobId, Job] = {}
        self._statuses: dict[JobId, JobStatus] = {}

    def submit(self, job: Job) -> JobId:
        """Take it in."""
        id = str(len(self.jobs) + 1)
        self.jobs[id] = job
        self._statuses[id] = JobStatus(State.PENDING)
        return id

    def state(self, id: JobId) -> JobStatus:
        """Where it stands now; the next question finds it a step further."""
        status = self._status(id)
        if status.state is State.PENDING:
            self._statuses[id] = JobStatus(State.RUNNING)
        elif status.state is State.RUNNING and (exit_status := self._play(self.jobs[id])) is not None:
            self._statuses[id] = status_of_exit(exit_status)
        return status

    def cancel(self, id: JobId) -> None:
        """End it."""
        if not self._status(id).state.is_over:
            self._statuses[id] = JobStatus(State.CANCELLED)

    def wait(self, id: JobId, report: Report) -> JobStatus:
        """Until it is over; a job that goes on for ever would hang its test, so that is an error."""
        if self._play(self.jobs[id]) is None and not self._status(id).state.is_over:
            raise Invalid(f"job {id} never ends", code="job_endless")
        return wait_until_over(lambda: self.state(id), report, lambda: None)

    def _status(self, id: JobId) -> JobStatus:
        if id not in self._statuses:
            raise Invalid(f"there is no job {id!r}", code="job_unknown")
        return self._statuses[id]
