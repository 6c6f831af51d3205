"""The first thing to run on a machine with GPUs: each grant tried from within, and CUDA started, under the seal.

Anything that the driver answers means that it was reached. What a wall refuses is told apart by its error, and what
the driver's own number hides is said in words.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.core.errors import Unavailable
from allod.seal.devices.attempts import CUDA_STARTS, NAME_WRITTEN
from allod.seal.devices.grants import DeviceGrants, names_threads
from allod.seal.devices.obstacles import Obstacle, words_for
from allod.seal.launch import SealOptions, python_read_paths, start

_WALLS = frozenset({"EPERM", "EACCES", "ENOSYS", "EROFS", "ENOENT", "ENXIO", "ENODEV"})
_PROC_FILES = (
    "/proc/self/maps",
    "/proc/self/status",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/devices",
    "/proc/driver/nvidia/params",
)
_TRIAL_TIMEOUT_S = 120.0
_SOURCE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One grant. `error` is empty or an error's name; `said` is what came back; `is_reached`: no wall refused it."""

    grant: str
    tried: str
    error: str
    said: str
    is_reached: bool


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """The rows, the kind of the seal they were tried under, and what stands in the way, if anything does."""

    seal: str
    rows: tuple[TrialRow, ...]
    obstacles: tuple[Obstacle, ...] = ()

    @property
    def holds(self) -> bool:
        """CUDA started under a seal that is whole, and nothing that was granted was refused."""
        return not self.obstacles and bool(self.rows) and all(row.is_reached for row in self.rows)


def try_devices(grants: DeviceGrants, *, driver: str, read_paths: tuple[Path, ...] = ()) -> TrialReport:
    """Start an island with `grants`, try them there, and report; `driver` is its version, for the words.

    `read_paths` are more folders to read. Raises what `start` does: Invalid, Unavailable `seal_incomplete`.
    """
    with tempfile.TemporaryDirectory(prefix="allod-gpu-") as folder:
        log = Path(folder, "log")
        scratch = Path(folder, "scratch")
        scratch.mkdir(mode=0o700)
        process = start(_options(grants, log=log, scratch=scratch, read_paths=read_paths))
        status = process.wait(_TRIAL_TIMEOUT_S)
        if status is None:
            process.terminate(grace_s=0)
        said = log.read_text(errors="replace").splitlines()
    found = [json.loads(line) for line in said if line.startswith("{")]
    if not found:
        raise Unavailable(f"the trial said nothing: {' '.join(said)[-500:]}", code="engine_not_started")
    if found[-1]["grant"] != CUDA_STARTS:  # the driver's library ended it, or did not come back
        ending = "did not come back" if status is None else f"ended the process with status {status}"
        found.append({"grant": CUDA_STARTS, "tried": "cuInit", "code": None, "said": f"it {ending}"})
    return report_of(found, seal=process.kind, driver=driver)


def report_of(found: list[dict[str, Any]], *, seal: str, driver: str) -> TrialReport:
    """The report on what attempts.py said."""
    *tried, last = found
    rows = [TrialRow(**row, is_reached=row["error"] not in _WALLS) for row in tried]
    is_name_refused = not any(row.grant == NAME_WRITTEN and row.is_reached for row in rows) and names_threads(driver)
    code = last["code"]
    if code is None:
        obstacle: Obstacle | None = Obstacle("no-cuda", f"CUDA could not be started: {last['said']}.", "see the rows")
    else:
        obstacle = words_for(code, driver=driver, is_name_refused=is_name_refused)
    said = "; ".join(last["devices"]) or "no device" if code == 0 else last.get("said", "")
    error = "" if code == 0 else str(code or "no answer")
    rows.append(TrialRow(grant=last["grant"], tried=last["tried"], error=error, said=said, is_reached=code == 0))
    return TrialReport(seal=seal, rows=tuple(rows), obstacles=(obstacle,) if obstacle else ())


def _options(grants: DeviceGrants, *, log: Path, scratch: Path, read_paths: tuple[Path, ...]) -> SealOptions:
    asked = {
        "nodes": [str(node) for node in grants.nodes],
        "files": [file for file in _PROC_FILES if Path(file).exists()],
        "folders": [str(path) for path in grants.read_paths],
        "names_threads": grants.names_threads,
    }
    return SealOptions(
        command=(sys.executable, "-S", "-P", "-m", "allod.seal.devices.attempts", json.dumps(asked)),
        profile="island-gpu",
        devices=grants,
        read_paths=(*python_read_paths(), *read_paths),
        scratch_dir=scratch,
        environment={"PYTHONPATH": str(_SOURCE), "HOME": str(scratch), "CUDA_CACHE_PATH": str(scratch)},
        log_path=log,
    )
