"""The first run on a machine with GPUs, with stand-ins for nodes and library: what is said when CUDA says no."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.seal.nodes import fake_gpu

from allod.core.errors import Invalid
from allod.seal.devices.grants import DeviceGrants
from allod.seal.devices.obstacles import NAMES_REFUSED
from allod.seal.lab.device_trial import TrialReport, TrialRow, try_devices

NEW_DRIVER, OLD_DRIVER = "570.86.15", "565.57.01"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda.so.1 made of libcuda.c."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("library")
    source = Path(__file__).with_name("libcuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    return folder


@pytest.fixture
def grants(tmp_path: Path, library: Path) -> DeviceGrants:
    """All that a driver from 570 on needs."""
    pci = tmp_path / "pci"
    (pci / "0000:1b:00.0").mkdir(parents=True)
    named = {"FAKE_DEV": str(tmp_path / "dev"), "FAKE_PCI": str(pci), "FAKE_NAMES": "1"}
    environment = {**named, "LD_LIBRARY_PATH": str(library)}
    gpu = fake_gpu(tmp_path / "dev")
    return DeviceGrants(gpu.nodes, read_paths=(pci, library), environment=environment, names_threads=True)


def refused(report: TrialReport) -> list[str]:
    return [row.grant for row in report.rows if not row.is_reached]


def test_a_whole_grant_starts_cuda(grants: DeviceGrants) -> None:
    """Every row is reached, under a seal that is whole, and the library sees its device."""
    report = try_devices(grants, driver=NEW_DRIVER)
    assert refused(report) == []
    assert report.holds
    assert report.seal == "island-gpu"
    assert report.rows[-1].said == "stand-in 0"
    asked = [row for row in report.rows if row.tried.startswith("ioctl")]
    assert [row.error for row in asked] == ["ENOTTY"] * 3


def test_a_name_that_is_refused_is_told_from_other_refusals(grants: DeviceGrants) -> None:
    """304 and nothing more is what the library says; which of the rows it was, the report."""
    report = try_devices(grants._replace(names_threads=False), driver=NEW_DRIVER)
    assert [obstacle.name for obstacle in report.obstacles] == [NAMES_REFUSED]
    assert not report.holds
    assert report.rows[-1].error == "304"


def test_an_older_driver_starts_without_names(grants: DeviceGrants) -> None:
    """It names no threads, and so is not granted to."""
    environment = {name: value for name, value in grants.environment.items() if name != "FAKE_NAMES"}
    assert try_devices(grants._replace(names_threads=False, environment=environment), driver=OLD_DRIVER).holds


def test_without_the_pci_devices_it_is_the_operating_system(grants: DeviceGrants) -> None:
    """What is not granted is not there."""
    report = try_devices(grants._replace(read_paths=grants.read_paths[1:]), driver=NEW_DRIVER)
    assert [obstacle.name for obstacle in report.obstacles] == ["operating-system"]
    assert "304" in report.obstacles[0].said


def test_a_node_too_few_is_no_device(grants: DeviceGrants) -> None:
    """The card's own was not granted."""
    report = try_devices(grants._replace(nodes=(grants.nodes[0], grants.nodes[2])), driver=NEW_DRIVER)
    assert [obstacle.name for obstacle in report.obstacles] == ["no-device"]
    assert "100" in report.obstacles[0].said


def test_a_node_that_is_not_there_is_refused_before(grants: DeviceGrants, tmp_path: Path) -> None:
    """As without nvidia-uvm; nothing is started."""
    with pytest.raises(Invalid) as caught:
        try_devices(grants._replace(nodes=(*grants.nodes, tmp_path / "dev/nvidia-caps")), driver=NEW_DRIVER)
    assert caught.value.code == "seal_path"


def test_without_a_library_the_rows_are_all_there_is(grants: DeviceGrants) -> None:
    """And that it could not be loaded, in its own words."""
    report = try_devices(grants._replace(environment={}), driver=NEW_DRIVER)
    assert [obstacle.name for obstacle in report.obstacles] == ["no-cuda"]
    assert refused(report) == ["cuInit"]


def test_a_row_that_is_refused_is_no_success(grants: DeviceGrants) -> None:
    """Even where CUDA did start: somebody else would need it."""
    report = try_devices(grants, driver=NEW_DRIVER)
    row = TrialRow(grant="memory", tried="mbind", error="ENOSYS", said="", is_reached=False)
    assert not replace(report, rows=(*report.rows, row)).holds
    assert not replace(report, rows=()).holds
