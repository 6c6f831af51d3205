"""Jobs on this machine: a process each, and all of its descendants with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from allod.core.errors import Invalid, Unavailable
from allod.fleet.executor import Report
from allod.fleet.jobs import OUTPUT_FILE, Job, JobId, JobStatus, State, ranks_command, status_of_exit
from allod.fleet.waiting import wait_until_over


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """`environment` is all that jobs are given beside their own; `grace_s` lies between asking to end and killing."""

    environment: Mapping[str, str] = field(default_factory=dict)
    poll_s: float = 0.2
    grace_s: float = 30.0


@dataclass(slots=True)
class _Started:
    process: subprocess.Popen[bytes]
    deadline: float
    final: JobStatus | None = None


class LocalExecutor:
    """Runs at once, side by side. Its jobs are this process's children: `close` ends those that are left."""

    def __init__(
        self,
        options: LocalOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._jobs: dict[JobId, _Started] = {}

    def submit(self, job: Job) -> JobId:
        """Start it. Raises Unavailable (`job_not_started`) if the system refuses, Invalid for more than one node."""
        if job.nodes != 1:
            raise Invalid(f"{job.name} wants {job.nodes} nodes; this machine is one", code="job_nodes")
        command = ranks_command(job, "--standalone")
        try:
            with (job.folder / OUTPUT_FILE).open("ab") as out:
                process = subprocess.Popen(
                    command,
                    cwd=job.folder,
                    env={**self._options.environment, **job.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C at the terminal is for us: we end jobs
                )
        except OSError as error:
            raise Unavailable(f"{job.name} could not be started: {error}", code="job_not_started") from error
        id = str(process.pid)
        self._jobs[id] = _Started(process, self._clock() + job.walltime_s if job.walltime_s else float("inf"))
        return id

    def state(self, id: JobId) -> JobStatus:
        """Where it stands; a job past its walltime is ended by this."""
        started = self._find(id)
        if started.final is None and started.process.poll() is not None:
            started.final = status_of_exit(started.process.returncode)
        if started.final is None and self._clock() > started.deadline:
            self._end(started, JobStatus(State.FAILED, reason="walltime"))
        return started.final or JobStatus(State.RUNNING)

    def cancel(self, id: JobId) -> None:
        """Ask it to end, and kill what has not ended in time."""
        if not self.state(id).state.is_over:
            self._end(self._find(id), JobStatus(State.CANCELLED))

    def wait(self, id: JobId, report: Report) -> JobStatus:
        """Until it is over."""
        return wait_until_over(lambda: self.state(id), report, lambda: self._sleep(self._options.poll_s))

    def close(self) -> None:
        """Cancel every job that still runs."""
        for id in self._jobs:
            self.cancel(id)

    def _end(self, started: _Started, final: JobStatus) -> None:
        """End the whole family: a rank that outlives the process that started it would hold the job's files."""
        family = _family(started.process.pid)
        _send(signal.SIGTERM, family)
        with suppress(subprocess.TimeoutExpired):
            started.process.wait(self._options.grace_s)
        _send(signal.SIGKILL, family)
        started.process.wait()
        started.final = final

    def _find(self, id: JobId) -> _Started:
        if id not in self._jobs:
            raise Invalid(f"there is no job {id!r}", code="job_unknown")
        return self._jobs[id]


def _family(pid: int) -> list[int]:
    """A process and its descendants: torchrun puts each rank into a session of its own, so no group holds them all."""
    family = [pid]
    for member in family:  # which grows on the way
        with suppress(OSError):
            for children in Path(f"/proc/{member}/task").glob("*/children"):
                family += map(int, children.read_text().split())
    return family


def _send(number: signal.Signals, family: list[int]) -> None:
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
