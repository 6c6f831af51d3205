"""A real Slurm of two nodes: what the rendered script does there."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.contracts.slurm import NODES, Cluster

from allod.core.errors import Invalid
from allod.core.labels import Label, Tier
from allod.fleet.executors.slurm import SlurmExecutor, SlurmOptions
from allod.fleet.jobs import OUTPUT_FILE, Job, JobId, JobStatus, State
from allod.fleet.preflight.checks import RunRequirements, check, refuse_unless_ready
from allod.fleet.preflight.job import survey
from allod.fleet.site import Exclusion, Site

SOURCE = Path(__file__).parents[2] / "src"
COUNTING = Path(__file__).with_name("counting.py")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="no torch")

pytestmark = pytest.mark.services


@dataclass(frozen=True)
class Runs:
    """One test's jobs on the cluster."""

    cluster: Cluster
    executor: SlurmExecutor
    folder: Path

    @property
    def output(self) -> str:
        file = self.folder / OUTPUT_FILE
        return file.read_text(errors="replace") if file.exists() else ""

    def shell(self, script: str, **changes: object) -> Job:
        return Job(name="x", command=("bash", "-c", script), folder=self.folder, **changes)  # type: ignore[arg-type]

    def count(self, upto: int, **changes: object) -> Job:
        environment = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        command = (sys.executable, str(COUNTING), str(upto))
        return Job(name="count", command=command, folder=self.folder, environment=environment, **changes)  # type: ignore[arg-type]

    def wait(self, id: JobId) -> JobStatus:
        return self.executor.wait(id, lambda _: None)

    def wait_for_output(self, text: str) -> None:
        for _ in range(480):
            if text in self.output:
                return
            time.sleep(0.25)
        raise AssertionError(f"no {text!r} in {self.output}\n{self.cluster.logs()}")

    def take_the_nodes(self) -> None:
        """Something more urgent comes and wants both nodes whole."""
        words = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        self.cluster.run("sbatch", *words)


@pytest.fixture
def runs(slurm: Cluster, loopback: Site, tmp_path: Path) -> Runs:
    return Runs(slurm, SlurmExecutor(loopback, SlurmOptions(environment=slurm.environment)), tmp_path)


def test_a_job_runs_on_both_nodes_with_their_gpus(runs: Runs) -> None:
    """One process a node, which would start that node's ranks; here it only says where it is."""
    where = runs.folder / "where"
    where.write_text('#!/bin/sh\necho "$SLURMD_NODENAME has $CUDA_VISIBLE_DEVICES"\n')
    where.chmod(0o755)
    job = replace(runs.shell("true"), nodes=2, ranks_per_node=2, python=str(where))
    assert runs.wait(runs.executor.submit(job)).state is State.DONE
    assert sorted(runs.output.splitlines()) == [f"{node} has 0,1" for node in NODES]


@needs_torch
@pytest.mark.slow
def test_two_ranks_on_two_nodes_find_each_other(runs: Runs) -> None:
    """The rendered script's own rendezvous, gloo between them."""
    assert runs.wait(runs.executor.submit(runs.count(3, nodes=2))).state is State.DONE
    assert all(f"of 2 from 0 on {node}" in runs.output for node in NODES)
    assert "finished 3" in runs.output


def test_the_warning_reaches_the_step_and_the_job_is_queued_again(runs: Runs) -> None:
    """SIGUSR1 to the batch script, as Slurm sends it before the walltime is over."""
    script = "trap 'touch saved; exit 75' USR1; [ -e saved ] && exit 0; echo ready; while sleep 0.1; do :; done"
    id = runs.executor.submit(runs.shell(script))
    runs.wait_for_output("ready")
    runs.cluster.run("scancel", "--signal=USR1", "--batch", id)
    final = runs.wait(id)
    assert (final.state, final.restarts) == (State.DONE, 1)


def test_a_second_warning_changes_nothing(runs: Runs) -> None:
    """A wait that is broken off twice still ends with the step's own status."""
    script = "trap ': ${first:=$SECONDS}' USR1; echo ready; for i in $(seq 30); do sleep 0.1; done; exit 3"
    id = runs.executor.submit(runs.shell(script))
    runs.wait_for_output("ready")
    for _ in range(3):
        runs.cluster.run("scancel", "--signal=USR1", "--batch", id)
        time.sleep(0.3)
    final = runs.wait(id)
    assert (final.state, final.exit_status) == (State.FAILED, 3)


def test_a_cancelled_job_is_not_queued_again(runs: Runs) -> None:
    """Though it saved and ended with status 75 when it was told to end: cancelled is cancelled."""
    id = runs.executor.submit(runs.shell("trap 'echo saved; exit 75' TERM; echo ready; while sleep 0.1; do :; done"))
    runs.wait_for_output("ready")
    runs.executor.cancel(id)
    assert runs.wait(id).state is State.CANCELLED
    runs.wait_for_output("saved")
    time.sleep(3)
    assert runs.cluster.wait_for(id, "CANCELLED") == "CANCELLED"


@needs_torch
@pytest.mark.slow
def test_a_preempted_job_saves_is_queued_again_and_finishes(runs: Runs) -> None:
    """Real pre-emption by a partition of higher priority, of two ranks on two nodes."""
    id = runs.executor.submit(runs.count(80, nodes=2))
    runs.wait_for_output("from 0")
    runs.take_the_nodes()
    final = runs.wait(id)
    assert (final.state, final.restarts) == (State.DONE, 1)
    saved = int(runs.output.rpartition(" of 2 from ")[2].split()[0])
    assert 0 < saved < 80, "the second attempt began where the first was when it was warned"
    assert runs.output.count("finished 80") == 1


def test_an_excluded_node_is_not_used(runs: Runs, loopback: Site) -> None:
    """Until its day is over; three jobs at once, and all of them on the other node."""
    today = date.today()
    site = replace(loopback, exclusions=(Exclusion("north", "slow", today),))
    for day, nodes in ((today, {"south"}), (today + timedelta(days=1), {"north", "south"})):
        options = SlurmOptions(environment=runs.cluster.environment)
        executor = SlurmExecutor(site, options, today=lambda day=day: day)  # type: ignore[misc]
        used = set()
        for number in range(3):
            folder = runs.folder / f"{day}-{number}"
            folder.mkdir()
            words = "echo on $SLURMD_NODENAME; sleep 2"
            id = executor.submit(Job(name="x", command=("sh", "-c", words), folder=folder))
            used.add((folder, id))
        found = set()
        for folder, id in used:
            assert executor.wait(id, lambda _: None).state is State.DONE
            found.add((folder / OUTPUT_FILE).read_text().split()[1])
        assert found == nodes


def test_slurm_refuses_in_its_own_words(runs: Runs, loopback: Site) -> None:
    """A partition that is not there."""
    executor = SlurmExecutor(replace(loopback, partition="none"), SlurmOptions(environment=runs.cluster.environment))
    with pytest.raises(Invalid, match="invalid partition specified: none") as caught:
        executor.submit(runs.shell("true"))
    assert caught.value.code == "job_refused"


@needs_torch
@pytest.mark.slow
def test_the_preflight_runs_where_the_run_would(runs: Runs, loopback: Site) -> None:
    """Two ranks on two nodes measure their all-reduce; without a GPU a run that wants one is refused."""
    asked = RunRequirements(label=Label(Tier("OFFICIAL", 0, "gb")), nodes=2, is_sealed=False)
    site = replace(loopback, all_reduce_floor_mb_s=1)
    facts = survey(
        runs.executor, asked, site, folder=runs.folder,
        environment={"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert facts.all_reduce_mb_s
    refuse_unless_ready(check(asked, facts, site, today=date.today()))
    fast = replace(site, all_reduce_floor_mb_s=10**7)
    assert "refused" in {one.severity.value for one in check(asked, facts, fast, today=date.today())}
