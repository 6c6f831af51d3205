"""A job: one command, run as so many ranks on so many nodes; and what may be known of it while it runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from allod.core.errors import Invalid

INTERRUPTED_STATUS = 75  # sysexits.h EX_TEMPFAIL: stopped when asked to, everything saved, start me again
OUTPUT_FILE = "job.out"  # in the job's folder: what all of its ranks print, attempt after attempt

JobId = str

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FOLDER = re.compile(r"""/[^\x00-\x1f\x7f"'\\%]*""")  # what a scheduler's option line takes as it stands


def _this_python() -> str:
    return sys.executable


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`command` is what every rank runs, word by word: no shell reads it. `folder` must be there; all nodes see it.

    `python` is an interpreter with torch: it starts the ranks where there is more than one. `walltime_s` 0 is the
    site's limit. Raises Invalid (`job_malformed`) for what could not be said to a scheduler without being twisted.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    nodes: int = 1
    ranks_per_node: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    walltime_s: int = 0
    python: str = field(default_factory=_this_python)

    def __post_init__(self) -> None:
        texts = (*self.command, self.python, *self.environment.values())
        faults = {
            f"its name {self.name!r} is not of the form {_NAME.pattern}": _NAME.fullmatch(self.name) is None,
            "its command is empty": not self.command or not self.command[0],
            f"its folder {str(self.folder)!r} is not absolute, or has quotes, backslashes, % or control characters": (
                _FOLDER.fullmatch(str(self.folder)) is None
            ),
            "it needs a node and a rank at least": self.nodes < 1 or self.ranks_per_node < 1,
            "its walltime is negative": self.walltime_s < 0,
            "a word of it holds a zero byte": any("\0" in text for text in texts),
            "an environment variable's name is none": not all(map(_VARIABLE.fullmatch, self.environment)),
        }
        for fault, is_so in faults.items():
            if is_so:
                raise Invalid(f"this job cannot be started: {fault}", code="job_malformed")

    @property
    def num_ranks(self) -> int:
        """Processes of the command, over all nodes."""
        return self.nodes * self.ranks_per_node


class State(StrEnum):
    """Where a job stands. INTERRUPTED: it ended with status 75 and nobody starts it again by himself."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (State.PENDING, State.RUNNING)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`exit_status` once it is over, where there is one. `reason` in the scheduler's words. `restarts` so far."""

    state: State
    exit_status: int | None = None
    reason: str = ""
    restarts: int = 0


def status_of_exit(exit_status: int) -> JobStatus:
    """What an exit status means; negative, as Python has it, for a signal."""
    if exit_status == INTERRUPTED_STATUS:
        return JobStatus(State.INTERRUPTED, exit_status, "interrupted, and saved")
    return JobStatus(State.FAILED if exit_status else State.DONE, exit_status)


def ranks_command(job: Job, *rendezvous: str) -> tuple[str, ...]:
    """What a node runs: the command itself if the job has one rank, else torchrun, which starts the node's ranks."""
    if job.num_ranks == 1:
        return job.command
    return (
        job.python, "-m", "allod.fleet.ranks",
        f"--nnodes={job.nodes}", f"--nproc-per-node={job.ranks_per_node}", *rendezvous, "--no-python", *job.command,
    )  # fmt: skip
