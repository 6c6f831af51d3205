"""Starting real processes under the seal: what they get, what they do not, and when they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from allod.core.canonical import check_canonical
from allod.core.errors import Invalid, Unavailable
from allod.seal.evidence import describe, proof_of
from allod.seal.launch import SealedProcess, SealOptions, python_read_paths, start

SLEEP = "import time; time.sleep(60)"
SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def socket_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "sockets"
    directory.mkdir(mode=0o700)
    return directory


def python(code: str, socket_dir: Path, **more: object) -> SealOptions:
    return SealOptions(
        command=(sys.executable, "-S", "-c", code),
        socket_dir=socket_dir,
        read_paths=python_read_paths(),
        log_path=socket_dir.parent / "log",
        **more,  # type: ignore[arg-type]
    )


def output(code: str, socket_dir: Path, **more: object) -> str:
    process = start(python(code, socket_dir, **more))
    assert process.wait(20) == 0, (socket_dir.parent / "log").read_text()
    return (socket_dir.parent / "log").read_text().strip()


def born(log: Path, word: str) -> None:
    deadline = time.monotonic() + 20
    while word not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_it_is_sealed_and_the_kernel_says_so(socket_dir: Path) -> None:
    """Every row that a visitor reads is as expected, and the evidence is canonical JSON."""
    process = start(python(SLEEP, socket_dir))
    try:
        found = process.evidence()
        assert process.kind == "sealed"
        assert [row["name"] for row in describe(found) if not row["ok"]] == []
        check_canonical(found)
        assert proof_of(found) == proof_of(process.evidence())
    finally:
        process.terminate()
    with pytest.raises(Unavailable, match="ended"):
        process.evidence()


def test_nothing_is_inherited(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment (proxies, keys) nor a descriptor that somebody forgot to close, nor the terminal."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
    with socket.socket() as leaked:
        os.set_inheritable(leaked.fileno(), True)
        code = (
            "import os, json\n"
            "def is_open(n):\n"
            "    try: os.fstat(n)\n"
            "    except OSError: return False\n"
            "    return True\n"
            "print(json.dumps([dict(os.environ), [n for n in range(1024) if is_open(n)], os.getsid(0) == os.getpid()]))"
        )
        environment, descriptors, detached = json.loads(output(code, socket_dir, environment={"A": "b=c"}))
    assert {name: value for name, value in environment.items() if name != "LC_CTYPE"} == {"A": "b=c"}
    assert descriptors == [0, 1, 2]
    assert detached is True


def test_only_sockets_appear_in_the_socket_directory(socket_dir: Path) -> None:
    """A gateway that looks there can be tricked by no file and no symbolic link; a listener works."""
    code = (
        "import os, socket, sys\n"
        "d = sys.argv[1]\n"
        "for attempt in (lambda: open(d + '/f', 'w'), lambda: os.symlink('/', d + '/l'), lambda: os.mkdir(d + '/m')):\n"
        "    try: attempt()\n"
        "    except OSError: continue\n"
        "    raise SystemExit('made it')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(d + '/s'); s.listen()\n"
        "c, _ = s.accept(); c.sendall(b'hello')\n"
    )
    options = python(code, socket_dir)
    process = start(replace(options, command=(*options.command, str(socket_dir))))
    deadline = time.monotonic() + 10
    while not (socket_dir / "s").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_dir / "s"))
        assert client.recv(5) == b"hello"
    assert process.wait(10) == 0
    assert [entry.name for entry in socket_dir.iterdir()] == ["s"]


def test_only_granted_files_are_read_and_written(socket_dir: Path, tmp_path: Path) -> None:
    """A secret beside a granted file stays secret; a written file ends at the limit."""
    (tmp_path / "secret").write_text("s")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        f"try: open({str(tmp_path / 'secret')!r}); print('read')\n"
        "except PermissionError: print('refused')\n"
        f"f = open({str(scratch / 'f')!r}, 'wb', buffering=0)\n"
        "try:\n"
        "    f.write(bytes(4096)); f.write(bytes(1))\n"
        "except OSError as e: print(e.errno)\n"
    )
    said = output(code, socket_dir, write_paths=(scratch,), max_file_bytes=4096).split()
    assert said == ["refused", "27"]  # EFBIG


def test_it_sees_and_names_no_process_but_its_own(socket_dir: Path) -> None:
    """Its numbers begin anew, so the number of one outside means nobody."""
    code = (
        "import os, sys\n"
        "print(os.getpid(), os.getppid(), os.getsid(0) == os.getpid())\n"
        "for attempt in (os.sched_getaffinity, os.getsid, lambda pid: os.kill(pid, 0)):\n"
        "    try: attempt(int(sys.argv[1])); print('found')\n"
        "    except OSError as e: print(type(e).__name__)\n"
    )
    options = python(code, socket_dir)
    process = start(replace(options, command=(*options.command, str(os.getpid()))))
    assert process.wait(10) == 0
    said = (socket_dir.parent / "log").read_text().split()
    assert said == ["2", "1", "True", *["PermissionError"] * 3]


def test_without_a_pid_namespace_it_says_so(socket_dir: Path) -> None:
    """Where the kernel gives none the filter lets it name nobody: it starts, is not called whole, and shows it."""
    code = (
        "import os\n"
        "os.sched_getaffinity(0)\n"
        "try: os.sched_setaffinity(os.getppid(), {0})\n"
        "except PermissionError: print('refused', flush=True)\n"
        f"{SLEEP}"
    )
    process = start(python(code, socket_dir, unsafe_omit=("pid",)))
    try:
        assert process.kind == "partial:no-pid"
        assert set(process.missing) == {"pid"}
        found = process.evidence()
        assert [row["name"] for row in describe(found) if not row["ok"]] == ["Seal", "Namespace: pid"]
        born(socket_dir.parent / "log", "refused")
    finally:
        assert process.terminate() == -signal.SIGTERM


def test_a_machine_without_pid_namespaces_is_found_out(socket_dir: Path) -> None:
    """As above, by the kernel's own refusal: here a namespace in which no PID namespace may be made."""
    gateway = (
        "import sys; from pathlib import Path; from allod.seal.launch import *\n"
        "Path('/proc/sys/user/max_pid_namespaces').write_text('0')\n"
        f"p = start(SealOptions(command=(sys.executable, '-S', '-c', {SLEEP!r}), socket_dir=Path(sys.argv[1]), "
        "read_paths=python_read_paths()))\n"
        "print(p.kind, sorted(p.missing), p.evidence()['stable']['seal']['missing'] == p.missing); p.terminate()"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", gateway, str(socket_dir)]
    done = subprocess.run(command, env={"PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["partial:no-pid ['pid'] True"], done.stderr


def test_a_stopped_process_is_ended_all_the_same(socket_dir: Path) -> None:
    """It hangs, or was sent SIGSTOP: the grace passes, and then it is gone, and with it those that stood between."""
    process = start(python(SLEEP, socket_dir))
    os.kill(process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text():  # until then SIGTERM would end it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.terminate(grace_s=0.2) == -signal.SIGKILL
    assert ended(process.pid, within_s=0.1)


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.abort()", -signal.SIGABRT)])
def test_it_ends_as_its_command_ended(socket_dir: Path, code: str, status: int) -> None:
    """Two processes stand between the launcher and the command; neither is noticed."""
    assert start(python(code, socket_dir)).wait(20) == status


def test_nothing_is_left_unreaped(socket_dir: Path) -> None:
    """Killed by its number as the out-of-memory killer would: its end is reported, and no child of ours remains."""
    process = start(python(SLEEP, socket_dir))
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
    children = Path("/proc/self/task").glob("*/children")
    names = [Path(f"/proc/{pid}/stat").read_text() for path in children for pid in path.read_text().split()]
    assert [name for name in names if " Z " in name] == []


def test_root_keeps_no_power(socket_dir: Path) -> None:
    """Inside it is an ordinary user of a namespace of its own; outside its capabilities are empty."""
    process = start(python(SLEEP, socket_dir))
    try:
        stable = process.evidence()["stable"]
        assert isinstance(stable, dict)
        assert {stable["status"][name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    finally:
        process.terminate()


def test_those_that_stand_between_have_no_power_either(socket_dir: Path) -> None:
    """The first enters the seal with capabilities in its namespace, and the keeper makes it: both let go of them."""
    process = start(python(SLEEP, socket_dir))
    try:
        pid = process.pid
        for _ in ("first", "keeper"):
            pid = int(status_of(pid)["PPid"])
            assert {status_of(pid)[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
            assert status_of(pid)["NoNewPrivs"] == "1"
    finally:
        process.terminate()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_outlives_the_thread_that_asked_for_it(socket_dir: Path) -> None:
    """Linux ties a child's fate to the thread that started it: a gateway's pool thread must not be that thread."""
    started: list[SealedProcess] = []
    thread = threading.Thread(target=lambda: started.append(start(python(SLEEP, socket_dir))))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert started[0].poll() is None
    assert started[0].terminate() == -signal.SIGTERM


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_the_gateway(socket_dir: Path, ending: signal.Signals) -> None:
    """Even by kill -9: no engine is left that nobody watches."""
    gateway = (
        "import sys; from pathlib import Path; from allod.seal.launch import *\n"
        f"p = start(SealOptions(command=(sys.executable, '-S', '-c', {SLEEP!r}), socket_dir=Path(sys.argv[1]), "
        "read_paths=python_read_paths()))\n"
        "print(p.pid, flush=True); p.wait()"
    )
    command = [sys.executable, "-c", gateway, str(socket_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": SOURCE}) as process:
        assert process.stdout is not None
        engine = int(process.stdout.readline())
        assert not ended(engine, within_s=0.1)
        process.send_signal(ending)
    assert ended(engine)


def test_a_missing_part_is_named_and_refused(socket_dir: Path) -> None:
    """Fail closed: the command never runs; the error says which part and what to do."""
    with pytest.raises(Unavailable, match="landlock") as caught:
        start(python("open('/dev/stdout', 'w').write('ran')", socket_dir, unsafe_omit=("landlock",)))
    assert caught.value.code == "seal_incomplete"
    assert caught.value.hint
    assert (socket_dir.parent / "log").read_text().startswith("error: the seal is incomplete")


@pytest.mark.parametrize(
    ("omit", "kind"),
    [
        (("namespaces",), "partial:no-namespaces"),
        (("namespaces", "seccomp"), "partial:no-namespaces+no-seccomp"),
        (("namespaces", "landlock", "capabilities", "seccomp"), "none"),
    ],
)
def test_an_incomplete_seal_that_was_asked_for_says_so(socket_dir: Path, omit: tuple[str, ...], kind: str) -> None:
    """The kind goes into every receipt; the page for visitors shows it red."""
    process = start(python(SLEEP, socket_dir, unsafe_no_seal=True, unsafe_omit=omit))
    try:
        assert process.kind == kind
        assert set(process.missing) == set(omit)
        assert not all(row["ok"] for row in describe(process.evidence()))
    finally:
        process.terminate()


def test_what_was_left_out_on_purpose_is_not_leave_for_the_rest(socket_dir: Path) -> None:
    """`accepts_omitted` starts without what is named, and its kind says so."""
    process = start(python(SLEEP, socket_dir, unsafe_omit=("landlock",), accepts_omitted=True))
    assert process.kind == "partial:no-landlock"
    process.terminate()


def test_without_user_namespaces_it_refuses(socket_dir: Path) -> None:
    """On a machine that forbids them: here a namespace in which no further one may be made."""
    gateway = (
        "import sys; from pathlib import Path; from allod.seal.launch import *; from allod.core.errors import *\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        f"o = dict(command=(sys.executable, '-S', '-c', {SLEEP!r}), socket_dir=Path(sys.argv[1]), "
        "read_paths=python_read_paths())\n"
        "try: start(SealOptions(**o))\n"
        "except Unavailable as e: print(e.code, 'namespaces' in e.message, 'user namespaces' in e.hint)\n"
        "p = start(SealOptions(**o, unsafe_no_seal=True)); print(p.kind); p.terminate()"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", gateway, str(socket_dir)]
    done = subprocess.run(command, env={"PYTHONPATH": SOURCE}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["seal_incomplete True True", "partial:no-namespaces"], done.stderr


def test_wrong_paths_are_the_callers_fault(socket_dir: Path, tmp_path: Path) -> None:
    """A path that is not there, or a socket directory that others can enter, is refused before anything starts."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)  # whatever the umask
    for options in (
        SealOptions(command=("python",)),
        SealOptions(command=(sys.executable,), read_paths=(tmp_path / "nowhere",)),
        SealOptions(command=(sys.executable,), socket_dir=tmp_path / "open"),
    ):
        with pytest.raises(Invalid):
            start(options)


def test_a_command_that_cannot_be_executed_is_reported(socket_dir: Path, tmp_path: Path) -> None:
    """The error of exec comes back through the wrapper."""
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    with pytest.raises(Unavailable, match="did not start"):
        start(SealOptions(command=(str(text),), socket_dir=socket_dir))
