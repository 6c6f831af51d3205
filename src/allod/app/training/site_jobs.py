"""Stages as jobs of a site: sealed on whatever node the scheduler chooses, found again by whoever starts again.

A job that needs one process is sealed as an island, like a stage on this machine. Ranks of several processes must
reach each other over the site's own network, so they go without the namespace, and the site's preflight looks instead
whether anything else can be reached. The manifest says which it was.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import allod
from allod.core.canonical import JsonValue
from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.files.whole import write_whole
from allod.core.stages import ROWS
from allod.core.times import now_ms
from allod.fleet.executor import Executor
from allod.fleet.executors.local import LocalExecutor, LocalOptions
from allod.fleet.executors.slurm import SlurmExecutor, SlurmOptions
from allod.fleet.jobs import OUTPUT_FILE, Job, JobStatus, State
from allod.fleet.preflight.checks import PreflightFinding, RunRequirements, check, refuse_unless_ready
from allod.fleet.preflight.job import survey
from allod.fleet.site import Site
from allod.seal.devices.grants import NO_DEVICES, DeviceGrants
from allod.seal.launch import SealOptions, command_line, python_read_paths
from allod.settings.environment import scheduler_clients
from allod.train.sealed_stage import MAX_FILE_BYTES, StageResult, stage_environment
from allod.train.stage_messages import Listener
from allod.train.stage_task import StageFacts, StageProgress

_ID = "job.id"
_TAIL_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 20
_FOR_RANKS = (  # what the C library finds other nodes by, and gloo and NCCL their network devices
    *("/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/gai.conf"),
    *("/sys/bus/pci", "/sys/class/net", "/sys/devices"),
    "/proc/cpuinfo",  # unread, torch would take its slowest path, and other bits
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Where stages run. A site without a scheduler is this machine. `ranks` are processes a node that pretrain,
    `devices` what stages that learn may use here; a site gives its own."""

    site: Site
    nodes: int = 1
    ranks: int = 1
    threads: int = 1
    devices: DeviceGrants = NO_DEVICES

    def __post_init__(self) -> None:
        if self.devices.nodes and self.ranks > self.devices.num_gpus:
            raise Invalid(
                f"{self.ranks} ranks, and {self.devices.num_gpus} GPUs for them",
                code="ranks_impossible",
                hint="each rank has a GPU of its own: fewer --ranks, or more --device",
            )
        if min(self.nodes, self.ranks, self.threads) < 1 or (self.nodes > 1 and not self.has_scheduler):
            raise Invalid(
                f"{self.nodes} nodes of {self.ranks} ranks with {self.threads} threads: not at {self.site.name}",
                code="ranks_impossible",
                hint="one of each at least; more than one node needs a site with a scheduler (--on)",
            )

    @property
    def has_scheduler(self) -> bool:
        """Whether stages are jobs of a site, rather than processes of ours."""
        return self.site.scheduler != "local"

    def ranks_of(self, stage: str) -> tuple[int, int]:
        """The nodes, and the processes on each, that do this stage together."""
        return (self.nodes, self.ranks) if ROWS[stage].shares_ranks else (1, 1)

    def is_job(self, stage: str) -> bool:
        """Whether this stage is a job of the site, rather than a process of ours."""
        return self.has_scheduler and ROWS[stage].needs_accelerators


class SiteJobs:
    """Runs stages on a site's machines, below `folder`, one job each."""

    def __init__(
        self, machines: Machines, folder: Path, *, report: StageProgress, should_stop: Callable[[], bool]
    ) -> None:
        self._machines = machines
        self._folder = folder
        self._report = report
        self._should_stop = should_stop
        self._look: Callable[[], None] = lambda: None
        self._executor = self._open()

    def preflight(self, asked: RunRequirements) -> list[PreflightFinding]:
        """Look, from within the run's own seal, at what the run would have. Raises Denied (`preflight_refused`)."""
        folder = self._folder / f"preflight-{now_ms()}"
        scratch = folder / "scratch"
        scratch.mkdir(parents=True, mode=0o700)
        self._report("preflight", 0, 0)
        is_alone = asked.nodes * asked.ranks_per_node == 1
        facts = survey(
            self._executor,
            asked,
            self._machines.site,
            folder=folder,
            environment=_environment(folder, self._machines.threads),
            prefix=command_line(self._seal((sys.executable,), scratch, is_alone=is_alone, write_path=folder))[:-1],
        )
        findings = check(asked, facts, self._machines.site, today=datetime.now(UTC).date())
        refuse_unless_ready(findings)
        shutil.rmtree(folder, ignore_errors=True)  # of a start that was refused it stays, for people to look at
        return findings

    def run(
        self, stage: str, task: Mapping[str, JsonValue], *, read_paths: tuple[Path, ...], write_path: Path
    ) -> StageResult:
        """Run `stage` as a job, or wait for the one that an earlier start left behind.

        Raises what the stage raised; Unavailable (`interrupted`) when we are asked to stop, while the job goes on, and
        (`stage_died`) for a job that ended without a word.
        """
        folder = self._folder / write_path.name.removeprefix(".partial-")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        job = self._job(stage, task, folder, read_paths=read_paths, write_path=write_path)
        listener = _Follower(folder / OUTPUT_FILE, self._report)
        self._look = listener.look
        id = self._find_job(folder) or self._submit(job, folder)
        started_ms = now_ms()
        status = self._executor.wait(id, lambda now: self._report(f"{stage}: job {id} {now.state.value}", 0, 0))
        listener.look()
        (folder / _ID).unlink()
        if listener.facts is None or status.state is not State.DONE:
            raise listener.error or _died(stage, status, folder)
        ranks = job.num_ranks
        return StageResult(
            facts={**listener.facts, "nodes": job.nodes, "ranks": ranks, "requeued": status.restarts},
            seal_kind="island" if ranks == 1 else "partial:no-namespaces",
            seal_proof="",
            seal_evidence={},
            cpu_s=0.0,
            started_ms=started_ms,
            ended_ms=max(started_ms, now_ms()),
            max_rss=0,
            observed=listener.observed,
        )

    def _open(self) -> Executor:
        if self._machines.has_scheduler:
            return SlurmExecutor(self._machines.site, SlurmOptions(environment=scheduler_clients()), sleep=self._sleep)
        return LocalExecutor(LocalOptions(), sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        """Between two questions to the scheduler: show what was learnt meanwhile, and notice a wish to stop."""
        until = time.monotonic() + seconds
        while True:
            self._look()
            if self._should_stop():
                if isinstance(self._executor, LocalExecutor):
                    self._executor.close()
                    raise Unavailable("stopped before it began", code="interrupted", hint="start again")
                raise Unavailable(
                    "stopped waiting; the job goes on",
                    code="interrupted",
                    hint="start again to wait for it, or end it with the site's own command",
                )
            if (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(left, 1.0))

    def _find_job(self, folder: Path) -> str | None:
        """The job that an earlier start submitted, if the scheduler still knows it."""
        path = folder / _ID
        if not path.exists():
            return None
        id = path.read_text().strip()
        try:
            self._executor.state(id)
        except AllodError as error:
            if error.code != "job_unknown":
                raise
            return None
        return id

    def _submit(self, job: Job, folder: Path) -> str:
        (folder / OUTPUT_FILE).unlink(missing_ok=True)
        id = self._executor.submit(job)
        write_whole(folder / _ID, id + "\n")
        return id

    def _job(
        self,
        stage: str,
        task: Mapping[str, JsonValue],
        folder: Path,
        *,
        read_paths: tuple[Path, ...],
        write_path: Path,
    ) -> Job:
        nodes, ranks = self._machines.ranks_of(stage)
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True, mode=0o700)
        write_whole(scratch / "task.json", json.dumps({**task, "stage": stage}))
        command = (sys.executable, "-P", "-m", "allod.train.stage_process", str(scratch / "task.json"))
        seal = self._seal(command, scratch, is_alone=nodes * ranks == 1, write_path=write_path, read_paths=read_paths)
        return Job(
            name=f"allod-{stage}",
            command=command_line(seal),
            folder=folder,
            nodes=nodes,
            ranks_per_node=ranks,
            environment=_environment(folder, self._machines.threads),
        )

    def _seal(
        self,
        command: tuple[str, ...],
        scratch: Path,
        *,
        is_alone: bool,
        write_path: Path,
        read_paths: tuple[Path, ...] = (),
    ) -> SealOptions:
        environment = stage_environment(scratch, threads=self._machines.threads)
        if not is_alone:
            del environment["GLOO_SOCKET_IFNAME"]  # loopback: the site says which interface leads to the others
        return SealOptions(
            command=command,
            profile="island",
            read_paths=(*python_read_paths(), *read_paths, *(() if is_alone else _paths_for_ranks())),
            write_paths=(write_path,),
            scratch_dir=scratch,
            environment=environment,
            max_file_bytes=MAX_FILE_BYTES,
            unsafe_omit=() if is_alone else ("namespaces",),
            accepts_omitted=not is_alone,
        )


def _paths_for_ranks() -> tuple[Path, ...]:
    return tuple(path for path in map(Path, _FOR_RANKS) if path.exists())


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """What starts the seal and, under a scheduler, the ranks: before the seal there is only this.

    Its temporary files are kept where no sealed process writes.
    """
    source = Path(allod.__file__).resolve().parents[1]
    return {"PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads), "TMPDIR": str(folder)}


class _Follower:
    """Reads what a job's ranks print, as it comes. Other programs print there, too: what is no message is passed by."""

    def __init__(self, output: Path, report: StageProgress) -> None:
        self._output = output
        self._report = report
        self._position = 0
        self._rest = b""
        self.facts: StageFacts | None = None
        self.error: AllodError | None = None
        self.observed: Mapping[str, JsonValue] = {}

    def look(self) -> None:
        """Take in what is new."""
        if not self._output.exists():
            return
        with self._output.open("rb") as file:
            file.seek(self._position)
            while data := file.read(_TAIL_BYTES):
                self._position += len(data)
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest if len(rest) <= _MAX_LINE_BYTES else b""  # no message is so long
                for line in lines:
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        if not line.startswith(b'{"'):
            return
        listener = Listener(self._report)
        try:
            listener.hear(line + b"\n")
        except Unavailable:
            return
        self.facts = listener.facts or self.facts
        self.observed = listener.observed or self.observed
        if listener.error is not None:
            self.error = None if listener.error.code == "interrupted" else listener.error  # then it is queued again


def _died(stage: str, status: JobStatus, folder: Path) -> AllodError:
    why = f"{status.state.value} ({status.reason or status.exit_status})"
    if status.state is State.CANCELLED:
        return Denied(f"the job of {stage} was cancelled", code="job_cancelled")
    return Unavailable(f"the job of {stage}: {why}", code="stage_died", hint=f"see {folder / OUTPUT_FILE}")
