"""What there is to tune on: this machine, and other files of the same model that lie beside the one that is served."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from allod.core.canonical import digest_of
from allod.core.errors import AllodError
from allod.model.gguf.header import read_header

_QUANTISATION = re.compile(r"[._-](?:I?Q[0-9][A-Z0-9_]*|BF16|F16|F32)$", re.IGNORECASE)


def files_of_same_model(path: Path, folders: Sequence[Path], *, stem: str) -> list[Path]:
    """Other GGUF files in these folders that are the same model, otherwise quantised: the name (of `path` it is `stem`)
    but for its end, the shape, the number of parameters and the template are equal. Nothing is fetched."""
    wanted, header = _QUANTISATION.sub("", stem), read_header(path)
    found = []
    for file in _gguf_files(folders):
        if file.samefile(path) or _QUANTISATION.sub("", file.stem) != wanted:
            continue
        try:
            other = read_header(file)
        except AllodError:
            continue  # the gate would not let it be served
        same = ("architecture", "num_parameters", "context_tokens", "template_digest", "pooling")
        if all(getattr(other, name) == getattr(header, name) for name in same):
            found.append(file)
    return found


def describe_machine() -> str:
    """The processor, its cores as we may use them, and the memory: what figures hold for."""
    told = Path("/proc/cpuinfo").read_text(errors="replace") if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    what = name[1].strip() if name else platform.machine()
    return f"{what}, {len(os.sched_getaffinity(0))} hardware threads, {memory_gib} GiB"


def digest_of_machine() -> str:
    """One for each processor and kernel: a kept figure of another is none of this one."""
    return digest_of([describe_machine(), platform.machine(), platform.release()])


def _gguf_files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in dict.fromkeys(each.resolve() for each in folders):
        yield from sorted(each for each in folder.glob("*.gguf") if each.is_file())
