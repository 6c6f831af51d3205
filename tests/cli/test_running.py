"""Which process the command line takes for the gateway of its realm: processes that wait, under a gateway's words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from tests.conftest import run_allod

from allod.app.home import Home, load_settings
from allod.cli.running import find_gateway, model_of_running, time_of_record_ms
from allod.core.errors import Unavailable
from allod.core.times import now_ms

URL = "http://127.0.0.1:1"


@contextmanager
def announced(home: Path, *words: str, url: str = URL) -> Iterator[None]:
    """A process with these words, that the realm at `home` says is its gateway."""
    command = [sys.executable, "-S", "-c", "print(flush=True); input()", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # only now has it surely got its words
        (home / "gateway.json").write_text(json.dumps({"url": url, "pid": process.pid, "model": "own.gguf"}))
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("words", [["--home={home}"], ["--home", "{home}"]], ids=["one word", "two words"])
def test_a_gateway_is_found_however_its_home_was_said(tmp_path: Path, words: list[str]) -> None:
    """What is changed beside it must be told to it."""
    with announced(tmp_path, "allod.web", *(word.format(home=tmp_path) for word in words)):
        assert find_gateway(Home(tmp_path)) == URL
        assert model_of_running(Home(tmp_path)) == "own.gguf"


@pytest.mark.parametrize("words", [["allod.web", "--home=/elsewhere"], ["another", "--home={home}"]])
def test_another_process_under_its_number_is_not_taken_for_it(tmp_path: Path, words: list[str]) -> None:
    """It would be given a key."""
    with announced(tmp_path, *(word.format(home=tmp_path) for word in words)):
        assert find_gateway(Home(tmp_path)) is None
        assert model_of_running(Home(tmp_path)) is None


@contextmanager
def answering(told: object) -> Iterator[str]:
    """A server that answers every question with this; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_gateway_that_knows_of_a_wrong_clock_is_believed(tmp_path: Path) -> None:
    """It saw the clock step, which the log cannot tell; what is made beside it would bear that time."""
    told = {"code": "clock_wrong", "reason": "the clock says 1960"}
    words = "allod.web", f"--home={tmp_path}"
    with answering(told) as url, announced(tmp_path, *words, url=url):
        with pytest.raises(Unavailable) as caught:
            time_of_record_ms(load_settings(home=tmp_path))
        ran = run_allod(tmp_path, "train", str(tmp_path / "recipe.toml"))
    assert (ran.returncode, "the clock says 1960" in ran.stderr) == (3, True)
    assert (caught.value.code, caught.value.message) == ("clock_wrong", "the clock says 1960")


@pytest.mark.parametrize("told", [{"code": "overloaded"}, [], "odd"], ids=["another reason", "a list", "a text"])
def test_what_else_a_gateway_says_is_not_of_the_clock(tmp_path: Path, told: object) -> None:
    """Nor is silence: the log did not contradict."""
    before, words = now_ms(), ("allod.web", f"--home={tmp_path}")
    with answering(told) as url, announced(tmp_path, *words, url=url):
        assert time_of_record_ms(load_settings(home=tmp_path)) >= before
    with announced(tmp_path, *words):
        assert time_of_record_ms(load_settings(home=tmp_path)) >= before
