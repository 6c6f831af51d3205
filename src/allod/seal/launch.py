"""Start a sealed process. Synchronous, and safe in a process that has threads.

The wrapper (enter.py) is an ordinary subprocess, so nothing of ours runs between fork and exec. Linux sends the
"parent has died" signal when the *thread* that started the child ends, not the process (prctl(2)), so each sealed
process is started by a thread of its own that then waits for it: a caller's short-lived thread does not take its
engine down with it, and a killed gateway does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import allod
from allod.core.canonical import JsonValue
from allod.core.errors import Invalid, Unavailable
from allod.seal.devices.grants import NO_DEVICES, DeviceGrants
from allod.seal.enter import GO, OWN_PROC, PARTS, PROCESSES
from allod.seal.evidence import SealFacts, describe, evidence
from allod.seal.profiles import profile

_SOURCE = Path(allod.__file__).resolve().parent
_ENTRY_TIMEOUT_S = 30.0
_KEEPER_TIMEOUT_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # process, user, group (unix(7))

Evidence = dict[str, JsonValue]

_OWNED_UP_TO = {PROCESSES: ("Seal", "Namespace: pid"), OWN_PROC: ("Seal",)}  # rows that a missing part explains
_HINTS = {
    "namespaces": "allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone=1, or an AppArmor profile with `userns`)",
    PROCESSES: "allow PID namespaces (sysctl user.max_pid_namespaces)",
    OWN_PROC: "give an island a /proc: outside containers, or in one whose own is not masked (podman run "
    "--security-opt unmask=ALL)",
    "landlock": "use Linux 6.2 or later with `landlock` among the LSMs (lsm= on the kernel's command line)",
    "capabilities": "start as an ordinary user, or with CAP_SETPCAP",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64",
}


@dataclass(frozen=True, kw_only=True)
class SealOptions:
    """What a sealed process is, may read and may write; it gets nothing else of its parent.

    `command[0]` is an absolute path of an ELF executable. `socket_dir` (mode 0700, ours) is where it may make Unix
    sockets, and only sockets. `environment` is its whole environment. Output goes to `log_path`, or nowhere; what it
    prints goes to `output_fd` where that is given. One that `hears` reads what `tell` says, any other nothing.
    `devices` are what an `island-gpu` may use.
    `max_memory_bytes` is what each of its processes may reserve. An island may also execute `execute_paths` and make in
    `scratch_dir` what it likes. `unsafe_no_seal` starts it even where parts of the seal are missing; `unsafe_omit`
    leaves parts out, for the suite; with `accepts_omitted` it starts without those, but not without any other.
    """

    command: tuple[str, ...]
    profile: str = profile.SEALED.name
    socket_dir: Path | None = None
    read_paths: tuple[Path, ...] = ()
    write_paths: tuple[Path, ...] = ()
    execute_paths: tuple[Path, ...] = ()
    scratch_dir: Path | None = None
    devices: DeviceGrants = NO_DEVICES
    environment: Mapping[str, str] = field(default_factory=dict)
    log_path: Path | None = None
    output_fd: int | None = None
    hears: bool = False
    max_file_bytes: int = 64 * 1024 * 1024
    max_memory_bytes: int | None = None
    unsafe_no_seal: bool = False
    unsafe_omit: tuple[str, ...] = ()
    accepts_omitted: bool = False


class SealedProcess:
    """A started process. `kind` is the profile's name, `partial:no-<part>+no-<part>` or `none`; `missing` gives the
    reasons. `pid` is the command's as we number it; its launcher waits for another process (group.py). `at_start` is
    the evidence from before its first instruction, `log_start` where in its log what it wrote begins."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, pid: int, facts: SealFacts, at_start: Evidence, log_start: int = 0
    ) -> None:
        self._process = process
        self.log_start = log_start
        self.facts = facts
        self.at_start = at_start
        self.pid = pid
        self.kind = facts.kind
        self.missing = facts.missing

    def evidence(self) -> Evidence:
        """What the kernel says of it now (evidence.py). Raises Unavailable once it has ended."""
        if self.poll() is not None:
            raise Unavailable(f"process {self.pid} has ended", code="engine_gone")
        return evidence(self.pid, facts=self.facts)

    def tell(self, message: bytes) -> None:
        """All that it hears, at once. Raises Unavailable for more than its pipe holds: nobody waits for it to read."""
        pipe = self._process.stdin
        assert pipe is not None
        with pipe, suppress(BrokenPipeError):  # it has ended; whoever waits for it sees that
            os.set_blocking(pipe.fileno(), False)
            if os.write(pipe.fileno(), message) < len(message):
                raise Unavailable("more was to be told than a pipe holds", code="engine_not_started")

    def poll(self) -> int | None:
        """Its exit status (negative: the signal that killed it), or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status, or None when `timeout_s` has passed first."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Signal the command; harmless when it has ended."""
        self._process.send_signal(number)

    def terminate(self, grace_s: float = 5.0) -> int:
        """End it: SIGTERM, and SIGKILL after `grace_s`. Returns the exit status; harmless when it has ended."""
        self.send_signal(signal.SIGTERM)
        if self.wait(grace_s) is None and self.pid != self._process.pid:
            self.send_signal(signal.SIGQUIT)  # the keeper ends them all, and itself when they have ended
            self.wait(_KEEPER_TIMEOUT_S)
        if self.poll() is None:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait()


def start(options: SealOptions) -> SealedProcess:
    """Start `options.command` under the seal; returns once it has become that command.

    Raises Invalid for a path that is missing or a socket directory open to others, Unavailable `seal_incomplete` when
    this machine lacks a part of the seal (unless `unsafe_no_seal`), `engine_not_started` when exec failed.
    """
    _check(options)
    log = options.log_path
    log_start = log.stat().st_size if log is not None and log.exists() else 0
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # the kernel says who writes
    with ours:
        with theirs:
            process = _spawn(options, theirs.fileno())
        try:
            pid, facts, at_start = _shake_hands(ours)
        except BaseException:
            with process:  # which is waited for, and its pipe closed
                process.kill()
            raise
    return SealedProcess(process, pid=pid, facts=facts, at_start=at_start, log_start=log_start)


def python_read_paths() -> tuple[Path, ...]:
    """What this interpreter and its installed packages need to be read in order to start."""
    paths = sysconfig.get_paths()
    folders = {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    libraries = {Path(sys.base_prefix, "lib"), Path(sys.prefix, "pyvenv.cfg"), _SOURCE.parent}
    return tuple(sorted(path for path in folders | libraries if path.exists()))


def _check(options: SealOptions) -> None:
    if not Path(options.command[0]).is_absolute():
        raise Invalid("the command must be an absolute path", code="seal_path", param="command")
    if options.profile not in profile.PROFILES:
        raise Invalid(f"there is no profile {options.profile!r}", code="seal_profile", param="profile")
    if not profile.PROFILES[options.profile].is_group and (options.execute_paths or options.scratch_dir):
        raise Invalid("only an island may execute more than its command, or have a scratch folder", code="seal_profile")
    if options.devices.nodes and not profile.PROFILES[options.profile].has_devices:
        raise Invalid(f"{options.profile} has no devices", code="seal_profile", param="devices", hint="island-gpu has")
    for node in options.devices.nodes:
        if not node.is_char_device():
            raise Invalid(f"{node} is not a character device", code="seal_path", param="devices")
    scratch = (options.scratch_dir,) if options.scratch_dir else ()
    for path in (
        Path(options.command[0]),
        *(*options.read_paths, *options.write_paths, *options.execute_paths, *scratch),
    ):
        if not path.exists():
            raise Invalid(f"{path} does not exist", code="seal_path", param="read_paths")
    if options.socket_dir is not None:
        found = options.socket_dir.lstat() if options.socket_dir.exists() else None
        if found is None or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
            raise Invalid(
                f"{options.socket_dir} is not a directory that only we can enter",
                code="seal_path",
                param="socket_dir",
                hint="make it with mode 0700",
            )


def command_line(options: SealOptions) -> tuple[str, ...]:
    """The command that enters the seal without a launcher, for a scheduler to run on a node of its choice.

    Nobody confirms the seal from outside then, and COMMAND keeps the scheduler's environment beside its own: it says
    which rank this is. Raises what `start` raises for the options.
    """
    _check(options)
    return (*_wrapper(options), "--keep-environment", "--", *options.command)


def _arguments(options: SealOptions, report_fd: int) -> list[str]:
    return [*_wrapper(options), f"--parent={os.getpid()}", f"--report-fd={report_fd}", "--", *options.command]


def _wrapper(options: SealOptions) -> list[str]:
    environment = {**options.devices.environment, **options.environment}
    repeated = [
        ("--socket-dir", (options.socket_dir,) if options.socket_dir else ()),
        ("--read", (*options.read_paths, *options.devices.read_paths)),
        ("--write", options.write_paths),
        ("--execute", options.execute_paths),
        ("--scratch", (options.scratch_dir,) if options.scratch_dir else ()),
        ("--device", options.devices.nodes),
        ("--env", (f"{name}={value}" for name, value in environment.items())),
        ("--unsafe-omit", options.unsafe_omit),
    ]
    flags = [f"{flag}={value}" for flag, values in repeated for value in values]
    unsafe = ["--unsafe-no-seal"] if options.unsafe_no_seal else []
    unsafe += ["--names-threads"] if options.devices.names_threads else []
    unsafe += ["--accept-omitted"] if options.accepts_omitted else []
    wrapper = [sys.executable, "-S", "-P", "-m", "allod.seal.enter", f"--profile={options.profile}"]
    limits = [f"--max-file-bytes={options.max_file_bytes}"]
    limits += [f"--max-memory-bytes={options.max_memory_bytes}"] if options.max_memory_bytes else []
    return [*wrapper, *flags, *unsafe, *limits]


def _spawn(options: SealOptions, report_fd: int) -> subprocess.Popen[bytes]:
    started: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()

    def start_and_wait() -> None:
        try:
            process = _popen(options, report_fd)
        except OSError as error:
            started.put(error)
        else:
            started.put(process)
            process.wait()

    threading.Thread(target=start_and_wait, name="allod-seal", daemon=True).start()
    process = started.get()
    if isinstance(process, OSError):
        raise Unavailable(f"the wrapper did not start: {process}", code="engine_not_started") from process
    return process


def _popen(options: SealOptions, report_fd: int) -> subprocess.Popen[bytes]:
    output = _open_output(options.log_path)
    try:
        return subprocess.Popen(
            _arguments(options, report_fd),
            stdin=subprocess.PIPE if options.hears else subprocess.DEVNULL,
            stdout=output if options.output_fd is None else options.output_fd,
            stderr=output,
            env={"PYTHONPATH": str(_SOURCE.parent)},
            cwd="/",
            pass_fds=(report_fd,),
            start_new_session=True,  # no terminal to type into
        )
    finally:
        os.close(output)


def _open_output(log_path: Path | None) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(log_path, flags, 0o600) if log_path else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _shake_hands(wrapper: socket.socket) -> tuple[int, SealFacts, Evidence]:
    """Hear what was entered, see that the kernel agrees, and only then let the command run. Who and what it is."""
    wrapper.settimeout(_ENTRY_TIMEOUT_S)
    with wrapper.makefile("rwb") as lines:
        try:
            pid, report = _first_line(wrapper)
            if not report:
                raise Unavailable("the wrapper ended without a word", code="engine_not_started", hint="see its log")
            facts = _facts(json.loads(report))
            found = evidence(pid, facts=facts)
            if not facts.missing.keys() - _OWNED_UP_TO.keys():
                _confirm(found, but_for={row for part in facts.missing for row in _OWNED_UP_TO[part]})
            lines.write(GO)
            lines.flush()
            failure = lines.readline()  # empty: exec closed the wrapper's end
        except OSError as error:
            raise Unavailable(f"the wrapper did not answer: {error}", code="engine_not_started") from error
    if failure:
        raise Unavailable(f"the command did not start: {json.loads(failure)['exec_error']}", code="engine_not_started")
    return pid, facts, found


def _first_line(wrapper: socket.socket) -> tuple[int, bytes]:
    """What the wrapper says, and its process number in our PID namespace, which it may not know itself."""
    pid, line = 0, b""
    while not line.endswith(b"\n"):
        data, notes, _, _ = wrapper.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not data:
            return pid, b""
        line += data
        for _, _, note in notes:
            pid, _, _ = _CREDENTIALS.unpack(note)
    return pid, line


def _facts(report: dict[str, Any]) -> SealFacts:
    missing: dict[str, str] = report["missing"]
    if report["refused"]:
        raise Unavailable(
            "the seal is incomplete: " + "; ".join(f"{part}: {reason}" for part, reason in missing.items()),
            code="seal_incomplete",
            hint="; ".join(_HINTS[part] for part in missing if part in _HINTS),
        )
    return SealFacts(
        kind=_kind(report["profile"], missing),
        missing=missing,
        profile=report["profile"],
        profile_digest=report["profile_digest"],
        landlock_abi=report["landlock_abi"],
        devices=tuple(report["devices"]),
    )


def _kind(name: str, missing: Mapping[str, str]) -> str:
    if set(missing) >= set(PARTS):
        return "none"
    return "partial:" + "+".join(f"no-{part}" for part in missing) if missing else name


def _confirm(found: Evidence, *, but_for: set[str]) -> None:
    """Believe the kernel, not the wrapper: every row of the description must hold, `but_for` those owned up to."""
    wrong = [row for row in describe(found) if not row["ok"] and row["name"] not in but_for]
    if wrong:
        rows = "; ".join(f"{row['name']}: {row['value']}, expected {row['expected']}" for row in wrong)
        raise Unavailable(f"the kernel does not confirm the seal: {rows}", code="seal_incomplete")
