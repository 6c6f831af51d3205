"""How fast a replica answers: what is counted, over which time, and what was not measured."""

from __future__ import annotations

import pytest

from allod.core.requests import Usage
from allod.engine.engine import ReplicaPace, ReplicaStatus
from allod.engine.replicas.stopwatch import NUM_KEPT, Stopwatch
from allod.web.http.metrics import Metrics

NOTHING = ReplicaPace(None, None, None, None)


def wrote(num_tokens: int) -> Usage:
    return Usage(prompt_tokens=10, completion_tokens=num_tokens)


def test_what_was_not_measured_is_none() -> None:
    """Not 0: a replica that nobody asked is neither slow nor quick, and an answer without a prompt had no cache."""
    watch = Stopwatch()
    assert watch.read(1000.0) == NOTHING
    watch.note_answer(Usage(completion_tokens=6), 1000.0)
    assert watch.read(1000.0) == ReplicaPace(0.1, None, None, None)


def test_tokens_are_counted_over_the_last_minute() -> None:
    """Of the answers that ended in it, as a mean over it, however many there were; then there are none to speak of."""
    watch = Stopwatch()
    for tenth in range(20_000):  # 500 seconds, with answers of 3 tokens in the first 60 of them and of 6 thereafter
        watch.note_answer(wrote(3 if tenth < 2400 else 6), tenth / 40)
        if tenth == 2399:
            assert watch.read(tenth / 40).tokens_per_s == pytest.approx(40 * 3)
    assert watch.read(499.99).tokens_per_s == pytest.approx(40 * 6)
    assert watch.read(529.99).tokens_per_s == pytest.approx(40 * 6 * 30 / 60)
    assert watch.read(560.0).tokens_per_s is None
    assert watch.read(560.0).cached_share == 0  # which is of the last answers, whenever they were


def test_quantiles_are_of_waits_that_there_were() -> None:
    """Of one, of ten, and of the last 128: the least that a half, and nine tenths, do not exceed."""
    watch = Stopwatch()
    watch.note_first(0.25)
    assert watch.read(0.0) == ReplicaPace(None, 250.0, 250.0, None)
    watch = Stopwatch()
    for wait_s in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1):
        watch.note_first(wait_s)
    assert watch.read(0.0) == ReplicaPace(None, 5000.0, 9000.0, None)
    for _ in range(NUM_KEPT):
        watch.note_first(0.5)
    assert watch.read(0.0) == ReplicaPace(None, 500.0, 500.0, None)


def test_the_cached_share_is_of_tokens() -> None:
    """A long prompt counts for more than a short one, and one of long ago for nothing."""
    watch = Stopwatch()
    watch.note_answer(Usage(prompt_tokens=900, cached_tokens=900), 0.0)
    watch.note_answer(Usage(prompt_tokens=100), 0.0)
    assert watch.read(0.0).cached_share == 0.9
    for _ in range(NUM_KEPT):
        watch.note_answer(Usage(prompt_tokens=4, cached_tokens=1), 0.0)
    assert watch.read(0.0).cached_share == 0.25


def test_the_metrics_have_a_line_for_what_was_measured() -> None:
    """In base units, by replica; and none for what was not."""
    status = {
        **dict(state="up", why="", engine="e", slots=1, num_running=0, num_answered=1, num_failed=0, num_starts=1),
        **dict(started_ms=None, pid=None, seal="none", seal_proof=None),
    }
    measured = ReplicaStatus(number=1, pace=ReplicaPace(2.5, 250.0, 1500.0, 0.75), **status)  # type: ignore[arg-type]
    silent = ReplicaStatus(number=2, pace=NOTHING, **status)  # type: ignore[arg-type]
    metrics = Metrics(
        requests_inside=lambda: 0, num_unreadable=lambda: 0, replicas=lambda: [("m", measured), ("m", silent)]
    )
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("allod_replica_")]
    names = ("allod_replica_tokens_per_second", "allod_replica_first_token_seconds", "allod_replica_cached_share")
    assert [line for line in lines if line.startswith(names)] == [
        'allod_replica_tokens_per_second{model="m",replica="1"} 2.5',
        'allod_replica_first_token_seconds{model="m",quantile="0.5",replica="1"} 0.25',
        'allod_replica_first_token_seconds{model="m",quantile="0.9",replica="1"} 1.5',
        'allod_replica_cached_share{model="m",replica="1"} 0.75',
    ]
    assert 'allod_replica_up{model="m",replica="2"} 1.0' in lines
