"""What chosen GPUs come to under the seal: the nodes and files that CUDA opens for them, and nothing of the others.

Not granted, though drivers bring them: nvidia-modeset (displays; it asks for no privilege), /dev/dri, nvidia-uvm-tools,
the socket of nvidia-persistenced (root decodes what comes in before it asks who sent it) and MPS (one server for all
users). Sources: libnvidia-container's nvc_info.c, gVisor's nvproxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from allod.core.errors import Invalid
from allod.seal.devices.survey import Gpu, Survey

ALL = "all"
_NAMES_THREADS_FROM = 570  # from this driver on cuInit ends in 304 when it may not name its threads
_NEWEST_CUDA = ((580, 13), (525, 12), (450, 11))  # by the driver that brought it
_WANTED = re.compile(r"(\d{1,3})(?:/(gi\d{1,3}/ci\d{1,3}))?")
_WITHIN_ONE_MACHINE = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}


class DeviceGrants(NamedTuple):
    """What an island with devices gets: `nodes` to read, write and ask (ioctl), `read_paths` to read.

    `environment` is added to the command's own. `names_threads`: it may write the names of its threads in its /proc,
    which an accomplice outside can read there.
    """

    nodes: tuple[Path, ...]
    read_paths: tuple[Path, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    names_threads: bool = False

    @property
    def num_gpus(self) -> int:
        """How many cards, however many instances of each."""
        return sum(node.name.removeprefix("nvidia").isdigit() for node in self.nodes)


NO_DEVICES = DeviceGrants(())


def grants_of(survey: Survey, wanted: tuple[str, ...], *, cuda: int = 0) -> DeviceGrants:
    """The grants for `wanted`: `all`, or the numbers of GPUs (`0`), or of MIG instances (`0/gi7/ci0`).

    `cuda` is the major version that the program was built for; 0 where it is not known. Raises Invalid `seal_device`
    for one that is not there.
    """
    chosen = [(gpu, ()) for gpu in survey.gpus] if wanted == (ALL,) else [*_choose(survey, wanted)]
    names = ["nvidiactl", "nvidia-uvm"]
    for gpu, caps in chosen:
        names += [f"nvidia{gpu.minor}", *(f"nvidia-caps/nvidia-cap{number}" for number in caps)]
    folders = (survey.pci[gpu.address] for gpu, _ in chosen if gpu.address in survey.pci)
    newer = _newer_libraries(survey, cuda)
    return DeviceGrants(
        nodes=tuple(Path("/dev", name) for name in dict.fromkeys(names)),
        read_paths=tuple(dict.fromkeys((*survey.system, *folders, *([newer] if newer else [])))),
        environment=_WITHIN_ONE_MACHINE | ({"LD_LIBRARY_PATH": str(newer)} if newer else {}),
        names_threads=names_threads(survey.driver),
    )


def names_threads(driver: str) -> bool:
    """Whether this driver does not start unless it may write the names of its threads."""
    return major_of(driver) >= _NAMES_THREADS_FROM


def newest_cuda(driver: str) -> int:
    """The major version of CUDA that a driver runs without help; 0 for one older than any that torch is built for."""
    return next((cuda for first, cuda in _NEWEST_CUDA if major_of(driver) >= first), 0)


def major_of(version: str) -> int:
    """570 of 570.86.15; 0 of nothing."""
    return int(version.partition(".")[0] or 0)


def _choose(survey: Survey, wanted: tuple[str, ...]) -> Iterator[tuple[Gpu, tuple[int, ...]]]:
    gpus = {gpu.minor: gpu for gpu in survey.gpus}
    for words in wanted:
        match = _WANTED.fullmatch(words)
        gpu = gpus.get(int(match.group(1))) if match else None
        if match is None or gpu is None:
            there = ", ".join(map(str, gpus)) or "none"
            raise Invalid(f"there is no GPU {words!r} here", code="seal_device", param="devices", hint=f"GPUs: {there}")
        name, instances = match.group(2), {instance.name: instance.caps for instance in gpu.instances}
        if name and name not in instances:
            there = ", ".join(instances) or "none"
            message = f"GPU {gpu.minor} has no instance {name!r}"
            raise Invalid(message, code="seal_device", param="devices", hint=f"instances: {there}")
        yield gpu, instances[name] if name else ()


def _newer_libraries(survey: Survey, cuda: int) -> Path | None:
    """The folder of the newest libcuda for programs that the driver's own is too old for; None where none is needed."""
    if cuda <= newest_cuda(survey.driver):
        return None
    fit = [found for found in survey.compatible if newest_cuda(found[0]) >= cuda]
    return max(fit, key=lambda found: [int(part) for part in found[0].split(".")])[1] if fit else None
