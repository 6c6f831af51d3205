"""Clients that ask and do not read, or read a little now and then: they keep no slot and no limit from others."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import Gateway
from tests.scenarios.test_metering import agree, receipts_of

Start = Callable[..., AbstractContextManager[Gateway]]
NUM_WORDS = 3000  # with their logprobs a stream of 15 MB, more than the kernel keeps between two processes
ASKED = {
    "model": "echo",
    "stream": True,
    "logprobs": True,
    "messages": [{"role": "user", "content": "word" * 100 + (" " + "word" * 100) * (NUM_WORDS - 1)}],
}


@contextmanager
def asking(gateway: Gateway) -> Iterator[socket.socket]:
    """A client that has asked for a long stream and read nothing of it."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    body = json.dumps(ASKED).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {gateway.key}\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect((host, int(port)))
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        yield client


def noted(gateway: Gateway) -> list[dict[str, Any]]:
    """The receipts, once there is one."""
    deadline = time.monotonic() + 20
    while not (receipts := receipts_of(gateway)):
        assert time.monotonic() < deadline, "the work for a client that does not read has no end"
        time.sleep(0.05)
    return receipts


def is_free_again(gateway: Gateway) -> None:
    """The work was noted as far as it came, what is charged is what is noted, and nothing is held any more."""
    (receipt,) = noted(gateway)
    assert receipt["answer"]["finish"] == "cancelled"
    assert 0 < receipt["answer"]["tokens"] < NUM_WORDS
    agree(gateway, at_least=1)
    admin = {"authorization": f"Bearer {(gateway.home / 'admin.key').read_text().strip()}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{gateway.url}/v1/governance/shares", headers=admin), timeout=10
    ) as response:
        (share,) = json.loads(response.read())["data"]
    assert (share["num_running"], share["num_waiting"]) == (0, 0)
    (budget,) = [limit for limit in share["limits"] if limit["unit"] == "tokens"]
    assert budget["used"] == receipt["request"]["tokens"] + receipt["answer"]["tokens"]
    hello = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "hello"}]}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{gateway.url}/v1/chat/completions", hello, gateway.headers), timeout=10
    ) as response:
        assert response.status == 200  # one at a time is allowed, and none is under way


@contextmanager
def started(start_gateway: Start, tmp_path: Path, deadlines: str) -> Iterator[Gateway]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "allod.toml").write_text(f"[deadlines]\n{deadlines}")
    with start_gateway("echo") as gateway:
        done = gateway.allod("tenant", "set", "local", "--concurrent", "1", "--budget", "day tokens=20000")
        assert done.returncode == 0, done.stderr
        yield gateway


def test_who_never_reads_is_cut_off_and_holds_nothing(start_gateway: Start, tmp_path: Path) -> None:
    """Once the kernel takes no more for it, a client has `reader_s`."""
    with started(start_gateway, tmp_path, "reader_s = 1\n") as gateway, asking(gateway) as client:
        is_free_again(gateway)
        said = b""
        with suppress(ConnectionError):
            while data := client.recv(1 << 16):
                said = (said + data)[-1000:]
        assert said
        assert not said.endswith(b"0\r\n\r\n")


def test_who_reads_now_and_then_has_no_more_than_a_whole_answers_time(start_gateway: Start, tmp_path: Path) -> None:
    """However it spreads its reading: the slot is another's then, and the stream ends with the error."""
    with started(start_gateway, tmp_path, "answer_s = 2\n") as gateway, asking(gateway) as client:
        said = b""
        deadline = time.monotonic() + 20
        while not receipts_of(gateway):
            said += client.recv(1 << 14)
            time.sleep(0.05)
            assert time.monotonic() < deadline, "a client that reads a little has no end"
        is_free_again(gateway)
        while not said.endswith(b"0\r\n\r\n"):
            said += client.recv(1 << 16)
        assert b'data: {"error"' in said[-1000:]
        assert b'"code":"client_slow"' in said[-1000:]
