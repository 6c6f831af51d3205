"""Jobs through Slurm's own clients, each bounded in time, and the queue asked no more often than the site allows."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

from allod.core.errors import Invalid, Unavailable
from allod.fleet.executor import Report
from allod.fleet.jobs import Job, JobId, JobStatus, State, status_of_exit
from allod.fleet.script import render
from allod.fleet.site import Site
from allod.fleet.waiting import wait_until_over

SCRIPT_FILE = "job.sbatch"  # in the job's folder: what was submitted, for people

_COLUMNS = ("JobID", "State", "Reason", "exit_code", "RestartCnt")
_FORMAT = "--Format=" + ",".join(f"{column}:|" for column in _COLUMNS)
_UNREACHABLE = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "Zero Bytes")
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD", "REQUEUE_FED"}
_FAILED = {"BOOT_FAIL", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """`environment` is what the clients are given: PATH, and SLURM_CONF where the site has it in an odd place."""

    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0  # of one call of a client
    num_tries: int = 5  # of a question that the controller did not answer
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Answer:
    output: str
    complaint: str
    status: int


class SlurmExecutor:
    """Needs nothing of its own to be kept: a job's id leads to it from any other process, too."""

    def __init__(
        self,
        site: Site,
        options: SlurmOptions,
        *,
        today: Callable[[], date] = date.today,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._site = site
        self._options = options
        self._today = today
        self._clock = clock
        self._sleep = sleep
        self._statuses: dict[JobId, JobStatus | None] = {}
        self._next_question = clock()

    def submit(self, job: Job) -> JobId:
        """Queue it. Not tried again if the answer is lost: the job might be there twice.

        Raises Invalid (`job_refused`) with Slurm's own words if it does not want the job.
        """
        script = job.folder / SCRIPT_FILE
        script.write_text(render(job, self._site, excluded=self._site.nodes_excluded(self._today())), encoding="utf-8")
        answer = self._call("sbatch", "--parsable", str(script))
        if answer.status != 0:
            _check_reached(answer)
            raise Invalid(f"Slurm refused {job.name}: {answer.complaint}", code="job_refused")
        id = answer.output.split(";")[0]  # a cluster's name may follow
        self._statuses[id] = JobStatus(State.PENDING)
        return id

    def state(self, id: JobId) -> JobStatus:
        """As of the last question to the queue, which is asked again only after the site's `poll_s`."""
        if not id.isdecimal():
            raise Invalid(f"there is no job {id!r}", code="job_unknown")
        is_new = self._statuses.setdefault(id, None) is None
        if is_new or self._clock() >= self._next_question:
            self._ask_queue()
        status = self._statuses[id]
        if status is None:
            del self._statuses[id]
            raise Invalid(f"Slurm knows no job {id}", code="job_unknown", hint="it forgets jobs soon after their end")
        return status

    def cancel(self, id: JobId) -> None:
        """Have it ended, now or before it begins."""
        self.state(id)
        answer = self._ask("scancel", id)
        if answer.status != 0:
            raise Unavailable(f"Slurm did not cancel job {id}: {answer.complaint}", code="slurm_failed")

    def wait(self, id: JobId, report: Report) -> JobStatus:
        """Until it is over, through every requeue."""
        return wait_until_over(lambda: self.state(id), report, lambda: self._sleep(self._site.poll_s))

    def _ask_queue(self) -> None:
        """One question for every job that is not known to be over."""
        open_jobs = [id for id, status in self._statuses.items() if status is None or not status.state.is_over]
        if not open_jobs:
            return
        self._sleep(max(0.0, self._next_question - self._clock()))
        answer = self._ask("squeue", "--noheader", "--states=all", f"--jobs={','.join(open_jobs)}", _FORMAT)
        self._next_question = self._clock() + self._site.poll_s
        if answer.status != 0 and "Invalid job id" not in answer.complaint:
            raise Unavailable(f"Slurm's queue cannot be read: {answer.complaint}", code="slurm_failed")
        self._statuses.update(dict.fromkeys(open_jobs))
        for line in answer.output.splitlines():
            parts = [part.strip() for part in line.split("|")]
            if len(parts) != len(_COLUMNS) + 1:
                raise Unavailable(f"Slurm's queue says {line[:100]!r}, which is no job", code="slurm_failed")
            id, state, reason, exit_code, restarts, _ = parts
            self._statuses[id] = read_status(state, reason, exit_code=exit_code, restarts=restarts)

    def _ask(self, *command: str) -> _Answer:
        """Call it until the controller answers, `num_tries` times at most."""
        for _ in range(self._options.num_tries - 1):
            answer = self._call(*command)
            if not _is_lost(answer):
                return answer
            self._sleep(max(self._options.retry_s, self._site.poll_s))
        answer = self._call(*command)
        _check_reached(answer)
        return answer

    def _call(self, *command: str) -> _Answer:
        try:
            done = subprocess.run(
                command,
                env=dict(self._options.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._options.timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise _missing_client(f"Slurm's command {command[0]} is not on this machine") from error
        except subprocess.TimeoutExpired:
            return _Answer("", f"Socket timed out: {command[0]} did not answer in {self._options.timeout_s} s", 1)
        if done.returncode != 0 and "establish a configuration source" in done.stderr:
            raise _missing_client(f"Slurm's command {command[0]} knows no cluster")
        return _Answer(done.stdout.strip(), done.stderr.strip(), done.returncode)


def read_status(state: str, reason: str, *, exit_code: str, restarts: str) -> JobStatus:
    """What Slurm's words for a job mean. An unknown state counts as running: only Slurm says when a job is over.

    `exit_code` is a wait status: the exit status times 256, or a signal's number.
    """
    reason = "" if reason == "None" else reason
    num_restarts = int(restarts) if restarts.isdecimal() else 0
    if state in _PENDING:
        return JobStatus(State.PENDING, reason=reason, restarts=num_restarts)
    if state == "CANCELLED":
        return JobStatus(State.CANCELLED, reason=reason, restarts=num_restarts)
    if state != "COMPLETED" and state not in _FAILED:
        return JobStatus(State.RUNNING, reason=reason, restarts=num_restarts)
    status = status_of_exit(_exit_status(exit_code))
    if state in _FAILED and status.state is State.DONE:
        return JobStatus(State.FAILED, reason=reason or state, restarts=num_restarts)
    return JobStatus(status.state, status.exit_status, status.reason or reason, num_restarts)


def _exit_status(word: str) -> int:
    """Of a wait status as `squeue` prints it."""
    status = int(word) if word.isdecimal() else 0
    return status >> 8 if status >> 8 else -(status & 0x7F)


def _missing_client(message: str) -> Unavailable:
    return Unavailable(message, code="slurm_missing", hint="run this on a login node of the site")


def _is_lost(answer: _Answer) -> bool:
    return answer.status != 0 and any(sign in answer.complaint for sign in _UNREACHABLE)


def _check_reached(answer: _Answer) -> None:
    if _is_lost(answer):
        raise Unavailable(
            f"Slurm's controller does not answer: {answer.complaint}",
            code="slurm_unreachable",
            retry_after_s=60,
            hint="after a lost submission, look with squeue whether the job is there before sending it again",
        )
