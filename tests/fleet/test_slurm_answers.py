"""What the Slurm executor makes of its clients' answers: late, lost, strange, or none. The clients are stand-ins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import pytest

from allod.core.errors import Invalid, Unavailable
from allod.fleet.executors import slurm
from allod.fleet.executors.slurm import SCRIPT_FILE, SlurmExecutor, SlurmOptions, read_status
from allod.fleet.jobs import Job, JobStatus, State
from allod.fleet.site import Exclusion, Site

LOST = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now_s: float = 0.0
    slept_s: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@dataclass
class Clients:
    """Stand-ins for Slurm's commands, in a folder of their own; each writes down how it was called."""

    folder: Path
    clock: Clock = field(default_factory=Clock)

    def make(self, name: str, script: str) -> None:
        file = self.folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.folder}/calls"\n{script}\n')
        file.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        file = self.folder / "calls"
        return [line for line in file.read_text().splitlines() if line.startswith(f"{name} ")] if file.exists() else []

    def executor(self, site: Site, **options: float) -> SlurmExecutor:
        said = SlurmOptions(environment={"PATH": f"{self.folder}:/usr/bin:/bin"}, **options)  # type: ignore[arg-type]
        return SlurmExecutor(site, said, clock=lambda: self.clock.now_s, sleep=self.clock.sleep)


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    folder = tmp_path / "clients"
    folder.mkdir()
    made = Clients(folder)
    made.make("sbatch", "echo '7;cluster'")
    made.make("squeue", "echo '7|RUNNING|None|0|0|'")
    made.make("scancel", "")
    return made


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(name="x", command=("true",), folder=tmp_path)


def test_a_clusters_name_is_no_part_of_the_id(clients: Clients, job: Job, loopback: Site) -> None:
    """Federated sites append it; and what was submitted lies in the folder for people to read."""
    assert clients.executor(loopback).submit(job) == "7"
    assert clients.calls("sbatch") == [f"sbatch --parsable {job.folder / SCRIPT_FILE}"]
    assert (job.folder / SCRIPT_FILE).read_text().startswith("#!/bin/bash")


def test_the_queue_is_asked_no_more_often_than_the_site_allows(clients: Clients, job: Job, isambard: Site) -> None:
    """A hundred questions in a hundred seconds are two to the queue; several jobs share one."""
    executor = clients.executor(isambard)
    id = executor.submit(job)
    for _ in range(100):
        executor.state(id)
        clients.clock.now_s += 1
    assert len(clients.calls("squeue")) == 2


def test_a_new_question_waits_its_turn(clients: Clients, isambard: Site) -> None:
    """One about a job that is not known yet must be asked, and yet not before the minute is over."""
    eight = "echo '8|PENDING|Priority|0|0|'"
    clients.make("squeue", f"echo '7|RUNNING|None|0|0|'; case $* in *=7,8*) {eight};; esac")
    executor = clients.executor(isambard)
    executor.state("7")
    assert executor.state("8") == JobStatus(State.PENDING, reason="Priority")
    assert clients.clock.now_s >= isambard.poll_s
    assert len(clients.calls("squeue")) == 2


def test_waiting_sleeps_between_questions(clients: Clients, job: Job, isambard: Site) -> None:
    """As long as the site says."""
    done = clients.folder / "done"
    clients.make(
        "squeue", f"test -e {done} && echo '7|COMPLETED|None|0|2|' || echo '7|RUNNING|None|0|0|'; touch {done}"
    )
    executor = clients.executor(isambard)
    final = executor.wait(executor.submit(job), lambda _: None)
    assert final == JobStatus(State.DONE, 0, restarts=2)
    assert all(seconds >= isambard.poll_s for seconds in clients.clock.slept_s if seconds)


def test_a_missing_client_is_said(clients: Clients, job: Job, loopback: Site) -> None:
    """On a machine that is no login node, or on one where they lead nowhere."""
    nowhere = SlurmExecutor(loopback, SlurmOptions(environment={"PATH": "/nowhere"}))
    clients.make("squeue", "echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1")
    lost = clients.executor(loopback)
    for call in (lambda: nowhere.submit(job), lambda: nowhere.state("7"), lambda: lost.state("7")):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "slurm_missing"


def test_a_controller_that_is_away_is_asked_again_and_not_for_ever(clients: Clients, loopback: Site) -> None:
    """Controllers are restarted; five tries, with pauses, and then a clear error."""
    clients.make("squeue", LOST)
    with pytest.raises(Unavailable) as caught:
        clients.executor(loopback, num_tries=5, retry_s=3).state("7")
    assert caught.value.code == "slurm_unreachable"
    assert caught.value.retry_after_s
    assert len(clients.calls("squeue")) == 5
    assert clients.clock.slept_s == [0.0, 3, 3, 3, 3]


def test_a_controller_that_comes_back_is_heard(clients: Clients, loopback: Site) -> None:
    """The caller does not notice."""
    back = clients.folder / "back"
    clients.make("squeue", f"test -e {back} && echo '7|RUNNING|None|0|0|' && exit 0; touch {back}; {LOST}")
    assert clients.executor(loopback).state("7").state is State.RUNNING


def test_a_lost_submission_is_not_made_twice(clients: Clients, job: Job, loopback: Site) -> None:
    """The job may be there already: a person looks."""
    clients.make("sbatch", LOST)
    with pytest.raises(Unavailable) as caught:
        clients.executor(loopback).submit(job)
    assert caught.value.code == "slurm_unreachable"
    assert len(clients.calls("sbatch")) == 1


def test_a_client_that_hangs_is_left(clients: Clients, loopback: Site) -> None:
    """No call lasts longer than its bound."""
    clients.make("squeue", "exec sleep 60")
    with pytest.raises(Unavailable) as caught:
        clients.executor(loopback, timeout_s=0.2, num_tries=2).state("7")
    assert caught.value.code == "slurm_unreachable"


def test_a_refusal_comes_in_slurms_own_words(clients: Clients, job: Job, loopback: Site) -> None:
    """No such account, too many nodes: nothing that waiting would change."""
    clients.make("sbatch", "echo 'sbatch: error: Invalid account or account/partition combination' >&2; exit 1")
    with pytest.raises(Invalid, match="Invalid account") as caught:
        clients.executor(loopback).submit(job)
    assert caught.value.code == "job_refused"


def test_a_job_that_slurm_has_forgotten_is_unknown(clients: Clients, job: Job, loopback: Site) -> None:
    """It forgets them some minutes after their end: to say "done" would be a guess."""
    executor = clients.executor(loopback)
    id = executor.submit(job)
    for script in ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", ""):
        clients.make("squeue", script)
        clients.clock.now_s += 100
        with pytest.raises(Invalid) as caught:
            executor.state(id)
        assert caught.value.code == "job_unknown"


def test_an_answer_that_is_none_is_said(clients: Clients, loopback: Site) -> None:
    """A wrapper's greeting, another version's columns: not taken for a job."""
    clients.make("squeue", "echo 'Welcome!'")
    with pytest.raises(Unavailable) as caught:
        clients.executor(loopback).state("7")
    assert caught.value.code == "slurm_failed"


def test_an_excluded_node_comes_into_the_script_on_its_days(clients: Clients, job: Job, loopback: Site) -> None:
    """The executor asks the calendar when it submits."""
    site = replace(loopback, exclusions=(Exclusion("north", "slow", date(2026, 11, 30)),))
    scripts = []
    for today in (date(2026, 11, 30), date(2026, 12, 1)):
        options = SlurmOptions(environment={"PATH": f"{clients.folder}:/usr/bin:/bin"})
        SlurmExecutor(site, options, today=lambda today=today: today).submit(job)  # type: ignore[misc]
        scripts.append((job.folder / SCRIPT_FILE).read_text())
    assert ["--exclude=north" in script for script in scripts] == [True, False]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("PENDING", "Priority", "0", "0"), JobStatus(State.PENDING, reason="Priority")),
        (("REQUEUED", "None", "0", "3"), JobStatus(State.PENDING, restarts=3)),
        (("COMPLETING", "None", "768", "0"), JobStatus(State.RUNNING)),
        (("COMPLETED", "None", "0", "1"), JobStatus(State.DONE, 0, restarts=1)),
        (("FAILED", "NonZeroExitCode", "768", "0"), JobStatus(State.FAILED, 3, "NonZeroExitCode")),
        (("FAILED", "None", "9", "0"), JobStatus(State.FAILED, -9)),
        (("FAILED", "NonZeroExitCode", str(75 << 8), "0"), JobStatus(State.INTERRUPTED, 75, "interrupted, and saved")),
        (("TIMEOUT", "TimeLimit", "0", "0"), JobStatus(State.FAILED, reason="TimeLimit")),
        (("NODE_FAIL", "None", "0", "0"), JobStatus(State.FAILED, reason="NODE_FAIL")),
        (("CANCELLED", "None", "15", "0"), JobStatus(State.CANCELLED)),
        (("SOMETHING_NEW", "None", "0", ""), JobStatus(State.RUNNING)),
    ],
)
def test_slurms_words_are_read(words: tuple[str, str, str, str], status: JobStatus) -> None:
    """A job is over only when Slurm says so, in a word that is known."""
    state, reason, exit_code, restarts = words
    assert read_status(state, reason, exit_code=exit_code, restarts=restarts) == status


def test_no_two_words_for_a_state_are_the_same() -> None:
    """A state stands in one list only."""
    assert not slurm._PENDING & slurm._FAILED
