"""What must happen when something is broken: a clear no, and nothing acknowledged lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Gateway, run_allod

from allod.app.home import Home
from allod.prove.formats.signing_key import load_signing_key
from allod.prove.tlog.fsck import fsck
from allod.prove.tlog.log import Entry, open_log

Start = Callable[..., AbstractContextManager[Gateway]]


def post(gateway: Gateway, body: dict[str, Any]) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"{gateway.url}/v1/chat/completions", json.dumps({"model": "echo", **body}).encode(), gateway.headers
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def ready(gateway: Gateway) -> int:
    try:
        with urllib.request.urlopen(f"{gateway.url}/readyz", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux) for a small disk of its own")
def test_a_full_disk_under_the_log_stops_answers_and_loses_none(start_gateway: Start, tmp_path: Path) -> None:
    """With no room for receipts, answers are 503, and so is /readyz; with room again it is ready by itself."""
    logs = tmp_path / "home" / "logs"
    logs.mkdir(parents=True)
    small_disk = f"mount -t tmpfs -o size=768k,mode=700 tmpfs '{logs}' && exec \"$@\""
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    num_answered = 0
    with start_gateway(
        "echo", prefix=("unshare", "--map-root-user", "--mount", "sh", "-c", small_disk, "sh")
    ) as gateway:
        inside = Path(f"/proc/{gateway.process.pid}/root{logs}")
        filler = inside / "filler"
        filler.write_bytes(bytes(300_000))
        for _ in range(2000):
            status, answer = post(gateway, hello)
            if status != 200:
                break
            num_answered += 1
        assert status == 503
        assert json.loads(answer)["error"]["code"] == "log_unavailable"
        status, answer = post(gateway, {**hello, "stream": True})
        assert status == 503, "nothing is generated while the log is known not to work"
        time.sleep(1.1)  # it is looked at again, and is as full
        assert (ready(gateway), post(gateway, hello)[0]) == (503, 503)
        filler.unlink()
        for _ in range(100):
            if ready(gateway) == 200:
                break
            time.sleep(0.1)
        status, _ = post(gateway, hello)
        assert status == 200, "the log did not recover when there was room again"
        num_answered += 1
        gateway.process.terminate()
        copy = tmp_path / "copy"
        shutil.copytree(inside / "receipts", copy)
    report = fsck(copy, load_signing_key(Home(gateway.home).log_key).verifier)
    assert report.is_sound
    assert report.head.size >= num_answered > 0


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    """The gateway refuses to start, says why and what to do, and does not load a model first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_allod(tmp_path, "up", "--model=echo", f"--port={port}")
    assert result.returncode == 3
    assert "error: cannot listen" in result.stderr
    assert "\nhint: " in result.stderr


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[server\n", "is no TOML"),
        ("[server]\nprot = 1\n", "unknown setting 'prot'"),
        ('[server]\nport = "8400"\n', "port must be int"),
        ('[server]\nhost = "0.0.0.0"\n', "only loopback"),
        ("unsafe_no_seal = true\n", "unknown setting 'unsafe_no_seal'"),
    ],
)
def test_broken_settings_are_refused_at_start(tmp_path: Path, toml: str, said: str) -> None:
    """Nothing in the file is ignored: what is not understood keeps the gateway from starting."""
    (tmp_path / "allod.toml").write_text(toml)
    result = run_allod(tmp_path, "up", "--model=echo", "--port=0")
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("content", "said"), [(b"PK\x03\x04 not a model", "does not begin"), (b"GGUF\x03\0\0\0", "ends")]
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """The gate is before the engine: the file never reaches it."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    result = run_allod(tmp_path / "home", "up", f"--model={file}", "--port=0")
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.slow
def test_a_truncated_model_is_refused(tmp_path: Path, weights: Path) -> None:
    """A real model that lacks its end is refused, with where it should have ended."""
    file = tmp_path / "cut.gguf"
    with weights.open("rb") as source, file.open("wb") as target:
        target.write(source.read(20_000_000))
    result = run_allod(tmp_path / "home", "up", f"--model={file}", "--port=0")
    assert result.returncode == 2
    assert "its tensors end at byte 98362432, and the file has 20000000" in result.stderr


def test_a_seal_that_cannot_be_entered_refuses_to_serve(tmp_path: Path, weights: Path) -> None:
    """Where no namespace may be made, `up` says which part is missing; told to go on, it states it in receipts."""
    setting = Path("/proc/sys/user/max_net_namespaces")
    prefix = ["unshare", "--map-root-user", "--user", "sh", "-c", f'echo 0 > {setting} && exec "$@"', "sh"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "store").symlink_to(weights.parents[2])
    command = [*prefix, str(Path(shutil.which("python3") or "python3")), "--version"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the limit on namespaces cannot be set in a namespace here")
    result = subprocess.run(
        [*prefix, sys.executable, "-m", "allod.cli", "up", "--model=smollm2-135m", "--port=0"],
        env={**os.environ, "ALLOD_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 3, result.stderr
    assert "the seal is incomplete" in result.stderr
    assert "namespaces" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(start_gateway: Start, number: signal.Signals) -> None:
    """Told to stop, the gateway withdraws its announcement, closes its log and ends with 0."""
    with start_gateway("echo") as gateway:
        assert post(gateway, {"messages": [{"role": "user", "content": "hello"}]})[0] == 200
        gateway.process.send_signal(number)
        assert gateway.process.wait(20) == 0
        assert not (gateway.home / "gateway.json").exists()
        home = Home(gateway.home)
        report = fsck(home.receipts, load_signing_key(home.log_key).verifier)
        assert report.findings == ()
        assert report.head.size == 1


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux) for a small disk of its own")
@pytest.mark.parametrize("free_kib", [0, 8, 24])
def test_a_disk_that_is_full_from_the_start_is_said(tmp_path: Path, free_kib: int) -> None:
    """With no room for keys or the log the gateway does not start, says why, and leaves no realm without a name."""
    home = tmp_path / "home"
    home.mkdir()
    mount = f"mount -t tmpfs -o size=256k,mode=700 tmpfs '{home}'"
    fill = f"{mount} && head -c {(256 - free_kib) * 1024} /dev/zero > '{home}/filler'"
    words = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f"{fill}; \"$@\"; status=$?; wc -c < '{home}/realm'; exit $status",
    ]
    up = [sys.executable, "-m", "allod.cli", "up", "--model=echo", "--port=0"]
    environment = {**os.environ, "ALLOD_HOME": str(home)}
    result = subprocess.run(
        [*words, "sh", *up], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 3
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.strip() != "0"


@pytest.mark.parametrize(
    ("field", "odd_value"),
    [(rb'"tokens":[0-9]+', b'"tokens":1' + b"0" * 30), (rb'(_ms":)1[0-9]{12}', rb"\1-315619200000")],
    ids=["usage", "1960"],
)
def test_a_realm_that_holds_an_impossible_receipt_starts_and_answers(
    start_gateway: Start, tmp_path: Path, field: bytes, odd_value: bytes
) -> None:
    """It was signed once, and the log is never changed: it is stepped over, counted and named."""
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    with start_gateway("echo") as gateway:
        assert post(gateway, hello)[0] == 200
        home = Home(gateway.home)
    log = open_log(home.receipts, load_signing_key(home.log_key))
    (statement,) = log.entries(0, 1)
    odd = re.sub(field, odd_value, statement)
    assert odd != statement
    log.append([Entry(odd, "odd")])
    log.close()
    with start_gateway("echo") as gateway:
        assert gateway.home == home.path
        assert post(gateway, hello)[0] == 200
        with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=10) as response:
            assert b"allod_log_unreadable_entries 1.0" in response.read()
        with pytest.raises(urllib.error.HTTPError) as caught:  # ours to answer for, and not the asker's
            urllib.request.urlopen(
                urllib.request.Request(f"{gateway.url}/v1/receipts/odd", headers=gateway.headers), timeout=10
            )
        with caught.value as error:
            assert (error.code, json.load(error)["error"]["code"]) == (503, "receipt_unreadable")
        result = gateway.allod("log", "fsck", "--json")
        assert result.returncode == 1
        told = json.loads(result.stdout)
        assert (told["num_unreadable"], told["is_damaged"]) == (1, False)
        assert told["findings"][0]["where"].startswith("entry 1,")
    # a gateway that ends has charged all that it answered
    used = json.loads(gateway.allod("tenant", "show", "local", "--json").stdout)["used"]["month"]
    assert used["requests"] == 2


def test_a_clock_that_is_wrong_stops_answers_and_refusals_until_it_is_accepted(
    start_gateway: Start, tmp_path: Path
) -> None:
    """The log's last time is two days ahead of the clock: 503 with both times, for a refusal too, and on /readyz."""
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    with start_gateway("echo") as gateway:
        assert post(gateway, hello)[0] == 200
        home = Home(gateway.home)
    log = open_log(home.receipts, load_signing_key(home.log_key))
    (statement,) = log.entries(0, 1)
    ahead = re.sub(rb'_ms":(1[0-9]{12})', lambda found: b'_ms":%d' % (int(found[1]) + 172_800_000), statement)
    log.append([Entry(ahead, "ahead")])
    log.close()
    with start_gateway("echo") as gateway:
        headers = {**gateway.headers, "x-allod-tier": "TOP SECRET"}
        status, body = post(gateway, hello)
        assert (status, json.loads(body)["error"]["code"]) == (503, "clock_wrong")
        request = urllib.request.Request(
            f"{gateway.url}/v1/chat/completions", json.dumps({"model": "echo", **hello}).encode(), headers
        )
        for refused in (request, f"{gateway.url}/readyz"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(refused, timeout=10)
            with caught.value as error:
                assert error.code == 503
                assert b"clock_wrong" in error.read()
        assert gateway.allod("log", "accept-clock").returncode == 0
        deadline = time.monotonic() + 20
        while post(gateway, hello)[0] != 200:
            assert time.monotonic() < deadline
        assert "believed already" in gateway.allod("log", "accept-clock").stdout
        assert gateway.allod("policy", "history").returncode == 0
    with start_gateway("echo") as gateway:  # what was accepted once is not asked for again
        assert post(gateway, hello)[0] == 200
