"""An island with devices: which wall answers what is asked of a node, told apart by the error.

EPERM is the filter's, EACCES Landlock's, ENOTTY the driver's: it was reached, and knows no such request.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.seal import islands
from tests.seal.nodes import errors_of, fake_gpu, make_node

from allod.core.errors import Invalid
from allod.seal.devices.grants import DeviceGrants
from allod.seal.evidence import describe, proof_of
from allod.seal.launch import SealOptions, start

FRONTEND = (200, 201, 206, 207, 210, 212, 214, 215, 217, 218)
RESOURCE_MANAGER = (0x27, 0x29, 0x2A, 0x2B, 0x34, 0x35, 0x41, 0x4A, 0x4E, 0x4F, 0x54, 0x57, 0x58, 0x5E)
UVM = (*range(23, 32), 33, 34, *range(37, 40), *range(42, 48), 51, 52, 62, 63, 65, 66, 68, 70, 72, 73, 75)
UVM_STARTS, UVM_ENDS = 0x3000_0001, 0x3000_0002
CHECK_VERSION, TCGETS, TIOCSTI = 0xC048_46D2, 0x5401, 0x5412
KVM_CREATE_VM, KVM_RUN, BLKDISCARD = 0xAE01, 0xAE80, 0x1277


def asked(number: int, size: int = 72) -> int:
    """A request of the frontend's: _IOWR('F', number, size bytes)."""
    return 0xC000_4600 | size << 16 | number


def asks(path: Path, *requests: int) -> list[str]:
    opened = f"fd = os.open({str(path)!r}, os.O_RDWR)"
    return [f"import fcntl; {opened}; fcntl.ioctl(fd, {request:#x}, bytearray(512))" for request in requests]


@pytest.fixture
def gpu(tmp_path: Path) -> DeviceGrants:
    return fake_gpu(tmp_path / "dev")


def test_every_request_that_cuda_makes_reaches_the_driver(tmp_path: Path, gpu: DeviceGrants) -> None:
    """Of whatever size, for it grows with the driver's version; and the terminal's question that C libraries ask."""
    frontend = [asked(number, size) for number in (*FRONTEND, *RESOURCE_MANAGER) for size in (8, 72, 512)]
    uvm = [UVM_STARTS, UVM_ENDS, *UVM]
    card = asks(gpu.nodes[0], *frontend) + asks(gpu.nodes[1], *frontend) + asks(gpu.nodes[2], *uvm, TCGETS)
    assert set(errors_of(tmp_path, *card, devices=gpu)) == {"ENOTTY"}


def test_a_node_is_opened_and_mapped_and_not_changed(tmp_path: Path, gpu: DeviceGrants) -> None:
    """Its folder shows no other node; its mode is not the island's to set, though its owner be."""
    node = gpu.nodes[1]
    make_node(tmp_path / "dev" / "nvidia1")
    said = errors_of(
        tmp_path,
        f"import mmap; mmap.mmap(os.open({str(node)!r}, os.O_RDWR), 4096, mmap.MAP_SHARED)",
        f"os.chmod({str(node)!r}, 0o600)",
        f"os.unlink({str(node)!r})",
        f"os.open({str(node.with_name('nvidia1'))!r}, os.O_RDWR)",
        f"os.mknod({str(tmp_path / 'scratch' / 'null')!r}, 0o20666, os.makedev(1, 3))",
        devices=gpu,
    )
    assert said == ["done", "EROFS", "EROFS", "ENOENT", "ENOSYS"]
    assert node.is_char_device()


def test_a_node_below_a_granted_folder_is_granted_itself(tmp_path: Path, gpu: DeviceGrants) -> None:
    """What a folder shows can be no device; the node is one, whatever lies around it."""
    beside = make_node(tmp_path / "dev" / "nvidia1")
    attempts = [f"os.open({str(node)!r}, os.O_RDWR)" for node in (gpu.nodes[1], beside)]
    assert errors_of(tmp_path, *attempts, devices=gpu, read_paths=(tmp_path / "dev",)) == ["done", "EACCES"]


def test_a_node_beside_the_granted_ones_is_landlocks_to_refuse(tmp_path: Path, gpu: DeviceGrants) -> None:
    """One that a granted folder shows may be read and written as a file is; asked it may not be."""
    other = make_node(tmp_path / "output" / "nvidia7")
    said = errors_of(tmp_path, *asks(other, CHECK_VERSION, TCGETS), devices=gpu)
    assert said[0] in ("EACCES", "EPERM")
    assert set(said) <= {"EACCES", "EPERM"}


def test_other_requests_are_the_filters_to_refuse(tmp_path: Path, gpu: DeviceGrants) -> None:
    """Typing into a terminal, virtual machines, a discarded disk, and what is only nearly a GPU's."""
    others = (TIOCSTI, KVM_CREATE_VM, KVM_RUN, BLKDISCARD, 0xC008_AE05, 0x4004_4600, 0x3000_0003)
    assert errors_of(tmp_path, *asks(gpu.nodes[1], *others), devices=gpu) == ["EPERM"] * len(others)


def test_a_request_of_a_gpus_reaches_no_file(tmp_path: Path, gpu: DeviceGrants) -> None:
    """A regular file knows none of it; without devices the filter does not let it come so far."""
    file = tmp_path / "output" / "f"
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    assert errors_of(tmp_path, *asks(file, CHECK_VERSION), devices=gpu) == ["ENOTTY"]
    (tmp_path / "log").unlink()
    assert islands.errors_of(tmp_path, *asks(file, CHECK_VERSION, UVM_STARTS, 23)) == ["EPERM"] * 3


def raw(name: str, num_arguments: int, table: str = "DEVICES_ALLOWED") -> str:
    return f"kernel.syscall(syscalls.numbers(syscalls.{table}, m)[{name!r}], *[0] * {num_arguments}, what='')"


CALLS = {
    "memfd_create": "os.memfd_create('m')",
    "get_mempolicy": raw("get_mempolicy", 5),
    "set_mempolicy": raw("set_mempolicy", 3),
    "munlockall": raw("munlockall", 0),
    "move_pages": raw("move_pages", 6, "REFUSED"),
}
IMPORTS = "from allod.seal.walls import kernel, syscalls; m = os.uname().machine; "


def test_memory_is_placed_only_where_there_are_devices(tmp_path: Path, gpu: DeviceGrants) -> None:
    """NUMA and memory by descriptor: a GPU's driver wants them, an island without has none of it."""
    attempts = [IMPORTS + call for call in CALLS.values()]
    environment = {"PYTHONPATH": islands.SOURCE}
    said = errors_of(tmp_path, *attempts, devices=gpu, environment=environment)
    assert dict(zip(CALLS, said, strict=True)) == dict.fromkeys(CALLS, "done")
    (tmp_path / "log").unlink()
    assert islands.errors_of(tmp_path, *attempts, environment=environment) == [*["ENOSYS"] * 4, "EPERM"]


NAME = "open(f'/proc/self/task/{os.getpid()}/comm', 'w').write('cuda-EvtHandlr')"
OF_THE_MACHINE = ("sys/kernel/core_pattern", "sysrq-trigger", "irq/default_smp_affinity", "driver/nvidia/suspend")


def test_threads_are_named_only_where_that_is_granted(tmp_path: Path, gpu: DeviceGrants) -> None:
    """cuInit of drivers from 570 on ends in 304 without; of the machine nothing can be written either way."""
    assert errors_of(tmp_path, NAME, devices=gpu) == ["EROFS"]
    (tmp_path / "log").unlink()
    machines = (f"os.open('/proc/{path}', os.O_WRONLY)" for path in OF_THE_MACHINE)
    looks = ("open('/proc/1/mem', 'r+b')", "open('/proc/cpuinfo', 'w')", "open('/proc/devices', 'w')")
    said = errors_of(tmp_path, NAME, *machines, *looks, devices=gpu._replace(names_threads=True))
    assert said[0] == "done"
    assert set(said[1:]) <= {"ENOENT", "EROFS", "EACCES"}


def test_the_drivers_files_are_shown_with_devices_alone(tmp_path: Path, gpu: DeviceGrants) -> None:
    """/proc/devices and what is below /proc/driver; to others they are empty."""
    read = "if not open('/proc/devices').read(): raise FileNotFoundError(2, 'empty')"
    assert errors_of(tmp_path, read, devices=gpu) == ["done"]
    (tmp_path / "log").unlink()
    assert islands.errors_of(tmp_path, read) == ["ENOENT"]


def test_evidence_names_the_devices(tmp_path: Path, gpu: DeviceGrants) -> None:
    """What a receipt's proof digests says which; an island without any is described as ever."""
    code = islands.SLEEP
    process = start(islands.options(tmp_path, code, profile="island-gpu", devices=gpu))
    try:
        found = process.evidence()
        assert process.kind == "island-gpu"
        assert [row["name"] for row in describe(found) if not row["ok"]] == []
        assert found["stable"]["seal"]["devices"] == [str(node) for node in gpu.nodes]  # type: ignore[call-overload,index]
        assert proof_of(found) == proof_of(process.at_start)
    finally:
        process.terminate()
    plain = start(islands.options(tmp_path, code))
    try:
        assert "devices" not in plain.evidence()["stable"]["seal"]  # type: ignore[call-overload,operator,index]
    finally:
        plain.terminate()


def test_devices_are_for_an_island_that_has_them(tmp_path: Path, gpu: DeviceGrants) -> None:
    """And only devices are: a file is none, a name without anything is none."""
    command = (sys.executable,)
    file = tmp_path / "file"
    file.touch()
    for profile, nodes, code in (
        ("sealed", gpu.nodes, "seal_profile"),
        ("island", gpu.nodes, "seal_profile"),
        ("island-gpu", (file,), "seal_path"),
        ("island-gpu", (tmp_path / "nothing",), "seal_path"),
    ):
        with pytest.raises(Invalid) as caught:
            start(SealOptions(command=command, profile=profile, devices=DeviceGrants(nodes)))
        assert caught.value.code == code


def test_what_is_compiled_on_the_way_runs_where_that_is_granted(tmp_path: Path, gpu: DeviceGrants) -> None:
    """Triton and torch.compile start what they made in the scratch folder: it can be executed if it is named for it."""
    scratch = tmp_path / "scratch"
    run = ("import shutil; shutil.copy('/usr/bin/true', 'CALL'); subprocess.run(['CALL'], check=True)").replace(
        "CALL", str(scratch / "made")
    )
    tools = (Path("/usr/bin/true"),)
    assert errors_of(tmp_path, run, devices=gpu, execute_paths=tools) == ["EACCES"]
    (tmp_path / "log").unlink()
    assert errors_of(tmp_path, run, devices=gpu, execute_paths=(*tools, scratch)) == ["done"]
