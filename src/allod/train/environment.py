"""What a stage ran with and on: for the manifest, so that a reader can tell runs apart. Nothing of it is in a digest
that names what was made."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import allod
from allod.core.canonical import JsonValue, digest_of
from allod.core.digests import sha256_hex
from allod.core.errors import Unavailable

_PACKAGES = (
    "torch", "numpy", "tokenizers", "rustbpe", "rensa", "safetensors", "gguf", "transformers", "peft", "xllamacpp",
)  # fmt: skip
_MAX_TEXT = 200
_NEEDED = ("torch", "numpy", "gguf", "peft", "rensa", "rustbpe", "safetensors", "tokenizers", "transformers")


def check_packages(needed: Sequence[str] = _NEEDED) -> None:
    """Raise Unavailable (`extra_missing`) unless what the stages import is there: before the first of them."""
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise Unavailable(
            f"training needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            code="extra_missing",
            hint="make setup-train",
        )


@lru_cache(maxsize=1)
def code() -> dict[str, JsonValue]:
    """Allod's version and the digest of its source text, every module of it."""
    root = Path(allod.__file__).parent
    files = {path.relative_to(root).as_posix(): sha256_hex(path.read_bytes()) for path in sorted(root.rglob("*.py"))}
    return {"version": allod.__version__, "sha256": digest_of(files)}


def environment(threads: int, ranks: int) -> dict[str, JsonValue]:
    """Versions of the interpreter and of the packages that take part, and how many did the work."""
    versions: dict[str, JsonValue] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": versions, "threads": threads, "ranks": ranks}


def machine() -> dict[str, JsonValue]:
    """Processor, memory, accelerators and kernel of this machine; not its name or addresses."""
    return {
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerators": [*accelerators()],
        "kernel": f"{platform.system()} {platform.release()}"[:_MAX_TEXT],
    }


def torch_accelerators() -> list[str] | None:
    """The accelerators that torch sees in this process; None where it never imported torch, and so never asked."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    try:
        return [str(torch.cuda.get_device_name(number))[:_MAX_TEXT] for number in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError):  # how torch says that there is no driver, or none that fits
        return []


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()[:_MAX_TEXT]
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "cpu part")))
    return next(names, platform.machine())[:_MAX_TEXT]


def accelerators(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """This machine's: NVIDIA's, as its kernel driver names them."""
    found: list[str] = []
    for path in sorted(drivers.glob("*/information")):
        model = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("Model:")]
        found.extend(name[:_MAX_TEXT] for name in model)
    return found
