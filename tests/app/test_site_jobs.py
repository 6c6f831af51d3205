"""A stage as a job: believed only if it ended well, sealed but for what was left out on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from allod.app.training.site_jobs import Machines, SiteJobs, _Follower
from allod.core.errors import AllodError, Unavailable
from allod.fleet.executor import Report
from allod.fleet.jobs import OUTPUT_FILE, Job, JobStatus, State
from allod.fleet.site import Site

FACTS = json.dumps({"facts": {"loss": 1}, "max_rss": 1}) + "\n"


class Planted:
    """A scheduler whose one job prints `output` and ends as `status`."""

    def __init__(self, output: str, status: JobStatus) -> None:
        self.output, self.status = output, status
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> str:
        self.jobs.append(job)
        (job.folder / OUTPUT_FILE).write_text(self.output)
        return "1"

    def state(self, id: str) -> JobStatus:
        return self.status

    def cancel(self, id: str) -> None: ...

    def wait(self, id: str, report: Report) -> JobStatus:
        return self.status


def jobs_of(tmp_path: Path, planted: Planted, *, ranks: int = 1) -> SiteJobs:
    site = Site(name="s", source="tried", scheduler="local", jurisdiction="GB")
    jobs = SiteJobs(
        Machines(site=site, ranks=ranks), tmp_path / "jobs", report=lambda *_: None, should_stop=lambda: False
    )
    jobs._executor = planted
    return jobs


def run(tmp_path: Path, planted: Planted, *, ranks: int = 1) -> str:
    """The seal's kind of what came of it."""
    output = tmp_path / ".partial-pretrain-1a2b"
    output.mkdir(exist_ok=True)
    return jobs_of(tmp_path, planted, ranks=ranks).run("pretrain", {}, read_paths=(), write_path=output).seal_kind


def test_a_job_that_ended_well_counts(tmp_path: Path) -> None:
    """With what its first rank said."""
    assert run(tmp_path, Planted("noise\n" + FACTS, JobStatus(State.DONE, 0))) == "island"


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.INTERRUPTED])
def test_facts_of_a_job_that_failed_are_not_believed(tmp_path: Path, state: State) -> None:
    """One rank may have said that all is well before another died, or was killed for memory."""
    with pytest.raises(AllodError):
        run(tmp_path, Planted(FACTS, JobStatus(state, 1)))


def test_several_ranks_go_without_the_namespace_and_without_nothing_else(tmp_path: Path) -> None:
    """A node without Landlock refuses to run them: the manifest would say otherwise."""
    planted = Planted(FACTS, JobStatus(State.DONE, 0))
    assert run(tmp_path, planted, ranks=2) == "partial:no-namespaces"
    (job,) = planted.jobs
    assert "--unsafe-omit=namespaces" in job.command
    assert "--accept-omitted" in job.command
    assert "--unsafe-no-seal" not in job.command


def test_what_runs_before_the_seal_keeps_its_files_from_the_sealed(tmp_path: Path) -> None:
    """The folder for temporary files outside is none that a sealed process may write."""
    planted = Planted(FACTS, JobStatus(State.DONE, 0))
    run(tmp_path, planted)
    (job,) = planted.jobs
    writable = {word.partition("=")[2] for word in job.command if word.startswith(("--write=", "--scratch="))}
    outside = Path(job.environment["TMPDIR"])
    assert not any(outside.is_relative_to(folder) for folder in writable)


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    """Whatever a job prints goes by; the messages after it are heard."""
    (tmp_path / "out").write_text("x" * (8 << 20) + "\n" + FACTS)
    follower = _Follower(tmp_path / "out", lambda *_: None)
    follower.look()
    assert follower.facts == {"loss": 1}
    assert len(follower._rest) == 0
    (tmp_path / "out").write_text("x" * (8 << 20))
    follower = _Follower(tmp_path / "out", lambda *_: None)
    follower.look()
    assert len(follower._rest) <= 1 << 20


def test_a_job_that_said_nothing_died(tmp_path: Path) -> None:
    """And where its words are is said."""
    with pytest.raises(Unavailable) as caught:
        run(tmp_path, Planted("", JobStatus(State.DONE, 0)))
    assert caught.value.code == "stage_died"
