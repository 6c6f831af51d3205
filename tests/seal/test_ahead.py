"""A sealed process that is started before it is known what it is to be told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from allod.core.errors import Unavailable
from allod.seal.ahead import Ahead
from allod.seal.launch import SealOptions, python_read_paths, start

LISTEN = "import sys; print(sys.stdin.read())"


@pytest.fixture
def options(tmp_path: Path) -> SealOptions:
    return SealOptions(
        command=(sys.executable, "-S", "-c", LISTEN),
        read_paths=python_read_paths(),
        log_path=tmp_path / "log",
        hears=True,
    )


def test_it_hears_what_it_is_told_once_it_was_taken(options: SealOptions) -> None:
    """All of it and its end, sealed like any other; and it is no longer ended by who started it."""
    ahead = Ahead(options)
    process = ahead.take()
    ahead.close()
    assert process.kind == "sealed"
    assert process.poll() is None
    process.tell(b"words")
    assert process.wait(20) == 0
    assert options.log_path is not None
    assert options.log_path.read_text() == "words\n"


def test_one_that_nobody_took_is_ended(options: SealOptions) -> None:
    """With its keeper, and without a word in its log."""
    ahead = Ahead(options)
    ahead._thread.join()
    process = ahead._process
    assert process is not None
    ahead.close()
    assert process.poll() is not None
    assert options.log_path is not None
    assert options.log_path.read_text() == ""


def test_whoever_takes_it_is_told_why_there_is_none(options: SealOptions) -> None:
    """As `start` would have told: nothing runs outside the seal because it was begun early."""
    ahead = Ahead(SealOptions(**{**vars(options), "unsafe_omit": ("seccomp",)}))
    with pytest.raises(Unavailable, match="left out on purpose"):
        ahead.take()
    ahead.close()


def test_more_than_a_pipe_holds_is_refused(options: SealOptions) -> None:
    """Nobody waits for a process to read on; what has ended is no error here: whoever waits for it sees that."""
    process = start(
        SealOptions(**{**vars(options), "command": (sys.executable, "-S", "-c", "import time; time.sleep(9)")})
    )
    try:
        with pytest.raises(Unavailable, match="than a pipe holds"):
            process.tell(bytes(1 << 20))
    finally:
        process.terminate()
    ended = start(SealOptions(**{**vars(options), "command": (sys.executable, "-S", "-c", "pass")}))
    assert ended.wait(20) == 0
    ended.tell(b"words")
