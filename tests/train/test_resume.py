"""A run that is stopped or killed goes on where it was, on one rank or two, and ends in the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

from tests.train.pretraining import new_work, write_corpus

from allod.core.errors import Unavailable
from allod.train.stages import pretrain

TRAIN = """
import sys, time
from dataclasses import replace
from pathlib import Path
from allod.train.stages import pretrain
from tests.train.pretraining import TINY, new_work
pack, folder, stop_after, pause_s = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
asked = iter(range(10**9))
work = new_work(folder, pack, pretrain=replace(TINY.pretrain, checkpoint_every_s=0))
work = replace(work, should_stop=lambda: next(asked) == stop_after, report=lambda *_: time.sleep(pause_s))
pretrain.run(work)
"""

KILL = """
import hashlib, json, os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
from allod.train.stages import pretrain
from tests.train.pretraining import TINY, new_work
pack, folder = Path(sys.argv[1]), Path(sys.argv[2])
work = new_work(folder, pack, pretrain=replace(TINY.pretrain, checkpoint_every_s=0))
chance, told = random.Random(7), {"kills": 0, "mid_save": 0, "ends": []}
saved = lambda: {path.name for path in (folder / "checkpoints").glob("step-*")}
def end():
    told["ends"].append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())})
    for path in folder.iterdir():
        path.unlink()
while told["kills"] < 20 or not told["ends"]:
    before = saved()
    child = os.fork()  # torch is there already: a start takes no time
    if not child:
        pretrain.run(work)
        os._exit(0)
    if told["kills"] < 20:
        while not saved() - before and not (folder / "weights.safetensors").exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        told["kills"] += 1
    os.waitpid(child, 0)
    told["mid_save"] += any(folder.glob("checkpoints/.step-*"))
    if (folder / "weights.safetensors").exists() and not (folder / "checkpoints").exists():
        end()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "pack")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pack: Path) -> str:
    """The digest of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    pretrain.run(new_work(folder, pack))
    return digest(folder)


def digest(folder: Path) -> str:
    """Of everything that the stage has written."""
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    return json.dumps(hashes)


def command(pack: Path, folder: Path, *, ranks: int = 1, stop_after: int = -1, pause_s: float = 0.0) -> list[str]:
    """A process, or as many as there are ranks, that trains the tiny recipe and saves after every step."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    script = folder.parent / "train.py"
    script.write_text(TRAIN)
    return [sys.executable, *launch, str(script), str(pack), str(folder), str(stop_after), str(pause_s)]


def environment() -> dict[str, str]:
    repository = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}", "OMP_NUM_THREADS": "1"}


def train(pack: Path, folder: Path, **options: int) -> None:
    """Run it to its end, or until it has saved and stopped."""
    done = subprocess.run(
        command(pack, folder, **options), env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0 or "wanted back" in done.stderr, done.stderr[-3000:]


def stopped_after(steps: int, folder: Path, pack: Path) -> None:
    """Train until asked to stop before step `steps + 1`."""
    asked = iter(range(1000))
    with pytest.raises(Unavailable) as stopped:
        pretrain.run(replace(new_work(folder, pack), should_stop=lambda: next(asked) == steps))
    assert stopped.value.code == "interrupted"


def test_a_run_that_is_asked_to_stop_goes_on_from_there(pack: Path, whole: str, tmp_path: Path) -> None:
    """Stopped twice, it ends in the bytes of a run that was left alone, and makes no step twice."""
    stopped_after(5, tmp_path, pack)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-5"]
    stopped_after(7, tmp_path, pack)
    made = []
    pretrain.run(replace(new_work(tmp_path, pack), report=lambda what, done, total: made.append(done)))
    assert len(made) == 24 - 5 - 7
    assert digest(tmp_path) == whole


@pytest.mark.parametrize("damage", ["torn", "changed", "nothing said", "not all of it"])
def test_a_damaged_checkpoint_is_passed_over(pack: Path, whole: str, tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with the newest, the one before it is taken, and the end is the same."""
    for steps in (4, 4):
        stopped_after(steps, tmp_path, pack)
    newest = tmp_path / "checkpoints" / "step-8"
    largest = max(newest.iterdir(), key=lambda path: path.stat().st_size)
    if damage == "torn":
        os.truncate(largest, largest.stat().st_size // 2)
    elif damage == "changed":
        data = bytearray(largest.read_bytes())
        data[-100] ^= 1
        largest.write_bytes(data)
    elif damage == "nothing said":
        (newest / "checkpoint.json").unlink()
    else:
        largest.unlink()
    made = []
    pretrain.run(replace(new_work(tmp_path, pack), report=lambda what, done, total: made.append(done)))
    assert len(made) == 24 - 4
    assert digest(tmp_path) == whole


def test_a_checkpoint_of_another_recipe_is_passed_over(pack: Path, whole: str, tmp_path: Path) -> None:
    """Weights that were trained with another seed are not gone on with."""
    asked = iter(range(1000))
    with pytest.raises(Unavailable):
        pretrain.run(replace(new_work(tmp_path, pack, seed=9), should_stop=lambda: next(asked) == 6))
    pretrain.run(new_work(tmp_path, pack))
    assert digest(tmp_path) == whole


def test_two_checkpoints_are_kept(pack: Path, tmp_path: Path) -> None:
    """Older ones are removed as newer ones are safe."""
    for _ in range(4):
        stopped_after(2, tmp_path, pack)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-6", "step-8"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1), (2, 2)])
def test_ranks_may_change_on_the_way(pack: Path, whole: str, tmp_path: Path, first: int, then: int) -> None:
    """Begun on one number of ranks and ended on another: the bytes of one rank that was left alone."""
    folder = tmp_path / "pretrain"
    train(pack, folder, ranks=first, stop_after=10)
    assert (folder / "checkpoints" / "step-10").is_dir()
    train(pack, folder, ranks=then)
    assert digest(folder) == whole


@pytest.mark.slow
def test_kill_it_anywhere(pack: Path, whole: str, tmp_path: Path) -> None:
    """Twenty kills at random moments, mid-step and mid-save, then one run to the end: the same bytes."""
    script = tmp_path / "kill.py"
    script.write_text(KILL)
    words = [sys.executable, str(script), str(pack), str(tmp_path / "pretrain")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["kills"] == 20
    assert told["mid_save"] > 0
    assert {json.dumps(files) for files in told["ends"]} == {whole}
