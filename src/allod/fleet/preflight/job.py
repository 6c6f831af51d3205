"""The preflight as a job: facts are gathered by the executor that will run the run, on nodes such as it will get."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from allod.core.errors import Unavailable
from allod.fleet.executor import Executor
from allod.fleet.jobs import OUTPUT_FILE, Job, State
from allod.fleet.preflight.checks import ProbeResult, RunRequirements
from allod.fleet.preflight.probe import ProbeOptions, gather_command, read_facts
from allod.fleet.site import Site

WALLTIME_S = 900


def questions_of(asked: RunRequirements, site: Site, folder: Path) -> ProbeOptions:
    """What must be looked at for this run at this site."""
    return ProbeOptions(
        folder=site.scratch or str(folder),
        gpus=asked.needs_gpus,
        all_reduce=asked.nodes * asked.ranks_per_node > 1,
        addresses=site.unreachable if asked.is_sealed else None,
    )


def survey(
    executor: Executor,
    asked: RunRequirements,
    site: Site,
    *,
    folder: Path,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> ProbeResult:
    """Run the job in the empty `folder` and read what its ranks found. `prefix` is a command: it enters the run's seal.

    Raises Unavailable (`preflight_failed`) if it does not end well.
    """
    job = Job(
        name="preflight",
        command=(*prefix, *gather_command(python, questions_of(asked, site, folder))),
        folder=folder,
        nodes=asked.nodes,
        ranks_per_node=asked.ranks_per_node,
        environment=environment or {},
        walltime_s=WALLTIME_S,
        python=python,
    )
    status = executor.wait(executor.submit(job), lambda _: None)
    try:
        output = (folder / OUTPUT_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        output = ""
    if status.state is not State.DONE:
        why = f"{status.state.value} ({status.reason or status.exit_status})"
        raise Unavailable(f"the preflight's job: {why}: {output[-500:].strip()}", code="preflight_failed")
    return read_facts(output, num_ranks=job.num_ranks)
