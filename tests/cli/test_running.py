"""Which process the command line takes for the gateway of its realm: processes that wait, under a gateway's words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allod.app.home import Home
from allod.cli.running import running

URL = "http://127.0.0.1:1"


@contextmanager
def announced(home: Path, *words: str) -> Iterator[None]:
    """A process with these words, that the realm at `home` says is its gateway."""
    command = [sys.executable, "-S", "-c", "print(flush=True); input()", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # only now has it surely got its words
        (home / "gateway.json").write_text(json.dumps({"url": URL, "pid": process.pid}))
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("words", [["--home={home}"], ["--home", "{home}"]], ids=["one word", "two words"])
def test_a_gateway_is_found_however_its_home_was_said(tmp_path: Path, words: list[str]) -> None:
    """What is changed beside it must be told to it."""
    with announced(tmp_path, "allod.web", *(word.format(home=tmp_path) for word in words)):
        assert running(Home(tmp_path)) == URL


@pytest.mark.parametrize("words", [["allod.web", "--home=/elsewhere"], ["another", "--home={home}"]])
def test_another_process_under_its_number_is_not_taken_for_it(tmp_path: Path, words: list[str]) -> None:
    """It would be given a key."""
    with announced(tmp_path, *(word.format(home=tmp_path) for word in words)):
        assert running(Home(tmp_path)) is None
