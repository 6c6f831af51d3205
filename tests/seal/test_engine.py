"""The real engine under the real seal."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.seal.nodes import fake_gpu

from allod.seal.devices.grants import NO_DEVICES
from allod.seal.evidence import describe
from allod.seal.launch import SealedProcess, SealOptions, python_read_paths, start

pytestmark = pytest.mark.slow

ENGINE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames = sys.argv[1], [sys.argv[2]]
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 4, 4096, 1
server = xllamacpp.Server(params)
while True:
    time.sleep(3600)
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


def ask(path: Path, question: str, *, max_tokens: int = 16) -> str:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": max_tokens, "temperature": 0}
    connection = UnixConnection(path)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


def wait_until_ready(process: SealedProcess, path: Path, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            ask(path, "Hello", max_tokens=1)
        except (OSError, AssertionError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("profile", ["sealed", "island-gpu"])
def test_the_real_engine_answers_under_the_seal(tmp_path: Path, weights: Path, profile: str) -> None:
    """llama.cpp's own server: threads, mmap, timers, 24 answers four at a time; and it still reached nothing."""
    devices = fake_gpu(tmp_path / "dev") if profile == "island-gpu" else NO_DEVICES
    model = str(weights)
    sockets, log = tmp_path / "sockets", tmp_path / "log"
    sockets.mkdir(mode=0o700)
    path = sockets / "engine.sock"  # llama.cpp knows a Unix socket by its `.sock`
    process = start(
        SealOptions(
            command=(sys.executable, "-c", ENGINE, model, str(path)),
            profile=profile,
            devices=devices,
            socket_dir=sockets,
            read_paths=(*python_read_paths(), Path(model)),
            environment={"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
            log_path=log,
        )
    )
    try:
        wait_until_ready(process, path, log)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda n: ask(path, f"Count to {n}."), range(24)))
        assert all(answers)
        found = process.evidence()
        assert [row["name"] for row in describe(found) if not row["ok"]] == []
        now = found["now"]
        assert isinstance(now, dict)
        assert str(path) in now["unix_sockets"]
    finally:
        process.terminate()
