"""An island's /proc: its own processes, three facts of the machine, and nothing that can be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.seal.islands import SLEEP, SOURCE, errors_of, options, output

from allod.seal.evidence import describe
from allod.seal.launch import start

OF_THE_MACHINE = ("sys/kernel/core_pattern", "sys/kernel/hostname", "sysrq-trigger", "irq/default_smp_affinity")
OF_ITSELF = ("comm", "task/2/comm", "oom_score_adj", "mem", "coredump_filter", "clear_refs", "uid_map")


def test_it_shows_the_islands_processes_and_no_others(tmp_path: Path) -> None:
    """By their numbers in it: the waiting first, the command, and what the command started."""
    said = output(
        tmp_path,
        "import os, time\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))\n"
        "print(os.readlink('/proc/self'), open('/proc/self/comm').read().strip() in open('/proc/2/status').read())\n",
    )
    assert said.splitlines() == ["[1, 2, 3]", "2 True"]


def test_of_the_machine_it_shows_what_programs_choose_by(tmp_path: Path) -> None:
    """Processors and memory, as they are; every other name is there, as the kernel has it, and empty."""
    said = output(
        tmp_path,
        "import os\n"
        "for name in sorted(os.listdir('/proc')):\n"
        "    path = '/proc/' + name\n"
        "    if name.isdigit() or os.path.islink(path): continue\n"
        "    if os.listdir(path) if os.path.isdir(path) else open(path).read(): print(name)\n"
        "print(open('/proc/meminfo').read(9))",
    )
    assert said.split() == ["cpuinfo", "meminfo", "stat", "MemTotal:"]


@pytest.mark.parametrize("omit", [(), ("landlock",)])
def test_nothing_in_it_can_be_written(tmp_path: Path, omit: tuple[str, ...]) -> None:
    """Not the machine's settings, which root could set by the user's number alone, nor what others read of it. The
    mounts see to it, whatever Landlock says."""
    paths = [f"/proc/{path}" for path in OF_THE_MACHINE] + [f"/proc/self/{path}" for path in OF_ITSELF]
    attempts = (f"os.open({path!r}, os.O_WRONLY)" for path in paths)
    said = errors_of(tmp_path, *attempts, unsafe_omit=omit, accepts_omitted=True)
    assert set(said[: len(OF_THE_MACHINE)]) <= {"ENOENT", "EROFS"}
    assert set(said[len(OF_THE_MACHINE) :]) <= {"EROFS", "EACCES"}


def test_the_first_process_cannot_be_looked_into(tmp_path: Path) -> None:
    """Its root, its pipe to the keeper and its memory are not for its kin: only the command and its children are."""
    paths = ("root", "cwd", "exe", "fd/0", "ns/net")
    said = errors_of(
        tmp_path,
        *(f"os.readlink('/proc/1/{path}')" for path in paths),
        "open('/proc/1/mem', 'rb')",
        "open('/proc/1/environ', 'rb').read()",
        "os.readlink('/proc/2/root')",
    )
    assert [error for error in said[:-1] if error not in ("EACCES", "EPERM")] == []
    assert said[-1] == "done"


def test_a_root_in_it_is_the_islands(tmp_path: Path) -> None:
    """A path through it leads to what was granted, and to nothing of the root that was left."""
    (tmp_path / "secret").write_text("s")
    said = errors_of(
        tmp_path,
        "assert os.path.samefile('/proc/self/root', '/')",
        f"os.stat('/proc/self/root{tmp_path / 'secret'}')",
        f"os.stat('/proc/1/root{tmp_path / 'secret'}')",
        f"os.stat('/proc/self/root{tmp_path / 'output'}')",
    )
    assert said == ["done", "ENOENT", "EACCES", "done"]


def test_memory_is_no_way_to_execute_what_was_not_granted(tmp_path: Path) -> None:
    """Landlock lets a file that has only a descriptor be executed, by its name in /proc: there are none."""
    program = "/dev/shm/program"
    copy = f"Path({program!r}).write_bytes(Path(sys.executable).read_bytes()); os.chmod({program!r}, 0o700)"
    opened = f"fd = os.open({program!r}, os.O_RDONLY)"
    nothing = "['-S', '-c', 'pass']"
    said = errors_of(
        tmp_path,
        "os.memfd_create('program')",
        "os.memfd_create('program', 8)",  # MFD_NOEXEC_SEAL
        copy,
        f"subprocess.run([{program!r}, *{nothing}], check=True)",
        f"{opened}; subprocess.run([f'/proc/self/fd/{{fd}}', *{nothing}], check=True, pass_fds=(fd,))",
        f"{opened}; os.execve(fd, {nothing}, {{}})",
        f"subprocess.run(['/proc/self/exe', *{nothing}], check=True)",
    )
    assert said == ["ENOSYS", "ENOSYS", "done", "EACCES", "EACCES", "EPERM", "done"]


def test_one_that_is_left_out_is_owned_up_to(tmp_path: Path) -> None:
    """The walls stand all the same, and of the processors there is a copy; but its kind says what is missing."""
    code = "import os; print(os.path.exists('/proc/self'), len(open('/proc/cpuinfo').read()) > 0)"
    assert output(tmp_path, code, unsafe_omit=("proc",), unsafe_no_seal=True) == "False True"
    process = start(options(tmp_path, SLEEP, unsafe_omit=("proc",), unsafe_no_seal=True))
    try:
        assert process.kind == "partial:no-proc"
        assert [row["name"] for row in describe(process.evidence()) if not row["ok"]] == ["Seal"]
    finally:
        process.terminate()


def test_a_machine_whose_own_is_masked_is_found_out(tmp_path: Path) -> None:
    """As in most containers, where the kernel gives no other: refused, with the reason and a hint."""
    launcher = (
        "import sys; from pathlib import Path; from allod.core.errors import *; from allod.seal.launch import *\n"
        "from allod.seal.walls import kernel\n"
        "kernel.unshare(0x20000); kernel.mount(None, '/', flags=0x44000)\n"
        "kernel.mount('/dev/null', '/proc/kmsg', flags=0x1000)\n"
        f"o = dict(command=(sys.executable, '-S', '-c', {SLEEP!r}), profile='island', read_paths=python_read_paths())\n"
        "try: start(SealOptions(**o))\n"
        "except Unavailable as e: print(e.code, 'proc: ' in e.message, 'unmask' in e.hint)\n"
        "p = start(SealOptions(**o, unsafe_no_seal=True)); print(p.kind); p.terminate()"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", launcher]
    done = subprocess.run(command, env={"PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["seal_incomplete True True", "partial:no-proc"], done.stderr
