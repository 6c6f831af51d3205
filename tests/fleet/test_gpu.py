"""Torch under the seal of a GPU's island, on a processor: the same programs, without the device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from allod.fleet.preflight.gpu import cuda_of_torch, run_sealed
from allod.fleet.preflight.torch_gpu import multiply
from allod.seal.devices.grants import NO_DEVICES


def test_a_product_is_exact_on_a_processor() -> None:
    """The check itself passes where arithmetic is right."""
    assert "on this processor" in multiply("cpu")


@pytest.mark.parametrize(
    ("line", "major"),
    [("cuda: Optional[str] = '13.0'", 13), ("cuda: Optional[str] = None", 0), ("cuda = '12.8'", 12)],
)
def test_torch_says_for_which_cuda_it_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, major: int
) -> None:
    """Read from its own file: importing it would take seconds."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch/version.py").write_text(f"debug = False\n{line}\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert cuda_of_torch() == major


@pytest.mark.slow
def test_torch_runs_in_the_island_of_a_gpu() -> None:
    """A product, and two ranks that meet over its loopback; without a GPU torch's own words are the answer."""
    assert run_sealed(NO_DEVICES, "allod.fleet.preflight.torch_gpu", "cpu")["error"] == ""
    assert run_sealed(NO_DEVICES, "allod.fleet.preflight.torch_gpu", "cuda")["error"] != ""
    two = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "allod.fleet.preflight.all_reduce")
    assert run_sealed(NO_DEVICES, *two)["all_reduce_mb_s"] > 0
