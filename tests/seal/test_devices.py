"""Which GPUs there are, what they come to under the seal, and why one could not be used: read off trees of files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.seal import machines

from allod.core.errors import Invalid, Unavailable
from allod.seal.devices import choosing
from allod.seal.devices.grants import ALL, NO_DEVICES, grants_of, newest_cuda
from allod.seal.devices.obstacles import NAMES_REFUSED, obstacles_of, words_for
from allod.seal.devices.survey import survey_devices


def names(paths: tuple[Path, ...]) -> set[str]:
    return {str(path.relative_to("/dev")) for path in paths}


def obstacle_names(root: Path, cuda: int = 0) -> list[str]:
    return [obstacle.name for obstacle in obstacles_of(survey_devices(root), cuda=cuda)]


def test_a_machine_of_eight_is_read(tmp_path: Path) -> None:
    """Every GPU with its node's number and PCI folder, the driver and its libraries; nothing stands in the way."""
    found = survey_devices(machines.h200_times_8(tmp_path))
    assert [(gpu.minor, gpu.model) for gpu in found.gpus] == [(number, "NVIDIA H200") for number in range(8)]
    assert (found.driver, found.library, found.majors["nvidia-uvm"]) == (machines.DRIVER, machines.DRIVER, 508)
    assert found.pci["0000:2b:00.0"] == Path("/sys/devices/pci0000:01/0000:2b:00.0")
    assert obstacle_names(tmp_path) == []


def test_a_node_of_grace_hoppers_is_read(tmp_path: Path) -> None:
    """aarch64, whose libraries lie elsewhere."""
    found = survey_devices(machines.gh200_times_4(tmp_path))
    assert len(found.gpus) == 4
    assert (found.driver, found.library) == ("565.57.01", "565.57.01")


def test_the_open_modules_version_is_read(tmp_path: Path) -> None:
    """They word the line otherwise; and /sys may be missing."""
    machines.machine(tmp_path)
    (tmp_path / "sys/module/nvidia/version").unlink()
    said = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\nGCC version: 12.3.0\n"
    machines.write(tmp_path / "proc/driver/nvidia/version", said)
    assert survey_devices(tmp_path).driver == "580.65.06"


def test_those_asked_for_are_granted_and_no_others(tmp_path: Path) -> None:
    """Two of eight: their nodes and folders; no displays, no tools, no root daemon's socket."""
    grants = grants_of(survey_devices(machines.h200_times_8(tmp_path)), ("2", "5"))
    assert names(grants.nodes) == {"nvidiactl", "nvidia-uvm", "nvidia2", "nvidia5"}
    folders = {str(path) for path in grants.read_paths if "pci0000" in str(path)}
    assert folders == {"/sys/devices/pci0000:02/0000:3b:00.0", "/sys/devices/pci0000:05/0000:6b:00.0"}
    assert grants.environment["NCCL_SOCKET_IFNAME"] == "lo"
    assert len(grants_of(survey_devices(tmp_path), (ALL,)).nodes) == 10


def test_an_instance_comes_with_its_two_keys(tmp_path: Path) -> None:
    """MIG: the GPU's node and the capabilities of this instance and its part, and of none of the other six."""
    found = survey_devices(machines.mig_1g(tmp_path))
    assert found.gpus[0].instances[0].name == "gi10/ci0"
    grants = grants_of(found, ("0/gi9/ci0",))
    caps = {"nvidia-caps/nvidia-cap84", "nvidia-caps/nvidia-cap85"}
    assert names(grants.nodes) == {"nvidiactl", "nvidia-uvm", "nvidia0", *caps}


@pytest.mark.parametrize("wanted", ["8", "", "0/gi1/ci0", "../tty0", "0 ", "-1"])
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, wanted: str) -> None:
    """With what there is; a word never becomes part of a path."""
    with pytest.raises(Invalid) as caught:
        grants_of(survey_devices(machines.h200_times_8(tmp_path)), (wanted,))
    assert caught.value.code == "seal_device"


def test_names_of_threads_are_granted_from_the_driver_on_that_needs_it(tmp_path: Path) -> None:
    """Others outside can read them, so an older driver goes without."""
    assert grants_of(survey_devices(machines.h200_times_8(tmp_path / "new")), (ALL,)).names_threads
    assert not grants_of(survey_devices(machines.gh200_times_4(tmp_path / "old")), (ALL,)).names_threads


def test_a_newer_library_is_used_where_the_driver_is_too_old(tmp_path: Path) -> None:
    """CUDA 13 over driver 565: the compatibility folder is read, and first on the path; for CUDA 12 it is not."""
    folder = machines.add_compatibility(machines.gh200_times_4(tmp_path), "580.65.06")
    found = survey_devices(tmp_path)
    grants = grants_of(found, (ALL,), cuda=13)
    assert folder in grants.read_paths
    assert grants.environment["LD_LIBRARY_PATH"] == str(folder)
    assert obstacle_names(tmp_path, cuda=13) == []
    assert "LD_LIBRARY_PATH" not in grants_of(found, (ALL,), cuda=12).environment


@pytest.mark.parametrize(
    ("driver", "cuda"), [("580.65.06", 13), ("565.57.01", 12), ("470.1", 11), ("390.1", 0), ("", 0)]
)
def test_a_driver_tells_which_cuda_it_runs(driver: str, cuda: int) -> None:
    """By its major version."""
    assert newest_cuda(driver) == cuda


def without(*paths: str) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        for path in paths:
            shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()

    return break_it


def with_mount(point: str, options: str = "rw") -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        with (root / "proc/self/mountinfo").open("a") as file:
            file.write(machines.mount_line(point, options=options))

    return break_it


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no-nodes": (without("dev/nvidiactl", "dev/nvidia0"), "/dev/nvidiactl, /dev/nvidia0 are not there"),
    "no-uvm": (without("dev/nvidia-uvm"), "/dev/nvidia-uvm is not there"),
    "nodev": (with_mount("/dev", "rw,nodev"), "mounted nodev"),
    "no-sys": (without("sys/bus"), "/sys/bus/pci/devices is not there"),
    "masked-proc": (with_mount("/proc/acpi"), "masked in part (/proc/acpi)"),
    "no-library": (without("usr"), "there is no libcuda.so.1"),
    "no-gpu": (without("proc/driver/nvidia/gpus"), "shows no GPU"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_stands_in_the_way_is_said(tmp_path: Path, name: str) -> None:
    """One thing wrong, one sentence about it, and what to do."""
    break_it, said = BROKEN[name]
    break_it(machines.machine(tmp_path))
    (obstacle,) = obstacles_of(survey_devices(tmp_path))
    assert obstacle.name == name
    assert said in obstacle.said
    assert obstacle.hint


def test_a_node_that_is_bound_alone_may_be_nodev(tmp_path: Path) -> None:
    """As containers do it; and the other way round, /dev may be nodev and the node's own mount not."""
    with_mount("/dev/nvidiactl", "rw,nodev")(machines.machine(tmp_path / "a"))
    assert obstacle_names(tmp_path / "a") == ["nodev"]
    machines.machine(tmp_path / "b")
    with_mount("/dev", "rw,nodev")(tmp_path / "b")
    with_mount("/dev/nvidiactl")(tmp_path / "b")
    assert obstacle_names(tmp_path / "b") == []


def test_whoever_asks_hears_the_first_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started; who asks for nothing is not told of anything."""
    machines.wrong_library(tmp_path / "wrong")
    machines.h200_times_8(tmp_path / "well")
    monkeypatch.setattr(choosing, "survey_devices", lambda: survey_devices(tmp_path / "wrong"))
    assert choosing.choose_devices(()) == NO_DEVICES
    with pytest.raises(Unavailable) as caught:
        choosing.choose_devices((ALL,))
    assert (caught.value.code, "575.51.03" in caught.value.message) == ("seal_device", True)
    monkeypatch.setattr(choosing, "survey_devices", lambda: survey_devices(tmp_path / "well"))
    assert choosing.choose_devices(("0", "7")).num_gpus == 2


def test_no_driver_is_said_alone(tmp_path: Path) -> None:
    """The rest follows from it."""
    (obstacle,) = obstacles_of(survey_devices(machines.no_driver(tmp_path)))
    assert obstacle.name == "no-driver"


def test_a_driver_and_a_library_that_differ_are_both_named(tmp_path: Path) -> None:
    """After an update without a restart."""
    (obstacle,) = obstacles_of(survey_devices(machines.wrong_library(tmp_path)))
    assert obstacle.name == "versions-differ"
    assert "575.51.03" in obstacle.said
    assert machines.DRIVER in obstacle.said


def test_cuda_13_needs_a_new_driver_or_its_compatibility_libraries(tmp_path: Path) -> None:
    """The wheels that PyPI gives today are of CUDA 13."""
    machines.gh200_times_4(tmp_path)
    assert obstacle_names(tmp_path, cuda=13) == ["cuda-too-new"]
    machines.add_compatibility(tmp_path, "575.51.03")
    assert obstacle_names(tmp_path, cuda=13) == ["cuda-too-new"]
    assert obstacle_names(tmp_path, cuda=12) == []


def test_a_refused_name_is_the_meaning_of_304() -> None:
    """The driver's number names no reason; what was refused beside it does."""
    refused = words_for(304, driver="570.86.15", is_name_refused=True)
    assert refused is not None
    assert refused.name == NAMES_REFUSED
    assert "comm" in refused.said
    assert words_for(0, driver="570.86.15") is None
    assert [found.name for code in (100, 304, 999) if (found := words_for(code, driver=""))] == [
        "no-device",
        "operating-system",
        "driver",
    ]
