"""Run a stage inside the island: it reads its inputs, writes its output, and reaches nothing else.

Several ranks run under torchrun inside one island, joined by loopback. They end when this process does: the kernel
kills them all.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

import allod
from allod.core.canonical import JsonValue
from allod.core.errors import Unavailable
from allod.core.shown_text import make_plain
from allod.core.stages import ROWS
from allod.core.times import now_ms
from allod.fleet.jobs import INTERRUPTED_STATUS
from allod.seal.devices.grants import NO_DEVICES, DeviceGrants
from allod.seal.endings import how_it_ended
from allod.seal.evidence import proof_of
from allod.seal.launch import SealedProcess, SealOptions, python_read_paths, start
from allod.train.energy import EnergyMeter
from allod.train.recipe import Recipe
from allod.train.recipe_reading import recipe_json
from allod.train.stage_messages import Listener
from allod.train.stage_task import Limits, StageFacts, StageProgress

MAX_FILE_BYTES = 1 << 42
GRACE_S = 300.0  # to save what was learnt
_LOOK_EVERY_S = 0.2
_MAX_READS = 64  # between two looks at whether to stop: a stage that floods us is not listened to for ever
_TAIL_BYTES, _TAIL_LINES = 4096, 12

_ENVIRONMENT = MappingProxyType(
    {
        "PYTHONHASHSEED": "0",  # nothing of this machine in the bytes
        "PYTHONUTF8": "1",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_WAIT_POLICY": "passive",  # threads that spin would starve a small machine
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # so that these fail at once, and say why
        "TRANSFORMERS_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_COMPILE_DISABLE": "1",  # it locks its cache and starts compilers, which the seal refuses
    }
)


@dataclass(frozen=True, slots=True)
class StageResult:
    """What came of a stage. `cpu_s` is of all its processes, `max_rss` (bytes) of its first; times are Unix ms.

    `seal_proof` is the digest of the stable part of `seal_evidence`; `observed` the machine as the stage itself saw it.
    """

    facts: StageFacts
    seal_kind: str
    seal_proof: str
    seal_evidence: Mapping[str, JsonValue]
    cpu_s: float
    started_ms: int
    ended_ms: int
    max_rss: int
    observed: Mapping[str, JsonValue] = field(default_factory=dict)


def task_of(recipe: Recipe, inputs: Mapping[str, Path], output: Path) -> dict[str, JsonValue]:
    """What a stage's process is told, but for the stage (stage_process.py)."""
    return {
        "recipe": recipe_json(recipe),
        "inputs": {name: str(path) for name, path in inputs.items()},
        "output": str(output),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedStages:
    """Stages of one run, each in a sealed process of this machine: it reads its inputs, writes its folder and reaches
    nothing else. `meter` counts while they run; what they print is kept below `logs`."""

    recipe: Recipe
    meter: EnergyMeter
    report: StageProgress
    stop: Callable[[], bool]
    logs: Path
    ranks: int
    threads: int
    devices: DeviceGrants
    unsafe_no_seal: bool

    def run(self, stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits | None = None) -> StageResult:
        """Have `stage` write `output`. Raises what `run_sealed` raises."""
        self.logs.mkdir(exist_ok=True, mode=0o700)
        return run_sealed(
            stage,
            task_of(self.recipe, inputs, output),
            read_paths=tuple(inputs.values()),
            write_path=output,
            report=self._report,
            stop=self.stop,
            log_path=self.logs / f"{stage}.log",
            ranks=self.ranks if ROWS[stage].shares_ranks else 1,
            threads=self.threads,
            limits=limits,
            devices=self.devices if ROWS[stage].needs_accelerators else NO_DEVICES,
            unsafe_no_seal=self.unsafe_no_seal,
        )

    def _report(self, what: str, done: int, total: int) -> None:
        self.meter.sample()
        self.report(what, done, total)


def run_sealed(
    stage: str,
    task: Mapping[str, JsonValue],
    *,
    read_paths: tuple[Path, ...],
    write_path: Path,
    report: StageProgress,
    stop: Callable[[], bool],
    log_path: Path,
    ranks: int = 1,
    threads: int = 1,
    grace_s: float = GRACE_S,
    limits: Limits | None = None,
    devices: DeviceGrants = NO_DEVICES,
    unsafe_no_seal: bool = False,
    package: str | None = None,
) -> StageResult:
    """Run `stage` as `task` says (`recipe`, `inputs`, `output`: stage_process.py) and wait for it.

    `stop` is asked a few times a second; once it is true the stage has `grace_s` to save and end. Any exception here,
    KeyboardInterrupt included, ends it at once. With `devices` the island is one with GPUs. `package` is where tests
    keep stages of their own.
    Raises what the stage raised; Unavailable `interrupted` when it was stopped, `stage_limit` when it met its limits,
    `stage_died` when it ended without a word, and what `seal.launch.start` raises.
    """
    with tempfile.TemporaryDirectory(prefix="allod-stage-") as folder:
        scratch = Path(folder)
        (scratch / "task.json").write_text(json.dumps({**task, "stage": stage}))
        hears, tells = os.pipe()
        with os.fdopen(hears, "rb", buffering=0) as output, os.fdopen(tells, "wb") as theirs:
            options = SealOptions(
                command=_command(scratch, ranks=ranks, grace_s=grace_s, package=package),
                profile="island-gpu" if devices.nodes else "island",
                read_paths=(*python_read_paths(), *read_paths),
                write_paths=(write_path,),
                scratch_dir=scratch,
                devices=devices,
                environment=stage_environment(scratch, threads=threads, read_paths=read_paths if package else ()),
                log_path=log_path,
                output_fd=tells,
                max_file_bytes=MAX_FILE_BYTES,
                max_memory_bytes=limits.memory_bytes if limits else None,
                unsafe_no_seal=unsafe_no_seal,
            )
            run = _SealedRun(stage, options, output, report=report, stop=stop, grace_s=grace_s, limits=limits)
            return run.result(theirs)


def _command(scratch: Path, *, ranks: int, grace_s: float, package: str | None) -> tuple[str, ...]:
    python = (sys.executable, "-P")
    which = ("--package", package) if package else ()
    stage = ("-m", "allod.train.stage_process", *which, str(scratch / "task.json"))
    if ranks == 1:
        return (*python, *stage)
    only_the_first_speaks = ",".join(f"{rank}:1" for rank in range(1, ranks))  # 1: standard output, to a file
    return (
        *(*python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
        *(f"--redirects={only_the_first_speaks}", f"--log-dir={scratch / 'ranks'}"),
        *("--signals-to-handle=SIGUSR1,SIGTERM,SIGINT", f"--shutdown-timeout={int(grace_s)}"),
        *stage,
    )


def stage_environment(scratch: Path, *, threads: int, read_paths: tuple[Path, ...] = ()) -> dict[str, str]:
    source = Path(allod.__file__).resolve().parents[1]
    return {
        **_ENVIRONMENT,
        **dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(scratch)),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads)),
        "PYTHONPATH": os.pathsep.join(map(str, (source, *read_paths))),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }


class _SealedRun:
    """One stage under way."""

    def __init__(
        self,
        stage: str,
        options: SealOptions,
        output: IO[bytes],
        *,
        report: StageProgress,
        stop: Callable[[], bool],
        grace_s: float,
        limits: Limits | None,
    ) -> None:
        self._stage = stage
        self._options = options
        self._output: IO[bytes] | None = output  # None once it has ended
        self._listener = Listener(report)
        self._stop = stop
        self._grace_s = grace_s
        self._limits = limits
        self._kill_at: float | None = None  # set once it was asked to stop
        self._log_starts = options.log_path.stat().st_size if options.log_path and options.log_path.exists() else 0

    def result(self, theirs: IO[bytes]) -> StageResult:
        """Start it, with `theirs` to write to, follow it, and say what came of it."""
        started_ms, cpu_before = now_ms(), _cpu_of_children()
        process = start(self._options)
        theirs.close()
        try:
            self._follow(process)
        finally:
            status = process.terminate(grace_s=0)
        self._hear()
        facts = self._facts(status)
        return StageResult(
            facts=facts,
            seal_kind=process.kind,
            seal_proof=proof_of(process.at_start),
            seal_evidence=process.at_start,
            cpu_s=_cpu_of_children() - cpu_before,
            started_ms=started_ms,
            ended_ms=max(started_ms, now_ms()),  # clocks are put back
            max_rss=self._listener.max_rss,
            observed=self._listener.observed,
        )

    def _follow(self, process: SealedProcess) -> None:
        """Until it has ended, or has been asked to and did not. Raises Unavailable (`stage_limit`) past its time."""
        ends_at = time.monotonic() + self._limits.wall_s if self._limits else None
        while process.poll() is None:
            if self._limits and ends_at is not None and time.monotonic() > ends_at:
                raise self._limit(f"it took longer than {self._limits.wall_s:.0f} s")
            if self._output is None:
                process.wait(_LOOK_EVERY_S)
            self._hear(wait_s=_LOOK_EVERY_S)
            if self._kill_at is None and self._stop():
                process.send_signal(signal.SIGUSR1)
                self._kill_at = time.monotonic() + self._grace_s
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                return

    def _hear(self, wait_s: float = 0.0) -> None:
        """Take what has been said so far; wait at most `wait_s` for it to begin."""
        for _ in range(_MAX_READS):
            if self._output is None or not select.select([self._output], [], [], wait_s)[0]:
                return
            wait_s = 0.0
            if data := self._output.read(65536):
                self._listener.hear(data)
            else:
                self._output = None

    def _facts(self, status: int) -> StageFacts:
        error, facts = self._listener.error, self._listener.facts
        if status == 0 and facts is not None:
            return facts
        if self._limits and error is not None and error.code == "memory":
            raise self._limit(f"it needed more than {self._limits.memory_bytes >> 20} MiB of memory") from error
        if error is not None and error.code != "interrupted":
            raise error
        if self._kill_at is not None or status == INTERRUPTED_STATUS:
            raise Unavailable(f"{self._stage} was stopped", code="interrupted", hint="start again: it resumes")
        raise Unavailable(f"{self._stage} {how_it_ended(status)}", code="stage_died", hint=self._last_words())

    def _limit(self, what: str) -> Unavailable:
        return Unavailable(f"{self._stage} was ended: {what}", code="stage_limit")

    def _last_words(self) -> str:
        path = self._options.log_path
        if path is None or not path.exists():
            return "there is no log"
        with path.open("rb") as log:
            log.seek(max(self._log_starts, path.stat().st_size - _TAIL_BYTES))
            lines = log.read(_TAIL_BYTES).decode(errors="replace").split("\n")
        lines = [make_plain(line, limit=_TAIL_BYTES) for line in lines if line][-_TAIL_LINES:]
        return "\n".join([f"the end of {path.name}:", *lines])


def _cpu_of_children() -> float:
    """Processor seconds of every child that has ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
