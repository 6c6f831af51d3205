"""`allod train --on SITE`: the heavy stages as jobs of a real Slurm, the others here, and the same digests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.contracts.slurm import NODES, WHY_NOT, running_slurm
from tests.scenarios.pages import derivations, lay_out, train

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

SITE = """
name = "loopback"
source = "tried"
scheduler = "slurm"
jurisdiction = "GB"
partition = "workq"
"""


def test_a_run_on_two_nodes_ends_where_a_run_here_does(tmp_path: Path) -> None:
    """Pretrained by two ranks on two nodes; the one who waited was stopped meanwhile, and found the job again."""
    home, recipe = tmp_path / "home", lay_out(tmp_path / "recipes")
    (home / "sites").mkdir(parents=True)
    (home / "sites" / "loopback.toml").write_text(SITE)
    alone = train(tmp_path / "alone", recipe, "--until", "evaluate")
    run = tmp_path / "run"
    words = [str(recipe), "--dir", str(run), "--on", "loopback", "--nodes", str(len(NODES)), "--until", "evaluate"]
    with running_slurm() as cluster:
        environment = {**os.environ, **cluster.environment, "ALLOD_HOME": str(home)}
        command = [sys.executable, "-m", "allod.cli", "train", *words, "--json"]
        waiting = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(3000):
            if list(run.glob("jobs/pretrain-*/job.id")):
                break
            assert waiting.poll() is None, waiting.communicate()[1].decode()[-3000:]
            time.sleep(0.1)
        submitted = next(run.glob("jobs/pretrain-*/job.id")).read_text()
        waiting.send_signal(signal.SIGINT)
        said = waiting.communicate(timeout=120)[1].decode()
        assert waiting.returncode == 3, said
        assert "the job goes on" in said
        assert next(run.glob("jobs/pretrain-*/job.id")).read_text() == submitted
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    there = json.loads(done.stdout)
    assert derivations(there) == derivations(alone)
    pretrained = json.loads((run / "pretrain" / "manifest.json").read_bytes())["predicate"]
    assert pretrained["stated"]["site"] == "loopback"
    assert pretrained["environment"]["ranks"] == len(NODES)
    assert pretrained["seal"]["kind"] == "partial:no-namespaces"
    tuned = json.loads((run / "tune" / "manifest.json").read_bytes())["predicate"]
    assert tuned["seal"]["kind"] == "island"


def test_a_site_that_reaches_out_is_refused(tmp_path: Path) -> None:
    """An address that must be out of reach, and is not: the preflight says which, and nothing is trained."""
    home, recipe = tmp_path / "home", lay_out(tmp_path / "recipes")
    (home / "sites").mkdir(parents=True)
    with running_slurm() as cluster, socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        (home / "sites" / "loopback.toml").write_text(SITE + f'unreachable = ["{host}:{port}"]\n')
        environment = {**os.environ, **cluster.environment, "ALLOD_HOME": str(home)}
        command = [sys.executable, "-m", "allod.cli", "train", str(recipe), "--on", "loopback", "--nodes", "2"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert f"reaches {host}:{port}" in done.stderr
    assert not list(home.glob("runs/*/source"))
