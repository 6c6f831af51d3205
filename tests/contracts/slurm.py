"""A real Slurm of the tests' own: a controller and two nodes on loopback, in a directory of their own.

It installs nothing. Both nodes are this machine under other names and ports; each pretends to have two processors, so
that a busy machine of one core will do as well. Pre-emption is as on a real cluster: a job of the partition `urgent`
takes the nodes from one of `workq`, which is warned first and queued again.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("north", "south")
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_MISSING = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
WHY_NOT = f"Slurm (apt-get install slurm-wlm munge): no {', '.join(_MISSING)}" if _MISSING else ""

_CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,preempt_youngest_first
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
FirstJobId={first_job}
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
GresTypes=gpu
{nodes}
PartitionName=workq Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=9 PreemptMode=OFF
"""


class Cluster:
    """One running cluster. `environment` leads Slurm's clients to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "PATH": _PATH,
            "LC_ALL": "C",
            "HOME": str(directory),
            "SLURM_CONF": str(directory / "slurm.conf"),
        }

    def run(self, *command: str, timeout_s: float = 30) -> str:
        """What one of Slurm's clients prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def wait_for(self, job: str, *states: str, timeout_s: float = 120) -> str:
        """Return the job's state once it is one of `states`."""
        for _ in range(int(timeout_s / 0.25)):
            state = self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
            if state in states:
                return state
            time.sleep(0.25)
        raise AssertionError(f"job {job} is {state}, not {states}\n{self.logs()}")

    def logs(self) -> str:
        """The ends of what the daemons wrote."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.directory.glob("*.[lo][ou][gt]"))
        )


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _configure(directory: Path, grace_s: int) -> None:
    host = socket.gethostname().split(".")[0]
    controller_port, *ports = _free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000 Gres=gpu:2"
        for node, port in zip(NODES, ports, strict=True)
    ]
    (directory / "slurm.conf").write_text(
        _CONFIGURATION.format(
            host=host,
            controller_port=controller_port,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            directory=directory,
            first_job=1000 + secrets.randbelow(1_000_000),
            nodes="\n".join(nodes),
            grace_s=grace_s,
        )
    )
    # A "GPU" must be a character device; nothing opens it.
    (directory / "gres.conf").write_text(
        "".join(f"NodeName={node} Name=gpu File=/dev/{file}\n" for node in NODES for file in ("null", "zero"))
    )


@contextmanager
def _started(cluster: Cluster, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in the foreground; ended by its own process id."""
    name = Path(command[0]).name
    with (cluster.directory / f"{name}.out").open("ab") as out:
        process = subprocess.Popen(
            [*map(str, command)], env=cluster.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _munge(directory: Path) -> list[str | Path]:
    """An instance of its own, with a key of its own: the machine's, if there is one, is left alone."""
    home = directory / "munge"
    home.mkdir(mode=0o700)
    key = home / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    files = {"key-file": key, "pid-file": home / "pid", "log-file": home / "log", "seed-file": home / "seed"}
    options = [f"--{name}={path}" for name, path in files.items()]
    return ["munged", "--foreground", "--force", f"--socket={directory}/munge.socket", *options]


@contextmanager
def running_slurm(*, grace_s: int = 60) -> Iterator[Cluster]:
    """A cluster whose nodes are idle. `grace_s`: how long a pre-empted job may take to save its state."""
    with tempfile.TemporaryDirectory(prefix="allod-slurm-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "state").mkdir()
        for node in NODES:
            (directory / f"spool-{node}").mkdir()
        _configure(directory, grace_s)
        cluster = Cluster(directory)
        stack.enter_context(_started(cluster, *_munge(directory)))
        _wait_until(lambda: (directory / "munge.socket").exists(), cluster)
        stack.enter_context(_started(cluster, "slurmctld", "-D", "-i"))
        for node in NODES:
            stack.enter_context(_started(cluster, "slurmd", "-D", "-N", node))
        _wait_until(lambda: _are_idle(cluster), cluster)
        stack.callback(_cancel_all, cluster)
        yield cluster


def _are_idle(cluster: Cluster) -> bool:
    done = subprocess.run(
        ["timeout", "10", "sinfo", "--noheader", "--Node", "--partition=workq", "--format=%T"],
        env=cluster.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split() == ["idle"] * len(NODES)


def _cancel_all(cluster: Cluster) -> None:
    """Jobs are the nodes' children and would outlive them."""
    subprocess.run(
        ["timeout", "20", "scancel", "--full", "--signal=KILL", "--user", pwd.getpwuid(os.geteuid()).pw_name],
        env=cluster.environment, capture_output=True, check=False,
    )  # fmt: skip
    _wait_until(lambda: not cluster.run("squeue", "--noheader"), cluster)


def _wait_until(is_so: object, cluster: Cluster, timeout_s: float = 15) -> None:
    assert callable(is_so)
    for _ in range(int(timeout_s / 0.2)):
        if is_so():
            return
        time.sleep(0.2)
    raise RuntimeError(f"Slurm did not come up or calm down\n{cluster.logs()}")
