"""What the driver and the kernel say of this machine's NVIDIA GPUs. Reads files, opens no device.

Formats: /proc/driver/nvidia as the driver's own README describes it; MIG by libnvidia-container's nvc_info.c. `root` is
an argument, so that a tree of files made by a test is read as a machine is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")
_LIBRARY = re.compile(r"libcuda\.so\.(\d+\.\d+(?:\.\d+)?)")
_LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib")
_SYSTEM_FOLDERS = (
    "sys/devices/system/node",
    "sys/bus/pci/devices",
    "sys/module/nvidia",
    "sys/module/nvidia_uvm",
    "sys/module/nvidia_drm",
)
_MISCELLANY = "/proc/sys/fs/binfmt_misc"  # systemd mounts it there on every machine; it hides nothing


class Instance(NamedTuple):
    """A MIG instance: `gi` of its GPU, with the numbers of the nodes in /dev/nvidia-caps that open it."""

    name: str  # gi7/ci0
    caps: tuple[int, ...]


class Gpu(NamedTuple):
    """One GPU. `minor` is the N of /dev/nvidiaN, `address` its PCI address."""

    minor: int
    address: str
    model: str
    instances: tuple[Instance, ...] = ()


class Survey(NamedTuple):
    """`driver` and `library` are versions, empty where there is none; `majors` are the character devices' by name.

    `nodes` are the names below /dev of what is there of the driver's. `compatible` are the folders of a newer libcuda
    for this driver (forward compatibility). `is_nodev`: no device there can be opened. `masked` is what of /proc
    something else is mounted over. `pci` is the folder in /sys of each address, with the links to it resolved,
    `system` are the other folders there that CUDA reads.
    """

    gpus: tuple[Gpu, ...]
    driver: str
    library: str
    majors: Mapping[str, int]
    nodes: frozenset[str]
    compatible: tuple[tuple[str, Path], ...]
    is_nodev: bool
    has_pci: bool
    masked: tuple[str, ...]
    pci: Mapping[str, Path]
    system: tuple[Path, ...]


def survey_devices(root: Path = ROOT) -> Survey:
    """The GPUs of the machine whose files are below `root`. What is not there is empty; raises OSError for nothing."""
    gpus = tuple(sorted(_gpus(root / "proc/driver/nvidia")))
    mounts = [line.split() for line in _text(root / "proc/self/mountinfo").splitlines()]
    return Survey(
        gpus=gpus,
        driver=_driver(root),
        library=next(_library_versions(root / folder for folder in _LIBRARY_FOLDERS), ""),
        majors=_majors(_text(root / "proc/devices")),
        nodes=frozenset(_nodes(root / "dev")),
        compatible=tuple(_compatible(root)),
        is_nodev=_is_nodev(mounts, "/dev/nvidiactl"),
        has_pci=_is_folder(root / "sys/bus/pci/devices"),
        masked=tuple(sorted({mount[4] for mount in mounts if mount[4].startswith("/proc/")} - {_MISCELLANY})),
        pci={gpu.address: found for gpu in gpus if (found := _pci(root, gpu.address))},
        system=tuple(ROOT / folder for folder in _SYSTEM_FOLDERS if (root / folder).is_dir()),
    )


def _driver(root: Path) -> str:
    said = _text(root / "sys/module/nvidia/version").strip()
    if not said:
        words = _text(root / "proc/driver/nvidia/version").partition("\n")[0].partition("Module")[2]
        said = found.group() if (found := _VERSION.search(words)) else ""
    return said


def _gpus(driver: Path) -> Iterator[Gpu]:
    for folder in _entries(driver / "gpus"):
        said = _fields(_text(folder / "information"))
        minor = said.get("Device Minor", "")
        if minor.isdigit() and said.get("GPU Excluded", "No") == "No":
            instances = tuple(_instances(driver / "capabilities" / f"gpu{minor}" / "mig"))
            yield Gpu(int(minor), folder.name.lower(), said.get("Model", "unknown"), instances)


def _instances(mig: Path) -> Iterator[Instance]:
    """The compute instances of a GPU; whoever opens one needs the node of the instance it is part of, too."""
    for gpu_instance in _entries(mig):
        own = _cap(gpu_instance / "access")
        for compute in _entries(gpu_instance):
            part = _cap(compute / "access")
            if own is not None and part is not None:
                yield Instance(f"{gpu_instance.name}/{compute.name}", (own, part))


def _cap(access: Path) -> int | None:
    number = _fields(_text(access)).get("DeviceFileMinor", "")
    return int(number) if number.isdigit() else None


def _majors(text: str) -> dict[str, int]:
    characters = text.partition("Block devices")[0]
    pairs = (line.split() for line in characters.splitlines())
    return {pair[1]: int(pair[0]) for pair in pairs if len(pair) == 2 and pair[1].startswith("nvidia")}


def _nodes(dev: Path) -> Iterator[str]:
    yield from (entry.name for entry in _entries(dev) if entry.name.startswith("nvidia") and not entry.is_dir())
    yield from (f"nvidia-caps/{entry.name}" for entry in _entries(dev / "nvidia-caps"))


def _compatible(root: Path) -> Iterator[tuple[str, Path]]:
    """(version, folder) of each newer libcuda that NVIDIA's compatibility packages put beside a toolkit."""
    for toolkit in _entries(root / "usr/local"):
        folder = toolkit / "compat"
        if toolkit.name.startswith("cuda"):
            yield from ((version, folder) for version in _library_versions([folder]))


def _library_versions(folders: Iterable[Path]) -> Iterator[str]:
    for folder in folders:
        names = [folder.joinpath("libcuda.so.1").resolve().name, *(entry.name for entry in _entries(folder))]
        found = next((match.group(1) for name in names if (match := _LIBRARY.fullmatch(name))), None)
        if found:
            yield found


def _pci(root: Path, address: str) -> Path | None:
    link = root / "sys/bus/pci/devices" / address
    return ROOT / link.resolve().relative_to(root.resolve()) if link.exists() else None


def _is_nodev(mounts: list[list[str]], node: str) -> bool:
    """Of the file system that `node` is on: what was mounted last at the longest path."""
    around = [mount for mount in reversed(mounts) if mount[4] in ("/", "/dev", node)]
    nearest = max(around, key=lambda mount: len(mount[4]), default=None)
    return nearest is not None and "nodev" in nearest[5].split(",")


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_folder(path: Path) -> bool:
    return bool(_entries(path))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
