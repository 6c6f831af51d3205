"""The batch script for Slurm: a pure function of a job and a site.

The script starts one step: on each node a process that starts that node's ranks. Two minutes before the time is over,
or when the nodes are wanted for something else, Slurm sends SIGUSR1 to the script, which passes it on; ranks that
saved and ended with status 75 have the job queued again. Every word that is not ours is quoted by `shlex`.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from allod.fleet.jobs import INTERRUPTED_STATUS, OUTPUT_FILE, Job, ranks_command
from allod.fleet.site import Container, Site

WARNING_S = 120  # between SIGUSR1 and the end of the walltime
OTHERS_END_S = WARNING_S  # after a step's first task ended, the others have so long: all have saved, or one has died

_RENDEZVOUS_VARIABLES = ("PET_RDZV_BACKEND", "PET_RDZV_ENDPOINT", "PET_RDZV_ID")  # torchrun reads them

_RENDEZVOUS = """\
# Where the ranks find each other: the first node, under the address by which Slurm itself reaches it.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(scontrol show node "$first" --oneliner | sed -n 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/p')
export PET_RDZV_BACKEND=c10d
export PET_RDZV_ENDPOINT="$address:$((20000 + SLURM_JOB_ID % 10000))"
export PET_RDZV_ID="$SLURM_JOB_ID"

"""

_WAIT = f"""\
step=$!

# A wait that the signal broke off is taken up again; the step's own status is what counts.
warned=yes
while [ -n "$warned" ]; do
    warned=
    status=0
    wait "$step" || status=$?
done

if [ "$status" -eq {INTERRUPTED_STATUS} ]; then
    echo "interrupted, and saved: queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def render(job: Job, site: Site, *, excluded: Collection[str] = ()) -> str:
    """The script. `excluded` are the nodes that the site's profile excludes today.

    Raises nothing: Job and Site have checked every word that stands in an option line.
    """
    parts = [
        "#!/bin/bash -l\n",  # a login shell: `module` is a function of its profile
        *(f"#SBATCH {option}\n" for option in _options(job, site, excluded)),
        "\nset -euo pipefail\n",
        '\nstep=\nwarned=\ntrap \'warned=yes; [ -z "$step" ] || kill -USR1 "$step"\' USR1\n\n',
        *(f"module load {shlex.quote(module)}\n" for module in site.modules),
        *(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(_environment(job, site).items())),
        "\n",
        _RENDEZVOUS if job.num_ranks > 1 else "",
        _step(job, site),
        _WAIT,
    ]
    return "".join(parts)


def _options(job: Job, site: Site, excluded: Collection[str]) -> list[str]:
    walltime_s = job.walltime_s or site.walltime_s
    options = {
        "--job-name": job.name,
        "--partition": site.partition,
        "--account": site.account,
        "--nodes": str(job.nodes),
        "--ntasks": str(job.nodes),
        "--ntasks-per-node": "1",
        "--cpus-per-task": str(_cpus(job, site)),
        "--gpus-per-node": str(min(job.ranks_per_node, site.gpus_per_node) or ""),
        "--time": _minutes(walltime_s) if walltime_s else "",
        "--exclude": ",".join(sorted(excluded)),
        "--chdir": f'"{job.folder}"',
        "--output": OUTPUT_FILE,
        "--open-mode": "append",
        "--signal": f"B:USR1@{WARNING_S}",
        "--export": "NONE",  # nothing of the submitter's environment: a run depends on what is written here
    }
    return [f"{name}={value}" for name, value in options.items() if value] + ["--requeue"]


def _minutes(seconds: int) -> str:
    """Slurm counts walltime in minutes: a part of one is a whole one."""
    return str(-(-seconds // 60))


def _cpus(job: Job, site: Site) -> int:
    return site.cpus_per_rank * job.ranks_per_node


def _environment(job: Job, site: Site) -> dict[str, str]:
    return {**site.environment, **job.environment}


def _step(job: Job, site: Site) -> str:
    variables = sorted([*_environment(job, site), *(_RENDEZVOUS_VARIABLES if job.num_ranks > 1 else ())])
    command = [
        "srun", f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1",
        f"--cpus-per-task={_cpus(job, site)}", "--export=ALL", f"--wait={OTHERS_END_S}",
        *_inside(site.container, variables), *ranks_command(job),
    ]  # fmt: skip
    return " \\\n    ".join(map(shlex.quote, command)) + " &\n"


def _inside(container: Container | None, variables: Sequence[str]) -> list[str]:
    """What makes a command run in the container, put before it, with the network, GPUs and variables of outside."""
    if container is None:
        return []
    if container.command == "apptainer":
        return ["apptainer", "exec", "--nv", *(f"--bind={bind}" for bind in container.binds), container.image]
    return [
        "podman-hpc", "run", "--rm", "--gpu", "--net=host",
        *(f"--env={name}" for name in variables), *(f"--volume={_both_sides(bind)}" for bind in container.binds),
        container.image,
    ]  # fmt: skip


def _both_sides(bind: str) -> str:
    return bind if ":" in bind else f"{bind}:{bind}"
