"""The island: a group of processes that reach one another and nothing else, and end together."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from secrets import token_hex

import pytest
from tests.seal.islands import SLEEP, SOURCE, errors_of, options, output

from allod.core.errors import Invalid, Unavailable
from allod.seal.evidence import describe, proof_of
from allod.seal.launch import SealedProcess, SealOptions, start

FAMILY = """
import os, subprocess, sys, time
for again in (True, False):
    subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)', sys.argv[1]], start_new_session=again)
print('born', flush=True)
time.sleep(float(sys.argv[2]))
"""


def running(token: str) -> list[int]:
    """Processes of this machine that have `token` among their words."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def born(tmp_path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (tmp_path / "log").exists() or "born" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_kernel_says_that_it_is_an_island(tmp_path: Path) -> None:
    """Namespaces of its own, PID and mount among them, loopback and no route that leaves it."""
    process = start(options(tmp_path, SLEEP))
    try:
        found = process.evidence()
        assert process.kind == "island"
        assert [row["name"] for row in describe(found) if not row["ok"]] == []
        assert {"Namespace: pid", "Namespace: mnt"} <= {row["name"] for row in describe(found)}
        assert proof_of(found) == proof_of(process.at_start)
    finally:
        process.terminate()


def test_its_processes_reach_one_another_by_loopback(tmp_path: Path) -> None:
    """Ranks of a run meet at localhost, whatever the machine is called."""
    code = (
        "import os, socket\n"
        "server = socket.create_server(('localhost', 0))\n"
        "if os.fork() == 0:\n"
        "    socket.create_connection(server.getsockname()[:2]).sendall(b'met'); os._exit(0)\n"
        "print(server.accept()[0].recv(3).decode(), socket.gethostname())"
    )
    assert output(tmp_path, code) == "met localhost"


def test_the_machines_loopback_is_not_its_own(tmp_path: Path) -> None:
    """What listens at 127.0.0.1 outside, a gateway among others, is not there inside."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert errors_of(tmp_path, f"socket.create_connection({server.getsockname()})") == ["ECONNREFUSED"]


def test_it_sees_and_signals_no_process_but_its_own(tmp_path: Path) -> None:
    """Its numbers begin anew; ours mean nothing there."""
    me = os.getpid()
    said = output(
        tmp_path,
        "import os, sys\n"
        "print(os.getpid() < 10)\n"
        "try: os.kill(int(sys.argv[1]), 0)\n"
        "except ProcessLookupError: print('nobody')",
        str(max(me, 1000)),
    )
    assert said.split() == ["True", "nobody"]


def test_what_was_not_granted_is_not_there(tmp_path: Path) -> None:
    """Not refused: absent. So a Unix socket of others cannot be connected to, nor a file's size be learnt."""
    secret, listener = tmp_path / "secret", socket.socket(socket.AF_UNIX)
    secret.write_text("s")
    with listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        said = errors_of(
            tmp_path,
            f"os.stat({str(secret)!r})",
            f"s = socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 'socket')!r})",
            "os.stat('/run')",
            "subprocess.run(['/bin/sh'])",
        )
    assert said == ["ENOENT"] * 4


def test_what_is_granted_to_read_cannot_be_changed_at_all(tmp_path: Path) -> None:
    """chmod, times and links are not seen by Landlock: the mount is read-only."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "file").write_text("given")
    file = str(folder / "file")
    said = errors_of(
        tmp_path,
        f"open({file!r}).read()",
        f"os.chmod({file!r}, 0o777)",
        f"os.utime({file!r})",
        f"open({file!r}, 'a')",
        f"os.unlink({file!r})",
        f"os.link({file!r}, {str(tmp_path / 'output' / 'link')!r})",
        read_paths=(folder,),
    )
    assert said == ["done", "EROFS", "EROFS", "EROFS", "EROFS", "EXDEV"]


def test_a_granted_link_leads_where_it_led(tmp_path: Path) -> None:
    """A path is granted as it is written, links on the way included."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("found")
    (tmp_path / "link").symlink_to("real")
    path = tmp_path / "link" / "file"
    assert output(tmp_path, f"print(open({str(path)!r}).read())", read_paths=(path,)) == "found"


def test_outputs_are_files_and_folders_and_nothing_else(tmp_path: Path) -> None:
    """Whoever hashes an output meets no link to follow and no pipe to hang on; the scratch folder is its own."""
    out, scratch = tmp_path / "output", tmp_path / "scratch"
    said = errors_of(
        tmp_path,
        f"p = Path({str(out)!r}); (p / 'a').mkdir(); (p / 'a/f').write_text('x'); (p / 'a/f').rename(p / 'f')",
        f"os.symlink('/', {str(out / 'link')!r})",
        f"os.mkfifo({str(out / 'pipe')!r})",
        f"socket.socket(socket.AF_UNIX).bind({str(out / 'socket')!r})",
        f"os.symlink('/', {str(scratch / 'link')!r})",
        f"socket.socket(socket.AF_UNIX).bind({str(scratch / 'socket')!r})",
        "open('/dev/shm/x', 'w').write('x')",
        "open('/x', 'w')",
    )
    assert said == ["done", "EACCES", "ENOSYS", "EACCES", "done", "done", "done", "EROFS"]
    assert (out / "f").read_text() == "x"


def test_it_cannot_make_itself_another_network(tmp_path: Path) -> None:
    """It may ask for routes, and change none; no raw sockets, no VSOCK, no further namespaces."""
    said = errors_of(
        tmp_path,
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()",
        "from allod.seal.walls import netlink; netlink.add_address('lo', '10.0.0.1/8')",
        "from allod.seal.walls import netlink; netlink.add_cable('a', peer='b', peer_pid=os.getpid())",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_CRYPTO)",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
        "from allod.seal.walls import kernel; kernel.unshare(0x10000000)",
        environment={"PYTHONPATH": SOURCE},
    )
    assert said == ["done", *["EPERM"] * 7]


def test_more_may_be_executed_where_it_is_granted(tmp_path: Path) -> None:
    """A compiler for torch.compile, say; without the grant there is none."""
    tool = Path("/usr/bin/true")
    run = f"subprocess.run([{str(tool)!r}], check=True)"
    assert errors_of(tmp_path, run) == ["ENOENT"]
    (tmp_path / "log").unlink()
    assert errors_of(tmp_path, run, execute_paths=(tool,)) == ["done"]


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.abort()", -signal.SIGABRT)])
def test_it_ends_as_its_command_ended(tmp_path: Path, code: str, status: int) -> None:
    """Two processes stand between the launcher and the command; neither is noticed."""
    assert start(options(tmp_path, code)).wait(20) == status


def test_signals_are_handed_down(tmp_path: Path) -> None:
    """SIGUSR1 is how a stage is asked to save; it comes to the command and not to those between."""
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))\n"
        "print('born', flush=True); time.sleep(60)"
    )
    process = start(options(tmp_path, code))
    born(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 3


@pytest.mark.parametrize("ending", ["of itself", "terminated", "killed by its number"])
def test_all_of_it_ends_together(tmp_path: Path, ending: str) -> None:
    """Children that made a session of their own are gone, too, by the time that the end is reported."""
    token = token_hex(8)
    process = start(options(tmp_path, FAMILY, token, "0.2" if ending == "of itself" else "60"))
    born(tmp_path)
    assert len(running(token)) >= 2
    if ending == "terminated":
        process.terminate(grace_s=0)
    elif ending == "killed by its number":
        os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    assert running(token) == []


def test_all_of_it_dies_with_the_launcher(tmp_path: Path) -> None:
    """kill -9 of whoever started it leaves nothing behind."""
    token = token_hex(8)
    launcher = (
        "import sys; from pathlib import Path; from allod.seal.launch import *\n"
        f"p = start(SealOptions(command=(sys.executable, '-S', '-c', {FAMILY!r}, sys.argv[1], '60'), profile='island',"
        " read_paths=python_read_paths(), log_path=Path(sys.argv[2])))\n"
        "p.wait()"
    )
    command = [sys.executable, "-c", launcher, token, str(tmp_path / "log")]
    with subprocess.Popen(command, env={"PYTHONPATH": SOURCE}) as process:
        born(tmp_path)
        process.kill()
    deadline = time.monotonic() + 5
    while running(token) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running(token) == []


def test_nothing_is_inherited(tmp_path: Path) -> None:
    """No descriptor that somebody forgot to close, and none of the launcher's own."""
    with socket.socket() as leaked:
        os.set_inheritable(leaked.fileno(), True)
        code = (
            "import os\n"
            "def is_open(n):\n"
            "    try: os.fstat(n)\n"
            "    except OSError: return False\n"
            "    return True\n"
            "print([n for n in range(1024) if is_open(n)], {n: v for n, v in os.environ.items() if n != 'LC_CTYPE'})"
        )
        assert output(tmp_path, code, environment={"A": "b"}) == "[0, 1, 2] {'A': 'b'}"


def test_a_missing_part_is_named_and_refused(tmp_path: Path) -> None:
    """Fail closed; and where an incomplete island was asked for, its kind says so."""
    with pytest.raises(Unavailable) as caught:
        start(options(tmp_path, SLEEP, unsafe_omit=("namespaces",)))
    assert caught.value.code == "seal_incomplete"
    process: SealedProcess = start(options(tmp_path, SLEEP, unsafe_omit=("namespaces",), unsafe_no_seal=True))
    assert process.kind == "partial:no-namespaces"
    assert process.terminate() == -signal.SIGTERM


def test_an_engine_has_none_of_it(tmp_path: Path) -> None:
    """Scratch folders and further programs belong to the island; an unknown profile is nobody's."""
    for wrong in (
        SealOptions(command=(sys.executable,), scratch_dir=tmp_path),
        SealOptions(command=(sys.executable,), execute_paths=(tmp_path,)),
        SealOptions(command=(sys.executable,), profile="peninsula"),
    ):
        with pytest.raises(Invalid) as caught:
            start(wrong)
        assert caught.value.code == "seal_profile"


def test_large_files_are_a_matter_of_asking(tmp_path: Path) -> None:
    """Weights are larger than an engine's log may be; the limit is what was asked for."""
    out = tmp_path / "output" / "weights"
    write = f"f = open({str(out)!r}, 'wb'); f.truncate(1 << 30); f.close()"
    assert errors_of(tmp_path, write) == [errno.errorcode[errno.EFBIG]]
    (tmp_path / "log").unlink()
    assert errors_of(tmp_path, write, max_file_bytes=1 << 42) == ["done"]
