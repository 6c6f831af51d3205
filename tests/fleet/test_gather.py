"""Looking at a place: each answer against something that is really so."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from allod.core.errors import Unavailable
from allod.core.labels import Label, Tier
from allod.fleet.executors.local import LocalExecutor, LocalOptions
from allod.fleet.preflight.checks import ProbeResult, RunRequirements
from allod.fleet.preflight.egress import reach
from allod.fleet.preflight.job import survey
from allod.fleet.preflight.probe import ProbeOptions, ask_cuda, free_bytes, gather_command, read_facts
from allod.fleet.site import Site

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def lines(*facts: ProbeResult) -> str:
    return "".join(f"noise\n0: preflight facts: {json.dumps(asdict(one))}\n" for one in facts)


def test_an_address_that_answers_is_reached(listener: int) -> None:
    """By taking the connection, or by refusing it: both came from out there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
        found = reach((f"127.0.0.1:{listener}", f"127.0.0.1:{closed}", f"[::ffff:127.0.0.1]:{listener}"))
    assert f"127.0.0.1:{listener}" in found
    assert f"127.0.0.1:{closed} (it refused)" in found


def test_a_name_that_resolves_is_reached(listener: int) -> None:
    """A name service is a way out, whether or not the address then answers."""
    assert reach((f"localhost:{listener}",)) == (f"localhost:{listener} (its name was resolved)",)


def test_silence_is_not_reached_and_does_not_take_long() -> None:
    """A name that cannot be, an address whose packets are thrown away (RFC 6666): both tries end."""
    assert reach(("name.invalid:80", "[100::1]:9"), timeout_s=0.3) == ()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare (util-linux)")
def test_nothing_is_reached_without_a_network(listener: int) -> None:
    """In an empty network namespace the very same address is silent."""
    address = f"127.0.0.1:{listener}"
    command = gather_command(sys.executable, ProbeOptions(folder="/", addresses=(address, "198.41.0.4:53")))
    environment = {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["unshare", "-Urn", *command], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert read_facts(done.stdout, num_ranks=1).reached == ()
    assert reach((address,)) == (address,)


def fake_python(folder: Path, script: str) -> str:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_torch_says_why_it_sees_no_gpu(tmp_path: Path) -> None:
    """The reason that is usually lost among the warnings."""
    python = fake_python(tmp_path, """echo '[0, "the driver is too old"]'""")
    assert ask_cuda(python) == (0, "the driver is too old")


def test_gpus_are_counted(tmp_path: Path) -> None:
    """With some, there is no reason to give."""
    assert ask_cuda(fake_python(tmp_path, """echo '[4, "torch is built for 13.0"]'""")) == (4, "")


def test_a_torch_that_fails_sees_none(tmp_path: Path) -> None:
    """Its last words are the reason; so is that there is no such Python."""
    count, reason = ask_cuda(fake_python(tmp_path, "echo no such library >&2; exit 1"))
    assert (count, reason) == (0, "torch could not be asked: no such library")
    assert ask_cuda(str(tmp_path / "nowhere"))[0] == 0


@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
def test_the_real_torch_is_asked() -> None:
    """Without a GPU it says at least what it was built for; the question itself is well formed."""
    count, reason = ask_cuda(sys.executable)
    assert count or "torch" in reason


def test_a_folder_that_is_not_there_has_no_room(tmp_path: Path) -> None:
    """None is not zero: it could not be looked at."""
    assert free_bytes(tmp_path / "nowhere") is None
    assert free_bytes(tmp_path)


def test_the_worst_rank_counts() -> None:
    """One node without GPUs, one slow, one that reaches out: the run would be on all of them."""
    merged = read_facts(
        lines(
            ProbeResult(machine="x86_64", num_gpus=4, all_reduce_mb_s=10, free_bytes=5, reached=(), nodes=("a",)),
            ProbeResult(machine="aarch64", num_gpus=0, gpus_reason="no driver", all_reduce_mb_s=9, free_bytes=6,
                  reached=("x:1",), nodes=("b",)),
        ),
        num_ranks=2,
    )  # fmt: skip
    assert merged == ProbeResult(
        machine="aarch64 and x86_64", num_gpus=0, gpus_reason="no driver", all_reduce_mb_s=9, free_bytes=5,
        reached=("x:1",), nodes=("a", "b"),
    )  # fmt: skip


def test_a_rank_that_could_not_look_leaves_it_unknown() -> None:
    """What one rank does not know is not known."""
    merged = read_facts(lines(ProbeResult(free_bytes=5, reached=("a:1",)), ProbeResult()), num_ranks=2)
    assert (merged.free_bytes, merged.reached) == (None, None)


@pytest.mark.parametrize(
    "output", ["", "preflight facts: {}\n" * 3, "preflight facts: {\n" * 2, 'preflight facts: {"x":1}\n' * 2]
)
def test_answers_that_are_not_all_there_are_no_facts(output: str) -> None:
    """A rank that died, or said something else."""
    with pytest.raises(Unavailable) as caught:
        read_facts(output, num_ranks=2)
    assert caught.value.code == "preflight_failed"


def asked(**changes: object) -> RunRequirements:
    return RunRequirements(label=Label(Tier("OFFICIAL", 0, "gb")), **changes)  # type: ignore[arg-type]


def executor() -> LocalExecutor:
    return LocalExecutor(LocalOptions(environment={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]}))


def test_a_survey_is_a_job_like_any_other(tmp_path: Path, laptop: Site) -> None:
    """One rank on this machine; nothing is asked of the network for a run that is not sealed."""
    facts = survey(executor(), asked(is_sealed=False), laptop, folder=tmp_path)
    assert facts.machine == platform.machine()
    assert facts.nodes == (platform.node().split(".")[0],)
    assert facts.free_bytes
    assert facts.reached is None


def test_a_survey_that_fails_is_no_survey(tmp_path: Path, laptop: Site) -> None:
    """Its output says why."""
    with pytest.raises(Unavailable, match="said so") as caught:
        survey(executor(), asked(), laptop, folder=tmp_path,
               python=fake_python(tmp_path, "echo said so; exit 1"))  # fmt: skip
    assert caught.value.code == "preflight_failed"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="no torch")
def test_two_ranks_measure_how_fast_they_add_up(tmp_path: Path, laptop: Site) -> None:
    """A real all-reduce under torchrun; anything between a megabyte and a terabyte a second is a figure."""
    facts = survey(executor(), asked(ranks_per_node=2, is_sealed=False), laptop, folder=tmp_path)
    assert facts.all_reduce_mb_s is not None
    assert 1 < facts.all_reduce_mb_s < 10**6
