"""A stage's process has read the corpus; what it says cannot break, flood or deceive whoever listens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allod.core.errors import AllodError, Unavailable
from allod.core.shown_text import is_plain
from allod.train.stage_messages import Listener

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\nreleased laptop"


def heard(line: bytes) -> tuple[Listener, list[tuple[str, int, int]]]:
    progress: list[tuple[str, int, int]] = []
    listener = Listener(lambda *said: progress.append(said))
    listener.hear(line + b"\n")
    return listener, progress


def said(**message: Any) -> bytes:
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    "line",
    [
        b'{"progress": ["x", Infinity, 1]}',
        b'{"progress": ["x", 1e999, 1]}',
        b'{"progress": ["x", NaN, 1]}',
        b'{"progress": ["x", -1, 1]}',
        b'{"progress": ["x", 1' + b"0" * 400 + b", 1]}",
        b"[" * 100_000,
        b'{"facts": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b', "max_rss": 1}',
        b'{"facts": {"a": 1e999}, "max_rss": 1}',
        b'{"facts": {"a": 1' + b"0" * 400 + b'}, "max_rss": 1}',
        b'{"facts": {"a\\u001b": 1}, "max_rss": 1}',
        b'{"facts": {"a": 1}, "max_rss": Infinity}',
        b'{"error": {"kind": ["x"], "code": "a", "message": "b", "hint": null}}',
        b'{"error": {"kind": "Invalid", "code": "a\\n\\u001b", "message": "b", "hint": null}}',
        b"5",
        b"\xff",
    ],
)
def test_what_is_no_message_is_one_clear_error(line: bytes) -> None:
    """Never an exception of another kind, which would be a traceback for the operator."""
    with pytest.raises(Unavailable) as caught:
        heard(line)
    assert caught.value.code == "stage_died"


def test_nothing_it_says_steers_a_terminal() -> None:
    """Progress, messages, hints and facts lose what a terminal would obey."""
    _, progress = heard(said(progress=[ESCAPE, 1, 2]))
    assert is_plain(progress[0][0])
    listener, _ = heard(said(error={"kind": "Invalid", "code": "a", "message": ESCAPE, "hint": ESCAPE}))
    error = listener.error
    assert isinstance(error, AllodError)
    assert is_plain(error.message)
    assert is_plain(str(error.hint))
    listener, _ = heard(said(facts={"loss": ESCAPE}, max_rss=1))
    assert listener.facts is not None
    assert is_plain(str(listener.facts["loss"]))


def test_little_of_the_corpus_fits_into_a_fact() -> None:
    """Facts end up in a manifest, and that in a public log."""
    listener, _ = heard(said(facts={"loss": "x" * 100_000}, max_rss=1))
    assert listener.facts is not None
    assert len(str(listener.facts["loss"])) < 300
    with pytest.raises(Unavailable):
        heard(said(facts={f"a{number}": 1 for number in range(2000)}, max_rss=1))
