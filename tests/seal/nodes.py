"""Stand-ins for a GPU's nodes: devices of the kernel's own that any ioctl reaches, and that know none of NVIDIA's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.seal import islands

from allod.seal.devices.grants import DeviceGrants

_MEMORY, _ZERO = 1, 5  # /dev/zero may be mapped, as a GPU's node


def make_node(path: Path, minor: int = _ZERO) -> Path:
    """A character device at `path`; skips where none can be made or opened (root alone may, and not everywhere)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(_MEMORY, minor))
        path.chmod(0o666)
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        pytest.skip(f"no device node can be made here: {error}")
    return path


def fake_gpu(dev: Path, *, number: int = 0) -> DeviceGrants:
    """The three nodes of one GPU."""
    names = ("nvidiactl", f"nvidia{number}", "nvidia-uvm")
    return DeviceGrants(tuple(make_node(dev / name) for name in names))


def errors_of(tmp_path: Path, *attempts: str, **more: object) -> list[str]:
    """As `islands.errors_of`, in an island with devices."""
    return islands.errors_of(tmp_path, *attempts, profile="island-gpu", **more)
