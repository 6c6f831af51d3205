"""Jobs on this machine, beyond what every executor does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from allod.core.errors import Invalid, Unavailable
from allod.fleet.executors import local
from allod.fleet.executors.local import LocalExecutor, LocalOptions
from allod.fleet.jobs import OUTPUT_FILE, Job, JobId, State

SOURCE = Path(__file__).parents[2] / "src"
COUNTING = Path(__file__).with_name("counting.py")


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    here = LocalExecutor(LocalOptions(environment=environment, grace_s=1, poll_s=0.05))
    yield here
    here.close()


def shell(script: str, folder: Path, **changes: object) -> Job:
    return Job(name="x", command=("sh", "-c", script), folder=folder, **changes)  # type: ignore[arg-type]


def wait_for(text: str, folder: Path) -> None:
    for _ in range(1200):
        if (folder / OUTPUT_FILE).exists() and text in (folder / OUTPUT_FILE).read_text():
            return
        time.sleep(0.05)
    raise AssertionError((folder / OUTPUT_FILE).read_text())


def interrupt(id: JobId) -> None:
    """The machine is wanted back: every process of the job hears it, as from a site's scheduler."""
    local._send(signal.SIGUSR1, local._family(int(id)))


def test_an_interrupted_job_is_neither_done_nor_failed(executor: LocalExecutor, tmp_path: Path) -> None:
    """Status 75 says: saved, start me again. Nobody does so by himself: the machine was wanted back."""
    id = executor.submit(shell("trap 'exit 75' USR1; echo ready; while sleep 0.05; do :; done", tmp_path))
    wait_for("ready", tmp_path)
    interrupt(id)
    final = executor.wait(id, lambda _: None)
    assert (final.state, final.exit_status) == (State.INTERRUPTED, 75)


def test_a_job_past_its_walltime_is_ended(executor: LocalExecutor, tmp_path: Path) -> None:
    """As a scheduler would."""
    final = executor.wait(executor.submit(shell("sleep 60", tmp_path, walltime_s=1)), lambda _: None)
    assert (final.state, final.reason) == (State.FAILED, "walltime")


def test_a_cancelled_jobs_children_end_with_it(executor: LocalExecutor, tmp_path: Path) -> None:
    """The whole group: one that ignores the signal is killed when the grace is over."""
    script = 'trap "" TERM; (trap "" TERM; while sleep 0.05; do :; done) & echo child=$!; wait'
    id = executor.submit(shell(script, tmp_path))
    wait_for("child=", tmp_path)
    child = int((tmp_path / OUTPUT_FILE).read_text().split("=")[1])
    executor.cancel(id)
    for _ in range(100):  # it is nobody's child then, and reaped by whoever inherits it
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("the child lives on")


def test_this_machine_is_one_node(executor: LocalExecutor, tmp_path: Path) -> None:
    """Two are refused at once."""
    with pytest.raises(Invalid) as caught:
        executor.submit(shell("true", tmp_path, nodes=2))
    assert caught.value.code == "job_nodes"


def test_what_cannot_be_started_is_said(executor: LocalExecutor, tmp_path: Path) -> None:
    """No such program, no such folder."""
    for job in (
        Job(name="x", command=("/no/such/program",), folder=tmp_path),
        Job(name="x", command=("true",), folder=tmp_path / "nowhere"),
    ):
        with pytest.raises(Unavailable) as caught:
            executor.submit(job)
        assert caught.value.code == "job_not_started"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
def test_two_ranks_are_interrupted_together_and_go_on(executor: LocalExecutor, tmp_path: Path) -> None:
    """torchrun neither dies of the signal nor makes 75 a 1; the second attempt begins where the first saved."""
    job = Job(name="count", command=(sys.executable, str(COUNTING), "30"), folder=tmp_path, ranks_per_node=2)
    id = executor.submit(job)
    wait_for("from 0", tmp_path)
    interrupt(id)
    assert executor.wait(id, lambda _: None).state is State.INTERRUPTED
    saved = (tmp_path / "count").read_text()
    assert executor.wait(executor.submit(job), lambda _: None).state is State.DONE
    output = (tmp_path / OUTPUT_FILE).read_text()
    assert f"of 2 from {saved}" in output
    assert output.count("finished 30") == 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
def test_a_rank_that_fails_fails_the_job(executor: LocalExecutor, tmp_path: Path) -> None:
    """Whatever its own status was: 75 alone has a meaning."""
    job = Job(name="x", command=("sh", "-c", "exit 7"), folder=tmp_path, ranks_per_node=2)
    final = executor.wait(executor.submit(job), lambda _: None)
    assert (final.state, final.exit_status) == (State.FAILED, 1)
