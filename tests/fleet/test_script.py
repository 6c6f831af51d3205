"""The batch script: a pure function of job and site, in which no word becomes anything but itself."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.fleet.jobs import Job, ranks_command
from allod.fleet.script import render
from allod.fleet.site import Container, Site

GOLDEN = Path(__file__).with_name("isambard-ai.sbatch")
HERE = Site(name="here", source="x", scheduler="slurm", jurisdiction="GB")
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def job(**changes: object) -> Job:
    parts = {"name": "pretrain", "command": ("train", "it's"), "folder": Path("/runs/my run"), "python": "/opt/python"}
    return Job(**{**parts, **changes})  # type: ignore[arg-type]


def test_the_script_for_isambard_is_as_it_was_looked_at(isambard: Site) -> None:
    """A change of one letter in what goes to a supercomputer is seen by a person first."""
    script = render(
        job(nodes=2, ranks_per_node=4, walltime_s=7200, environment={"OMP_NUM_THREADS": "72"}),
        isambard,
        excluded=("nid001001", "nid000007"),
    )
    assert script == GOLDEN.read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_bash_reads_the_script(isambard: Site, ranks: int) -> None:
    """It is bash, whatever else it is."""
    script = render(job(ranks_per_node=ranks), isambard)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)


def run_with_a_stub(script: str, folder: Path) -> list[str]:
    """Run it with an `srun` that writes down its words; what those were."""
    stub = "srun() { printf '%s\\0' \"$@\" > words; }\nscontrol() { echo NodeName=n NodeAddr=127.0.0.1 x; }\n"
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"}
    subprocess.run(["bash"], input=(stub + script).encode(), check=True, timeout=10, cwd=folder, env=environment)
    return (folder / "words").read_bytes().decode().split("\0")[:-1]


@settings(max_examples=60)
@given(words=st.lists(WORDS, min_size=1, max_size=4).filter(lambda words: words[0] != ""), value=WORDS)
def test_every_word_arrives_as_it_was(tmp_path_factory: pytest.TempPathFactory, words: list[str], value: str) -> None:
    """No quote, dollar, newline or semicolon in a command or a variable is read by the shell."""
    script = render(job(command=tuple(words), environment={"V": value}), HERE)
    arrived = run_with_a_stub(script, tmp_path_factory.mktemp("run"))
    assert arrived[-len(words) :] == words


def test_a_variable_arrives_as_it_was(tmp_path: Path) -> None:
    """Exports are quoted, too."""
    value = "a'b\"$(touch sin)`touch sin`\nc"
    script = render(job(environment={"V": value}), HERE).replace("step=\n", "trap 'printf %s \"$V\" > v' EXIT\nstep=\n")
    run_with_a_stub(script, tmp_path)
    assert (tmp_path / "v").read_text() == value
    assert not (tmp_path / "sin").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x\n#SBATCH --uid=0"},
        {"name": "x --uid=0"},
        {"name": "-x"},
        {"name": ""},
        {"folder": Path("/a\nb")},
        {"folder": Path('/a"b')},
        {"folder": Path("/a%jb")},
        {"folder": Path("relative")},
        {"command": ()},
        {"command": ("",)},
        {"command": ("a\0b",)},
        {"environment": {"A=B": "x"}},
        {"environment": {"A": "x\0"}},
        {"nodes": 0},
        {"ranks_per_node": 0},
        {"walltime_s": -1},
    ],
)
def test_what_cannot_be_said_to_a_scheduler_is_no_job(changes: dict[str, object]) -> None:
    """Option lines have no quoting worth the name, so their words are checked instead."""
    with pytest.raises(Invalid) as caught:
        job(**changes)
    assert caught.value.code == "job_malformed"


def test_without_a_walltime_the_sites_limit_is_asked_for() -> None:
    """And minutes are rounded up: a job is never given less than it asked for."""
    assert "#SBATCH --time=2\n" in render(job(walltime_s=61), HERE)
    assert "#SBATCH --time=1440\n" in render(job(), replace(HERE, walltime_s=86_400))
    assert "--time" not in render(job(), HERE)


def test_no_more_gpus_are_asked_for_than_there_are_ranks(isambard: Site) -> None:
    """One rank a GPU; none where the site has none."""
    assert "#SBATCH --gpus-per-node=1\n" in render(job(), isambard)
    assert "#SBATCH --gpus-per-node=4\n" in render(job(ranks_per_node=8), isambard)
    assert "--gpus" not in render(job(), HERE)


def test_one_rank_needs_no_torchrun() -> None:
    """The command is run as it is."""
    assert ranks_command(job(command=("a", "b")), "--standalone") == ("a", "b")
    assert "allod.fleet.ranks" not in render(job(), HERE)
    assert "allod.fleet.ranks" in render(job(nodes=2), HERE)


def test_two_ranks_of_this_machine_are_started_by_torchrun() -> None:
    """With a rendezvous of its own."""
    assert ranks_command(job(ranks_per_node=2, command=("a", "--nnodes=9")), "--standalone") == (
        *("/opt/python", "-m", "allod.fleet.ranks", "--nnodes=1", "--nproc-per-node=2"),
        *("--standalone", "--no-python", "a", "--nnodes=9"),
    )


def test_a_container_is_around_the_ranks_and_has_their_variables(tmp_path: Path) -> None:
    """podman-hpc passes no variable by itself; apptainer passes all."""
    environment = {"V": "1"}
    podman = replace(HERE, container=Container("podman-hpc", "image:1", ("/data", "/a:/b")))
    assert run_with_a_stub(render(job(environment=environment), podman), tmp_path)[6:] == [
        *("podman-hpc", "run", "--rm", "--gpu", "--net=host", "--env=V"),
        *("--volume=/data:/data", "--volume=/a:/b", "image:1", "train", "it's"),
    ]
    apptainer = replace(HERE, container=Container("apptainer", "image.sif", ("/data",)))
    assert run_with_a_stub(render(job(environment=environment), apptainer), tmp_path)[6:] == [
        *("apptainer", "exec", "--nv", "--bind=/data", "image.sif", "train", "it's"),
    ]
    ranks = run_with_a_stub(render(job(nodes=2), podman), tmp_path)
    assert "--env=PET_RDZV_ENDPOINT" in ranks
