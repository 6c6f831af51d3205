"""vLLM in the island: what it asks of the kernel before it answers, in a second; and vLLM itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.seal.islands import options

from allod.seal.launch import start

pytest.importorskip("psutil", reason="psutil comes with the train extra")
pytest.importorskip("zmq", reason="pyzmq comes with the dev group")

STAND_IN = """
import tempfile
from multiprocessing.shared_memory import SharedMemory
import psutil, zmq

context = zmq.Context()
receiver, sender = context.socket(zmq.PULL), context.socket(zmq.PUSH)
for address in ("ipc://" + tempfile.gettempdir() + "/queue", "tcp://127.0.0.1:5555"):
    receiver.bind(address), sender.connect(address), sender.send(b"over " + address[:3].encode())
    print(receiver.recv().decode())
ring = SharedMemory(create=True, size=4096)
ring.buf[:4] = b"ring"
again = SharedMemory(ring.name)
print(bytes(again.buf[:4]).decode(), [child.name() != "" for child in psutil.Process().children()])
ring.unlink()
memory, own = psutil.virtual_memory(), psutil.Process().memory_info()
print(memory.total > memory.available > own.rss > 0, psutil.cpu_count() == len(psutil.cpu_times(percpu=True)))
allowed = [line for line in open("/proc/self/status") if line.startswith("Mems_allowed_list")]
print(len(allowed), any("libzmq" in line for line in open("/proc/self/maps")))
"""


def test_queues_shared_memory_and_the_machines_memory(tmp_path: Path) -> None:
    """libzmq aborts where it may not set how its threads are scheduled; psutil fails without a /proc of its own."""
    asked = options(tmp_path, STAND_IN, environment={"TMPDIR": str(tmp_path / "scratch")})
    process = start(replace(asked, command=(sys.executable, "-P", *asked.command[2:])))
    status = process.wait(30)
    process.terminate()
    said = (tmp_path / "log").read_text()
    assert status == 0, said
    assert said.splitlines() == ["over ipc", "over tcp", "ring [True]", "True True", "1 True"]
