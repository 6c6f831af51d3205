"""Every grant tried, inside: `python -m allod.seal.devices.attempts GRANTS`, one JSON object a line to standard output.

Rows of {grant, tried, error, said}: `error` is empty or an error's name, `said` what came back. Then CUDA is started by
the driver's own library, in this process; its number is the proof, for nvidia-smi passes where CUDA does not. GRANTS is
a JSON object: `nodes`, `files`, `folders`, `names_threads`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from allod.seal.walls import syscalls
from allod.seal.walls.kernel import syscall

CUDA_STARTS, NAME_WRITTEN = "cuInit", "names of threads"
_CHECK_VERSION = 0xC048_46D2  # NV_ESC_CHECK_VERSION_STR: struct { u32 command, reply; char version[64] }
_QUERY = ord("2")  # tell the version, compare nothing
_VERSION = struct.Struct("II64s")
_UVM_STARTS = 0x3000_0001  # struct { u64 flags; u32 status, padding }
_UVM = struct.Struct("QII")
_PAGE_BYTES = 4096
_LIBRARY = "libcuda.so.1"

Attempt = tuple[str, str, Callable[[], str]]


def attempts_of(grants: dict[str, Any]) -> Iterator[Attempt]:
    """(grant, what is tried, the attempt), which returns what was said, or raises OSError."""
    nodes = [Path(path) for path in grants["nodes"]]
    yield from ((str(node), "open to read and write", partial(_open, node)) for node in nodes)
    for node in nodes:
        if node.name == "nvidia-uvm":
            yield str(node), "ioctl UVM_INITIALIZE", partial(_start_uvm, node)
        elif node.parent.name != "nvidia-caps":
            yield str(node), "ioctl CHECK_VERSION_STR", partial(_driver_version, node)
    yield from ((path, "read", partial(_first_line, Path(path))) for path in grants["files"])
    if grants["names_threads"]:
        yield NAME_WRITTEN, "write /proc/self/task/*/comm", _name_thread
    yield from ((path, "list", partial(_list, Path(path))) for path in grants["folders"])
    yield "shared memory", "write /dev/shm", _share
    yield "memory by descriptor", "memfd_create", _make_memory
    yield "memory by node", "get_mempolicy", partial(_ask_policy, "get_mempolicy", 5)
    yield "memory by node", "set_mempolicy", partial(_ask_policy, "set_mempolicy", 3)


def start_cuda() -> dict[str, Any]:
    """What cuInit answers, and the devices that it then sees. Raises OSError where there is no library."""
    library = ctypes.CDLL(_LIBRARY)
    code = int(library.cuInit(0))
    names: list[str] = []
    number, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    if code == 0 and library.cuDeviceGetCount(ctypes.byref(number)) == 0:
        for device in range(number.value):
            library.cuDeviceGetName(name, len(name), device)
            names.append(name.value.decode(errors="replace"))
    return {"code": code, "devices": names}


def _open(node: Path) -> str:
    os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    return "opened"


def _driver_version(node: Path) -> str:
    answer = _ask(node, _CHECK_VERSION, _VERSION.pack(_QUERY, 0, b""))
    return _VERSION.unpack(answer)[2].rstrip(b"\0").decode(errors="replace") or "nothing"


def _start_uvm(node: Path) -> str:
    return f"status {_UVM.unpack(_ask(node, _UVM_STARTS, _UVM.pack(0, 0, 0)))[1]}"


def _ask(node: Path, request: int, message: bytes) -> bytes:
    descriptor = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, request, message)
    finally:
        os.close(descriptor)


def _first_line(path: Path) -> str:
    return path.read_text(errors="replace").partition("\n")[0] or "empty"


def _list(folder: Path) -> str:
    return f"{len(list(folder.iterdir()))} names"


def _name_thread() -> str:
    own = Path("/proc/self/task", str(os.getpid()), "comm")
    own.write_text("allod-names")
    return own.read_text().strip()


def _share() -> str:
    path = Path("/dev/shm/allod-attempt")  # noqa: S108 - the island's own
    path.write_bytes(bytes(_PAGE_BYTES))
    path.unlink()
    return "written"


def _make_memory() -> str:
    descriptor = os.memfd_create("allod-attempt")
    try:
        os.ftruncate(descriptor, _PAGE_BYTES)
        mmap.mmap(descriptor, _PAGE_BYTES).close()
    finally:
        os.close(descriptor)
    return "mapped"


def _ask_policy(name: str, num_arguments: int) -> str:
    number = syscalls.numbers(syscalls.DEVICES_ALLOWED, os.uname().machine)[name]
    syscall(number, *[0] * num_arguments, what=name)
    return "answered"


def _try(attempt: Callable[[], str]) -> dict[str, str]:
    try:
        return {"error": "", "said": attempt()}
    except OSError as error:
        return {"error": errno.errorcode.get(error.errno or 0, str(error.errno)), "said": str(error)}


def main(grants: str) -> None:
    """Try all of `grants`, then start CUDA."""
    for grant, tried, attempt in attempts_of(json.loads(grants)):
        _tell({"grant": grant, "tried": tried, **_try(attempt)})
    try:
        _tell({"grant": CUDA_STARTS, "tried": f"cuInit of {_LIBRARY}", **start_cuda()})
    except OSError as error:
        _tell({"grant": CUDA_STARTS, "tried": f"load {_LIBRARY}", "code": None, "said": str(error)})


def _tell(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()  # the driver may end us


if __name__ == "__main__":
    main(sys.argv[1])
