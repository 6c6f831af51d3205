"""What a rank finds where a run would be: `python -m allod.fleet.preflight.probe QUESTIONS`, on every rank of it.

Run it as the run itself would be, under the same seal and by the same executor: what a login node or a process outside
the seal can see says nothing. QUESTIONS is the JSON of `ProbeOptions`; each rank prints its facts as one line.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from allod.core.errors import Unavailable
from allod.fleet.leaving import leave
from allod.fleet.preflight.checks import ProbeResult
from allod.fleet.preflight.egress import reach

TORCH_TIMEOUT_S = 180.0  # importing it from a cold network file system takes its time

_MARK = "preflight facts: "  # before a rank's line, among whatever else a job prints

# What torch itself says; its warning is where it says that the driver is too old.
_ASK_CUDA = """
import json, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import torch
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
reason = "; ".join(str(warning.message) for warning in said)
built = torch.version.cuda or torch.version.hip
print(json.dumps([count, reason or f"torch {torch.__version__} is built for {built or 'CPUs only'}"]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What to look at. `all_reduce` only where torchrun started several ranks; `addresses` None: none are tried."""

    folder: str
    gpus: bool = False
    all_reduce: bool = False
    addresses: tuple[str, ...] | None = None


def gather_command(python: str, questions: ProbeOptions) -> tuple[str, ...]:
    """What every rank runs."""
    return (python, "-m", "allod.fleet.preflight.probe", json.dumps(asdict(questions)))


def gather(questions: ProbeOptions) -> ProbeResult:
    """Look, on this rank. What could not be looked at stays None."""
    num_gpus, reason = ask_cuda(sys.executable) if questions.gpus else (None, "")
    return ProbeResult(
        machine=platform.machine(),
        num_gpus=num_gpus,
        gpus_reason=reason,
        all_reduce_mb_s=_all_reduce() if questions.all_reduce else None,
        free_bytes=free_bytes(Path(questions.folder)),
        reached=None if questions.addresses is None else reach(questions.addresses),
        nodes=(platform.node().split(".")[0],),
    )


def ask_cuda(python: str) -> tuple[int, str]:
    """How many GPUs torch sees, asked in a process of its own, and what it said if none."""
    try:
        done = subprocess.run([python, "-c", _ASK_CUDA], capture_output=True, timeout=TORCH_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 0, f"torch could not be asked: {error}"
    if done.returncode != 0:
        return 0, f"torch could not be asked: {done.stderr.decode(errors='replace').strip()[-300:]}"
    count, reason = json.loads(done.stdout)
    return int(count), "" if count else str(reason)


def free_bytes(folder: Path) -> int | None:
    """What an ordinary user may still write there; None if it cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _all_reduce() -> int:
    from allod.fleet.preflight.all_reduce import measure_together  # torch, which nobody else here needs

    return measure_together()


def read_facts(output: str, *, num_ranks: int) -> ProbeResult:
    """What all ranks printed, as one: the worst of each figure, every address and node.

    Raises Unavailable (`preflight_failed`) unless each rank answered.
    """
    lines = [line.partition(_MARK)[2] for line in output.splitlines() if _MARK in line]
    if len(lines) != num_ranks:
        raise Unavailable(
            f"{len(lines)} of {num_ranks} ranks answered the preflight: {output[-500:].strip()!r}",
            code="preflight_failed",
        )
    try:
        return _worst([_facts(json.loads(line)) for line in lines])
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"the preflight's answers cannot be read: {error}", code="preflight_failed") from error


def _facts(found: dict[str, object]) -> ProbeResult:
    listed = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return ProbeResult(**{**found, **listed})  # type: ignore[arg-type]


def _worst(every: Sequence[ProbeResult]) -> ProbeResult:
    machines = sorted({facts.machine or "unknown" for facts in every})
    return ProbeResult(
        machine=" and ".join(machines),
        num_gpus=_least(facts.num_gpus for facts in every),
        gpus_reason="; ".join(sorted({facts.gpus_reason for facts in every} - {""})),
        all_reduce_mb_s=_least(facts.all_reduce_mb_s for facts in every),
        free_bytes=_least(facts.free_bytes for facts in every),
        reached=_union(facts.reached for facts in every),
        nodes=_union(facts.nodes for facts in every),
    )


def _least(figures: Iterable[int | None]) -> int | None:
    """None if one of them is: a rank that could not look is no better than the worst."""
    every = list(figures)
    known = [figure for figure in every if figure is not None]
    return min(known) if len(known) == len(every) else None


def _union(lists: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    every = list(lists)
    known = [some for some in every if some is not None]
    return tuple(sorted({item for some in known for item in some})) if len(known) == len(every) else None


def main(arguments: Sequence[str]) -> int:
    """Print this rank's facts, in one write: ranks share the output."""
    asked = json.loads(arguments[0])
    asked["addresses"] = None if asked["addresses"] is None else tuple(asked["addresses"])
    sys.stdout.write(_MARK + json.dumps(asdict(gather(ProbeOptions(**asked)))) + "\n")
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
