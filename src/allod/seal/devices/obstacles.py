"""Why a GPU of this machine could not be used under the seal: one sentence each, and what to do about it.

A driver that is refused something answers with a number (304, 100) that names no reason, so what can be known is looked
at before it is asked; `words_for` tells what its number most likely means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from allod.seal.devices.grants import major_of, newest_cuda
from allod.seal.devices.survey import Survey

NAMES_REFUSED = "names-refused"


class Obstacle(NamedTuple):
    """`name` is stable, `said` one sentence, `hint` what to do."""

    name: str
    said: str
    hint: str


def obstacles_of(survey: Survey, *, cuda: int = 0) -> tuple[Obstacle, ...]:
    """All that stands in the way of a program built for `cuda` (its major version; 0: not known), the first first."""
    if not survey.driver or not survey.gpus:
        return (_no_driver(survey),)
    return tuple(found for found in (*_nodes(survey), *_machine(survey), *_versions(survey, cuda)) if found)


def _no_driver(survey: Survey) -> Obstacle:
    if survey.driver:
        said = f"The NVIDIA driver {survey.driver} is loaded and shows no GPU in /proc/driver/nvidia/gpus."
        return Obstacle("no-gpu", said, "ask the scheduler for a GPU, or look for the card's error in dmesg (Xid)")
    said = "No NVIDIA driver is loaded here: there is neither /proc/driver/nvidia nor /sys/module/nvidia."
    return Obstacle("no-driver", said, "run on a node with a GPU, or load the driver (modprobe nvidia)")


def _nodes(survey: Survey) -> Iterator[Obstacle]:
    wanted = ["nvidiactl", *(f"nvidia{gpu.minor}" for gpu in survey.gpus)]
    missing = [f"/dev/{name}" for name in wanted if name not in survey.nodes]
    if missing:
        said = f"The driver is loaded, and {', '.join(missing)} {'are' if missing[1:] else 'is'} not there."
        yield Obstacle(
            "no-nodes", said, "make the nodes (nvidia-modprobe -c 0), or give them to the container (--gpus)"
        )
    if "nvidia-uvm" not in survey.nodes:
        said = "/dev/nvidia-uvm is not there: CUDA cannot start without the driver's memory manager."
        loaded = "nvidia-uvm" in survey.majors
        hint = "make the node (nvidia-modprobe -u -c 0)" if loaded else "load it (modprobe nvidia-uvm, as root)"
        yield Obstacle("no-uvm", said, hint)
    if survey.is_nodev:
        said = "/dev is mounted nodev: its nodes are there, and opening one is refused (CUDA says 100, no device)."
        yield Obstacle("nodev", said, "mount it without nodev, or bind the nodes from a /dev that is")


def _machine(survey: Survey) -> Iterator[Obstacle]:
    if not survey.has_pci:
        said = "/sys/bus/pci/devices is not there or empty: cuInit ends in 304 without it."
        yield Obstacle("no-sys", said, "mount sysfs at /sys, read-only at least")
    if survey.masked:
        more = f" and {len(survey.masked) - 1} more" if survey.masked[1:] else ""
        said = (
            f"This /proc is masked in part ({survey.masked[0]}{more}): the kernel gives no island a /proc of its own, "
            "without which cuInit ends in 304."
        )
        yield Obstacle("masked-proc", said, "run outside the container, or in one with --security-opt unmask=ALL")


def _versions(survey: Survey, cuda: int) -> Iterator[Obstacle]:
    if not survey.library:
        said = f"The driver {survey.driver} is loaded, and there is no libcuda.so.1 in the system's folders."
        yield Obstacle("no-library", said, "install the driver's libraries of the same version (libnvidia-compute)")
    elif survey.library != survey.driver:
        said = f"libcuda is of driver {survey.library}, and the kernel runs driver {survey.driver}: they must be one."
        hint = "restart after a driver's update, or give the container the host's libraries"
        yield Obstacle("versions-differ", said, hint)
    newest = newest_cuda(survey.driver)
    if cuda > newest and not any(newest_cuda(version) >= cuda for version, _ in survey.compatible):
        said = (
            f"The program was built for CUDA {cuda}, driver {survey.driver} runs CUDA {newest} at most, and no "
            f"compatibility libraries are in /usr/local/cuda*/compat."
        )
        yield Obstacle("cuda-too-new", said, f"install cuda-compat-{cuda}, or a program built for CUDA {newest}")


def words_for(code: int, *, driver: str, is_name_refused: bool = False) -> Obstacle | None:
    """What a number of cuInit most likely means under the seal; None for success."""
    if code == 0:
        return None
    if code == 304 and is_name_refused:
        since = f"driver {driver}" if major_of(driver) else "this driver"
        said = f"cuInit ended in 304: {since} names its threads in /proc/self/task/*/comm, and the write was refused."
        return Obstacle(NAMES_REFUSED, said, "grant it (names_threads), as is done by itself from driver 570 on")
    meanings = {
        100: ("no-device", "the driver sees no device: a node was not granted, or is on a nodev mount"),
        304: ("operating-system", "the operating system refused something that cuInit needs"),
        802: ("not-yet", "the system is not initialised: on NVSwitch machines the fabric manager does not run"),
        803: ("versions-differ", "libcuda and the kernel's driver are not of one version"),
    }
    name, meaning = meanings.get(code, ("driver", "the driver gives no more than the number"))
    return Obstacle(name, f"cuInit ended in {code}: {meaning}.", "see the rows above, and dmesg")
