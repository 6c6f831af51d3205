"""Torch and NCCL on granted GPUs, under a run's seal: rows for the report of `seal/lab/device_trial.py`."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from allod.seal.devices.grants import DeviceGrants
from allod.seal.lab.device_trial import TrialRow
from allod.seal.launch import SealOptions, python_read_paths, start

_TORCH_TIMEOUT_S = 300.0  # importing it from a cold network file system takes its time, and so does a first kernel
_BUILT_FOR = re.compile(r"^cuda\b[^=]*= *'(\d+)", re.MULTILINE)
_SOURCE = Path(__file__).resolve().parents[3]


def cuda_of_torch() -> int:
    """The major version of CUDA that the installed torch was built for, without importing it; 0 where there is none."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return 0
    match = _BUILT_FOR.search(Path(found.origin).with_name("version.py").read_text())
    return int(match.group(1)) if match else 0


def try_torch(grants: DeviceGrants) -> tuple[TrialRow, ...]:
    """A product of matrices on the first GPU, and a sum over two by NCCL where there are two.

    Raises what `seal.launch.start` does.
    """
    rows = [_row("torch", "a product of matrices", run_sealed(grants, "allod.fleet.preflight.torch_gpu", "cuda"))]
    if grants.num_gpus > 1:
        two = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "allod.fleet.preflight.all_reduce")
        found = run_sealed(grants, *two)
        said = f"{found['all_reduce_mb_s']} MB/s" if "all_reduce_mb_s" in found else found["said"]
        rows.append(_row("NCCL", "a sum over two GPUs", {"error": found.get("error", ""), "said": said}))
    return tuple(rows)


def run_sealed(grants: DeviceGrants, *module: str) -> dict[str, Any]:
    """The last line of JSON that `python -m MODULE` prints in an island with `grants`; an error where there is none."""
    with tempfile.TemporaryDirectory(prefix="allod-gpu-") as folder:
        log, scratch = Path(folder, "log"), Path(folder, "scratch")
        scratch.mkdir(mode=0o700)
        where = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "CUDA_CACHE_PATH"), str(scratch))
        options = SealOptions(
            command=(sys.executable, "-P", "-m", *module),
            profile="island-gpu",
            devices=grants,
            read_paths=python_read_paths(),
            scratch_dir=scratch,
            environment={**where, "PYTHONPATH": str(_SOURCE), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            log_path=log,
        )
        process = start(options)
        status = process.wait(_TORCH_TIMEOUT_S)
        if status is None:
            process.terminate(grace_s=0)
        said = log.read_text(errors="replace").splitlines()
    found = [line for line in said if line.startswith("{")]
    if status == 0 and found:
        answer: dict[str, Any] = json.loads(found[-1])
        return answer
    return {"error": "no answer" if status is None else f"status {status}", "said": " ".join(said)[-300:]}


def _row(grant: str, tried: str, found: dict[str, Any]) -> TrialRow:
    return TrialRow(grant=grant, tried=tried, error=found["error"], said=found["said"], is_reached=not found["error"])
