"""How vLLM is started on a folder of safetensors: an environment of its own, in an island, on one Unix socket."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from allod.app.gateway.engine import Weights, place_of
from allod.app.home import Home
from allod.core.canonical import JsonValue, digest_of
from allod.core.deadlines import Deadlines
from allod.core.errors import Invalid, Unavailable
from allod.engine.engine import EngineInfo
from allod.engine.replicas.replica import ReplicaOptions
from allod.model.folder import FolderHeader
from allod.seal.launch import SealOptions
from allod.settings.tree import Settings

if TYPE_CHECKING:
    from allod.engine.adapters.vllm import VllmEngine

LOOK_TIMEOUT_S = 60  # an environment on a slow disk
BATCH_TOKENS = 256  # in one step: its counter of steps must move while a long prompt is computed
MAX_FILE_BYTES = 1 << 42  # it makes a file for the memory that its processes share, and may reserve as much
PROGRAMS = (Path("/bin/sh"), Path("/usr/bin/lscpu"))  # it asks for the processors with a shell
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # to bind them is seen by others, and refused
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what external_launcher asks for; the engine is a process all the same
    "TORCHDYNAMO_DISABLE": "1",  # it would look for a compiler when somebody first asks for logprobs, and die of it
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",  # every island has its own loopback
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PATH": "/usr/bin:/bin",
}
_LOOK = """
import json, sys, sysconfig
from importlib.metadata import distributions
found = [each for each in distributions() if each.name in ("vllm", "vllm-cpu")]
files = [(each, file) for each in found for file in each.files or () if file.name == "RECORD"]
record = str(files[0][0].locate_file(files[0][1])) if files else None
paths = {sys.prefix, *sysconfig.get_paths().values(), sys.base_prefix + "/lib"}
print(json.dumps({"record": record, "paths": sorted(paths)}))
"""


def vllm_options(
    settings: Settings, weights: Weights, header: FolderHeader, socket_dir: Path, log_name: str
) -> ReplicaOptions:
    """A replica of vLLM that serves the folder by its model's name.

    Raises Invalid (`devices_unusable`), and Unavailable (`engine_missing`) where the environment that the settings name
    has no vLLM.
    """
    if settings.model.devices or settings.model.gpu_layers:
        raise Invalid("vLLM is not given GPUs here yet", code="devices_unusable", param="model.devices")
    model, folder, name = settings.model, weights.path, weights.served.name
    python = Path(model.vllm_python or sys.executable)
    record, paths = _look_at(python)
    socket_path, scratch = str(socket_dir / "engine.sock"), socket_dir.with_name(f"{socket_dir.name}-scratch")
    scratch.mkdir(mode=0o700)
    context_tokens = min(model.context_tokens, header.context_tokens)
    batch_tokens = max(BATCH_TOKENS, model.slots)
    options: dict[str, JsonValue] = {
        "slots": model.slots,
        "dtype": header.dtype,
        "context_tokens": context_tokens,
        "threads": model.threads,
        "batch_tokens": batch_tokens,
        "cache_gib": model.vllm_cache_gib,
    }
    return ReplicaOptions(
        seal=SealOptions(
            command=(
                *(str(python), "-P", "-m", "vllm.entrypoints.openai.api_server", "--uds", socket_path),
                *("--model", str(folder), "--served-model-name", name, "--load-format", "safetensors"),
                *("--max-model-len", str(context_tokens), "--max-num-seqs", str(model.slots)),
                *("--dtype", header.dtype, "--max-num-batched-tokens", str(batch_tokens)),
                *("--tokenizer-mode", "hf", "--config-format", "hf"),  # what was read of the folder is what is used
                *("--generation-config", "vllm"),  # and requests say how they are sampled, no file
                *("--enforce-eager", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
                *("--distributed-executor-backend", "external_launcher"),  # one worker, in the engine's process
            ),
            profile="island",
            socket_dir=socket_dir,
            scratch_dir=scratch,
            read_paths=(*paths, folder),
            execute_paths=PROGRAMS,
            environment={
                **ENVIRONMENT,
                "VLLM_CPU_KVCACHE_SPACE": str(model.vllm_cache_gib),
                **({"OMP_NUM_THREADS": str(model.threads)} if model.threads else {}),
                "HOME": str(scratch),
                "TMPDIR": str(scratch),
            },
            log_path=settings.home / log_name,
            max_file_bytes=MAX_FILE_BYTES,
            unsafe_no_seal=settings.unsafe_no_seal,
        ),
        socket_path=socket_path,
        make_engine=partial(_vllm_engine, name),
        info=EngineInfo(
            name="vllm",
            build="",
            config=digest_of(options),
            replay="none",  # the prefix cache is on, and batches change the order of sums
            model_digest=weights.served.digest,
            template_digest=header.template_digest if header.has_template else None,
            context_tokens=context_tokens,
            slots=model.slots,
            can_chat=True,
            can_embed=False,
            place=place_of(settings),
            control_tokens=header.control_token_guard(),
        ),
        pinned=tuple((folder / file, digest) for file, digest in weights.files.items()),
        pinned_folder=folder,
        library=record,
        config=options,
        evidence_dir=Home(settings.home).evidence,
        deadlines=settings.deadlines,
        spare_bytes=model.spare_mib << 20,
        has_accelerators=True,  # another process than the one that is watched computes
        ready_timeout_s=model.ready_timeout_s,
    )


def _vllm_engine(name: str, info: EngineInfo, socket_path: str, deadlines: Deadlines) -> VllmEngine:
    from allod.engine.adapters.vllm import VllmEngine

    return VllmEngine(info, socket_path, name, deadlines)


def _look_at(python: Path) -> tuple[Path, tuple[Path, ...]]:
    """The list of vLLM's own files, and what must be read to run it, in the environment of that Python."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _LOOK], capture_output=True, check=True, timeout=LOOK_TIMEOUT_S, env={}
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Unavailable(f"{python} cannot be asked for vLLM: {error}", code="engine_missing") from error
    if found["record"] is None:
        raise Unavailable(
            f"the environment of {python} has no vLLM",
            code="engine_missing",
            hint="install it in an environment of its own, and name that one's Python in model.vllm_python",
        )
    return Path(found["record"]), tuple(path for path in map(Path, found["paths"]) if path.exists())
