"""What a stage ran on is told without asking anything but the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from allod.app.training.run import _warn_of_unused
from allod.app.training.site_jobs import Machines
from allod.core.errors import Invalid
from allod.fleet.preflight.checks import Severity
from allod.fleet.site import Site
from allod.seal.devices.grants import DeviceGrants
from allod.train.environment import accelerators, code, machine


def test_accelerators_are_those_of_the_driver(tmp_path: Path) -> None:
    """One file a card; no driver, no accelerator."""
    card = tmp_path / "0000:01:00.0"
    card.mkdir()
    (card / "information").write_text("Model: \t\t NVIDIA GH200 120GB\nIRQ:   \t\t 1\n")
    assert accelerators(tmp_path) == ["NVIDIA GH200 120GB"]
    assert accelerators(tmp_path / "none") == []


def test_training_beside_an_accelerator_says_so() -> None:
    """A run here that does not use what is here is told before it begins; a site's own check is the preflight's."""
    here = Machines(site=Site(name="local", source="test", scheduler="local", jurisdiction="GB"))
    there = Machines(site=Site(name="there", source="test", scheduler="slurm", jurisdiction="GB"))
    (found,) = _warn_of_unused(["NVIDIA GH200 120GB"], here)
    assert (found.severity, "on the CPU" in found.reason) == (Severity.NOTED, True)
    assert _warn_of_unused([], here) == _warn_of_unused(["NVIDIA GH200 120GB"], there) == []


def test_a_rank_has_a_gpu_of_its_own() -> None:
    """Two on one card would be refused by NCCL, an hour later."""
    site = Site(name="local", source="test", scheduler="local", jurisdiction="GB")
    two = DeviceGrants(tuple(Path("/dev", name) for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia3")))
    here = Machines(site=site, ranks=2, devices=two)
    assert _warn_of_unused(["NVIDIA H200"], here) == []
    with pytest.raises(Invalid) as caught:
        Machines(site=site, ranks=3, devices=two)
    assert caught.value.code == "ranks_impossible"


def test_a_machine_is_described_but_not_named() -> None:
    """Processor, cores, memory, kernel; the digest of the code; no host name."""
    told = machine()
    assert told["cores"]
    assert str(told["kernel"]).startswith("Linux")
    assert set(code()) == {"version", "sha256"}
    assert not {"name", "host", "node"} & set(told)
