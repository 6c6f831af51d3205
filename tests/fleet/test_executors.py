"""The contract of executors: what holds for a job wherever it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contracts.slurm import Cluster

from allod.core.errors import Invalid
from allod.fleet.executor import Executor
from allod.fleet.executors.local import LocalExecutor, LocalOptions
from allod.fleet.executors.memory import MemoryExecutor
from allod.fleet.executors.slurm import SlurmExecutor, SlurmOptions
from allod.fleet.jobs import OUTPUT_FILE, Job, JobStatus, State
from allod.fleet.site import Site

ENDLESS = "sleep 300"
SECRET = "ALLOD_SECRET"  # a variable of whoever submits
OUTCOMES = {"true": 0, "exit 3": 3, "exit 75": 75, ENDLESS: None}  # what comes of a script, for the one that runs none


@dataclass(frozen=True)
class Place:
    """An executor, and how a test makes jobs for it."""

    executor: Executor
    folder: Path
    runs: bool  # whether anything really runs

    def job(self, script: str, **changes: object) -> Job:
        parts = {"name": "contract", "command": ("sh", "-c", script), "folder": self.folder}
        return Job(**{**parts, **changes})  # type: ignore[arg-type]

    def run(self, script: str, **changes: object) -> tuple[JobStatus, list[State]]:
        """The last status, and the states on the way to it."""
        seen: list[JobStatus] = []
        final = self.executor.wait(self.executor.submit(self.job(script, **changes)), seen.append)
        assert seen[-1] == final
        return final, [status.state for status in seen]


def play(job: Job) -> int | None:
    return OUTCOMES[job.command[-1]]


@pytest.fixture(params=["memory", "local", pytest.param("slurm", marks=pytest.mark.services)])
def place(request: pytest.FixtureRequest, tmp_path: Path, loopback: Site) -> Iterator[Place]:
    if request.param == "memory":
        yield Place(MemoryExecutor(play), tmp_path, runs=False)
    elif request.param == "local":
        local = LocalExecutor(LocalOptions(environment={"PATH": os.environ["PATH"]}, grace_s=2, poll_s=0.02))
        yield Place(local, tmp_path, runs=True)
        local.close()
    else:
        cluster: Cluster = request.getfixturevalue("slurm")
        submitters = {**cluster.environment, SECRET: "leaked"}
        yield Place(SlurmExecutor(loopback, SlurmOptions(environment=submitters)), tmp_path, runs=True)


def test_a_job_is_done_when_its_command_was_well(place: Place) -> None:
    """Zero is done, and the states on the way come in their order."""
    final, states = place.run("true")
    assert (final.state, final.exit_status, final.restarts) == (State.DONE, 0, 0)
    assert states == [state for state in (State.PENDING, State.RUNNING, State.DONE) if state in states]


def test_a_job_has_failed_when_its_command_did(place: Place) -> None:
    """Its exit status is told."""
    final, _ = place.run("exit 3")
    assert (final.state, final.exit_status) == (State.FAILED, 3)


def test_a_cancelled_job_ends(place: Place) -> None:
    """Soon, and neither as done nor as failed; once more changes nothing."""
    id = place.executor.submit(place.job(ENDLESS))
    place.executor.cancel(id)
    assert place.executor.wait(id, lambda _: None).state is State.CANCELLED
    place.executor.cancel(id)
    assert place.executor.state(id).state is State.CANCELLED


def test_what_is_over_cannot_be_cancelled(place: Place) -> None:
    """It stays done."""
    id = place.executor.submit(place.job("true"))
    assert place.executor.wait(id, lambda _: None).state is State.DONE
    place.executor.cancel(id)
    assert place.executor.state(id).state is State.DONE


@pytest.mark.parametrize("id", ["", "0", "no job", "1;reboot", "999999999"])
def test_a_strange_id_is_refused(place: Place, id: str) -> None:
    """Every call says that there is no such job."""
    calls: list[Callable[[], object]] = [lambda: place.executor.state(id), lambda: place.executor.cancel(id)]
    for call in calls:
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.code == "job_unknown"


def test_jobs_are_told_apart(place: Place) -> None:
    """Two at once, each with its own end."""
    one, two = place.executor.submit(place.job("exit 3")), place.executor.submit(place.job("true"))
    assert one != two
    assert place.executor.wait(two, lambda _: None).state is State.DONE
    assert place.executor.wait(one, lambda _: None).state is State.FAILED


def test_a_job_runs_in_its_folder_with_its_environment_alone(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words come as they are, output goes to the folder's file, and nothing of ours leaks into it."""
    if not place.runs:
        pytest.skip("nothing runs in memory")
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.setenv(SECRET, "leaked")
    command = ("sh", "-c", 'pwd; echo "$1|$V|$ALLOD_SECRET"', "sh", "it's $HOME")
    place.run("", command=command, folder=folder, environment={"V": "a b;c"})
    assert (folder / OUTPUT_FILE).read_text().split("\n")[:2] == [str(folder), "it's $HOME|a b;c|"]


def test_output_is_added_to_what_is_there(place: Place, tmp_path: Path) -> None:
    """An attempt's output stays when the next one begins."""
    if not place.runs:
        pytest.skip("nothing runs in memory")
    (tmp_path / OUTPUT_FILE).write_text("before\n")
    place.run("echo after")
    assert (tmp_path / OUTPUT_FILE).read_text().startswith("before\nafter\n")
