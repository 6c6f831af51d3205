"""Training on a real Slurm: two ranks on two nodes, pre-empted several times, end in the bytes of one left alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.contracts.slurm import NODES, WHY_NOT, running_slurm

if find_spec("torch") is None:
    pytest.skip("torch comes with the train extra", allow_module_level=True)

from tests.train.pretraining import TINY, write_corpus

from allod.fleet.executors.slurm import SlurmExecutor, SlurmOptions
from allod.fleet.jobs import OUTPUT_FILE, Job, JobId, State
from allod.fleet.site import Site
from allod.train.recipe import Pretrain, Recipe, Source
from allod.train.recipe_reading import recipe_json

pytestmark = [
    pytest.mark.long,
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
NUM_PREEMPTIONS = 2
RECIPE = Recipe(
    name="tiny",
    sources=(Source("words", "text", "CC0-1.0", "GB", "written for the tests", "2026", path="words"),),
    size="1m",
    minutes=0,
    steps=100,
    seed=TINY.seed,
    pretrain=Pretrain(context=64, checkpoint_every_s=5),
)
SITE = Site(name="loopback", source="tried", scheduler="slurm", jurisdiction="GB", partition="workq")


def stage(folder: Path, pack: Path) -> tuple[str, ...]:
    """The command that pretrains into `folder / "output"`."""
    (folder / "output").mkdir(parents=True)
    task = {
        "stage": "pretrain",
        "recipe": recipe_json(RECIPE),
        "inputs": {"pack": str(pack)},
        "output": str(folder / "output"),
    }
    (folder / "task.json").write_text(json.dumps(task))
    return (sys.executable, "-m", "allod.train.stage_process", str(folder / "task.json"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def steps_of(output: Path) -> int:
    """How many lines of progress the ranks have written so far."""
    return output.read_text(errors="replace").count('"pretraining, ') if output.exists() else 0


def preempt(id: JobId, output: Path, run: object, logs: object) -> None:
    """Once it has learnt something since it was last started, something more urgent wants both nodes whole."""
    assert callable(run)
    assert callable(logs)
    seen = steps_of(output)
    for _ in range(600):
        if steps_of(output) > seen + 3:
            break
        time.sleep(0.2)
    else:
        raise AssertionError(f"job {id} makes no steps: {output.read_text()[-2000:]}\n{logs()}")
    run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")


def test_two_preempted_ranks_end_in_the_weights_of_one(tmp_path: Path) -> None:
    """Twice warned, saved, taken off the nodes, queued again and resumed: not one bit is another."""
    pack = write_corpus(tmp_path / "pack")
    alone = tmp_path / "alone"
    subprocess.run(stage(alone, pack), env={**os.environ, **ENVIRONMENT}, capture_output=True, timeout=500, check=True)
    folder = tmp_path / "slurm"
    job = Job(name="pretrain", command=stage(folder, pack), folder=folder, nodes=len(NODES), environment=ENVIRONMENT)
    with running_slurm() as cluster:
        executor = SlurmExecutor(SITE, SlurmOptions(environment=cluster.environment))
        id = executor.submit(job)
        for number in range(1, NUM_PREEMPTIONS + 1):
            preempt(id, folder / OUTPUT_FILE, cluster.run, cluster.logs)
            while executor.state(id).restarts < number:
                assert not executor.state(id).state.is_over, (folder / OUTPUT_FILE).read_text()[-3000:]
                time.sleep(1)
        final = executor.wait(id, lambda _: None)
        output = (folder / OUTPUT_FILE).read_text(errors="replace")
    assert (final.state, final.restarts) == (State.DONE, NUM_PREEMPTIONS), output[-3000:]
    assert output.count('"code": "interrupted"') == NUM_PREEMPTIONS * len(NODES)
    assert digests(folder / "output") == digests(alone / "output")
