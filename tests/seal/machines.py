"""Machines with GPUs, as trees of files: what driver and kernel would show of them in /proc, /sys and /dev."""

from __future__ import annotations

from pathlib import Path

DRIVER = "570.86.15"
_OPTIONS = "rw,nosuid,relatime"


def machine(
    root: Path,
    *,
    model: str = "NVIDIA H200",
    gpus: int = 1,
    driver: str = DRIVER,
    library: str | None = None,
    architecture: str = "x86_64",
) -> Path:
    """A machine with `gpus` of `model`, whose libcuda is of `library` (the driver's own version if not said)."""
    write(
        root / "proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX {architecture} Kernel Module  {driver}  Fri\n"
    )
    write(root / "proc/driver/nvidia/params", "ModifyDeviceFiles: 1\nDeviceFileUID: 0\n")
    devices = "".join(f"{major} {name}\n" for name, major in MAJORS.items())
    write(root / "proc/devices", f"Character devices:\n  1 mem\n{devices}\nBlock devices:\n  8 sd\n")
    write(root / "proc/self/mountinfo", mount_line("/") + mount_line("/dev") + mount_line("/proc"))
    write(root / "sys/module/nvidia/version", f"{driver}\n")
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"):
        write(root / "dev" / name, "")
    for number in range(gpus):
        add_gpu(root, number, model)
    folder = root / f"usr/lib/{architecture}-linux-gnu"
    write(folder / f"libcuda.so.{library or driver}", "")
    (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{library or driver}")
    return root


MAJORS = {"nvidia": 195, "nvidiactl": 195, "nvidia-caps": 237, "nvidia-uvm": 508}


def h200_times_8(root: Path) -> Path:
    return machine(root, gpus=8)


def gh200_times_4(root: Path) -> Path:
    """A node of Isambard-AI: another architecture, and a driver from before CUDA 13."""
    return machine(root, model="NVIDIA GH200 120GB", gpus=4, driver="565.57.01", architecture="aarch64")


def mig_1g(root: Path) -> Path:
    """One H200 of which seven instances of 1g were made, each with a compute instance."""
    machine(root)
    for instance in range(7, 14):
        add_instance(root, 0, f"gi{instance}", cap=3 + 9 * instance)
    return root


def no_driver(root: Path) -> Path:
    """An ordinary machine."""
    write(root / "proc/devices", "Character devices:\n  1 mem\n\nBlock devices:\n  8 sd\n")
    write(root / "proc/self/mountinfo", mount_line("/") + mount_line("/proc"))
    (root / "sys/bus/pci/devices").mkdir(parents=True)
    return root


def wrong_library(root: Path) -> Path:
    """A driver that was updated under a running kernel."""
    return machine(root, library="575.51.03")


def add_gpu(root: Path, number: int, model: str) -> None:
    address = f"0000:{0x1B + 0x10 * number:02x}:00.0"
    fields = {
        "Model": f"\t\t {model}",
        "IRQ": "  \t\t 123",
        "GPU UUID": f"\t GPU-0000000{number}-0000-0000-0000-000000000000",
        "Bus Location": f"\t {address}",
        "Device Minor": f"\t {number}",
        "GPU Excluded": "\t No",
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    write(root / "proc/driver/nvidia/gpus" / address / "information", text)
    folder = root / "sys/devices" / f"pci0000:{number:02x}" / address
    write(folder / "vendor", "0x10de\n")
    link = root / "sys/bus/pci/devices" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(Path("../../../devices", folder.relative_to(root / "sys/devices")))
    write(root / "dev" / f"nvidia{number}", "")


def add_instance(root: Path, gpu: int, name: str, *, cap: int) -> None:
    folder = root / f"proc/driver/nvidia/capabilities/gpu{gpu}/mig" / name
    for access, number in ((folder / "access", cap), (folder / "ci0/access", cap + 1)):
        write(access, f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
        write(root / f"dev/nvidia-caps/nvidia-cap{number}", "")


def add_compatibility(root: Path, version: str) -> Path:
    folder = root / "usr/local/cuda-13.0/compat"
    write(folder / f"libcuda.so.{version}", "")
    (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{version}")
    return folder


def mount_line(point: str, *, options: str = _OPTIONS) -> str:
    return f"22 1 0:5 / {point} {options} shared:1 - devtmpfs devtmpfs rw\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
