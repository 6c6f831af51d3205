"""`python -m allod.seal.enter [--profile P] [--socket-dir D] [--read P] [--write P] [--env K=V] -- COMMAND ARGS`

Enters the seal and becomes COMMAND, in this order, each step needing what the next takes away:

    1 limits   2 namespaces   3 death with the parent   4 the first process of the PID namespace   5 an island's root
    6 Landlock   7 capabilities   8 the second process   9 seccomp
    10 exec, once the launcher has confirmed from outside what was entered

A part that is missing on this machine ends it with exit status 125 before COMMAND runs, unless
`--unsafe-no-seal` is given; a single process does without the PID namespace where the kernel gives none, and says so.
The environment of COMMAND is what `--env` says and nothing else, unless `--keep-environment` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from allod.seal import group
from allod.seal.profiles import profile
from allod.seal.walls import kernel, landlock, namespaces, root
from allod.seal.walls.elf import interpreter_of
from allod.seal.walls.landlock import ARRANGE, DEVICE, EXECUTE, LISTEN, OVERWRITE, READ, SCRATCH, WRITE, Grant

PARTS = ("namespaces", "landlock", "capabilities", "seccomp")
PROCESSES = "pid"  # the PID namespace: a part of the namespaces that can be missing alone
OWN_PROC = "proc"  # an island's /proc, which can be missing alone, too
NOT_ENTERED = 125  # exit status, as of env(1) and its kin: it was the wrapper that failed
GO = b"1"

_FOR_EVERY_PROGRAM = (
    Grant(Path("/lib"), READ),
    Grant(Path("/lib64"), READ),
    Grant(Path("/usr/lib"), READ),
    Grant(Path("/usr/lib64"), READ),
    Grant(Path("/etc/ld.so.cache"), READ),
    Grant(Path("/sys/devices/system/cpu"), READ),
    Grant(Path("/dev/urandom"), READ),
    Grant(Path("/dev/null"), WRITE),
)


class Seal:
    """The seal being entered: what is in force and what is missing, with the reason."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._profile = profile.PROFILES[options.profile]
        self.missing: dict[str, str] = {}
        self.landlock_abi = 0
        self._has_own_root = False
        self._has_own_proc = False

    def enter(self) -> None:
        """Steps 1 to 9. Never raises for a missing part: `missing` says. Returns in the process that becomes COMMAND,
        which is another than its caller where there is a PID namespace."""
        self._limit_resources()
        self._part("namespaces", namespaces.isolate_group if self._profile.is_group else namespaces.isolate)
        if "namespaces" not in self.missing:
            self._part(PROCESSES, namespaces.isolate_processes)
        self._die_with_parent()
        tells = None if self.missing.keys() & {"namespaces", PROCESSES} else group.become_first(self._options.report_fd)
        if self._profile.is_group and "namespaces" not in self.missing:
            self._part("namespaces", self._own_root)
        self._part("landlock", self._landlock)
        self._part("capabilities", kernel.drop_capabilities)
        if tells is not None:
            group.become_command(self._options.report_fd, tells)
        self._part("seccomp", self._seccomp)

    @property
    def is_refused(self) -> bool:
        """Whether a part is missing that COMMAND may not run without."""
        options = self._options
        accepted = set(options.unsafe_omit) if options.accept_omitted else set()
        accepted |= set() if self._profile.is_group else {PROCESSES}  # the filter lets one process name no other
        return bool(self.missing.keys() - accepted) and not options.unsafe_no_seal

    def report(self) -> dict[str, object]:
        """What the launcher is told, by code that runs before the first instruction of COMMAND."""
        return {
            "missing": self.missing,
            "landlock_abi": self.landlock_abi,
            "profile": self._profile.name,
            "profile_digest": self._digest(),
            "devices": self._options.device,
        }

    def _part(self, name: str, enter: Callable[[], None]) -> None:
        if not kernel.is_linux():
            self.missing[name] = "this is not Linux"
        elif name in self._options.unsafe_omit:
            self.missing[name] = "left out on purpose"
        else:
            try:
                enter()
            except OSError as error:
                self.missing[name] = str(error)

    def _limit_resources(self) -> None:
        """No core file with prompts in it, and no file, the log included, and no memory grown past their limits."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit(resource.RLIMIT_FSIZE, self._options.max_file_bytes)
        if self._options.max_memory_bytes:
            _limit(resource.RLIMIT_AS, self._options.max_memory_bytes)

    def _own_root(self) -> None:
        rights_of_a_reader = READ | EXECUTE | DEVICE  # a device is no file: nobody writes to where its node lies
        root.put_together((grant.path, bool(grant.rights & ~rights_of_a_reader)) for grant in self._grants())
        if PROCESSES not in self.missing:  # else it would show the processes of others
            self._part(OWN_PROC, self._own_proc)
        root.enter()
        self._has_own_root = True

    def _own_proc(self) -> None:
        root.show_processes(for_devices=self._profile.has_devices, named_threads=self._options.names_threads)
        self._has_own_proc = True

    def _landlock(self) -> None:
        kernel.forbid_new_privileges()
        abi = landlock.newest_abi()
        if abi < landlock.MINIMUM_ABI:
            self.missing["landlock"] = f"ABI {abi} found, {landlock.MINIMUM_ABI} (Linux 6.2) needed"
        landlock.restrict(self._grants(), abi=abi, tcp=self._profile.is_group)
        self.landlock_abi = abi

    def _grants(self) -> Iterator[Grant]:
        options = self._options
        yield from (grant for grant in _FOR_EVERY_PROGRAM if grant.path.exists())
        command = Path(options.command[0])
        yield Grant(command, EXECUTE)
        if interpreter := interpreter_of(command):
            yield Grant(interpreter, EXECUTE)
        yield from (Grant(Path(path), READ) for path in options.read)
        yield from (Grant(Path(path), ARRANGE if self._profile.is_group else WRITE) for path in options.write)
        yield from (Grant(Path(path), LISTEN) for path in options.socket_dir)
        yield from (Grant(Path(path), EXECUTE | READ) for path in options.execute)
        yield from (Grant(Path(path), SCRATCH) for path in options.scratch)
        yield from (Grant(Path(path), DEVICE) for path in options.device)
        if self._has_own_root:
            yield from (Grant(path, READ) for path in root.OWN_FILES)
            yield Grant(root.SHARED_MEMORY, SCRATCH)
        if self._has_own_proc:
            yield Grant(root.PROCESSES, OVERWRITE if options.names_threads else READ)

    def _die_with_parent(self) -> None:
        """After the last gain of credentials, which clears it; then look whether the parent is already gone."""
        if not (self._options.parent and kernel.is_linux()):
            return
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != self._options.parent:
            sys.exit(NOT_ENTERED)

    def _seccomp(self) -> None:
        kernel.forbid_new_privileges()
        kernel.load_filter(self._program(os.getpid()))

    def _program(self, own_pid: int) -> bytes:
        machine = os.uname().machine
        if machine not in profile.MACHINES:
            raise OSError(f"no table of system calls for {machine}")
        weaken = frozenset(self._options.unsafe_omit) & self._profile.weakenings.keys()
        return profile.build(self._profile, machine, own_pid=own_pid, weaken=weaken)

    def _digest(self) -> str:
        """SHA-256 of the filter (its own process number written as 0) and the Landlock rules."""
        digest = sha256(self._program(0) if "seccomp" not in self.missing else b"")
        if self.landlock_abi:
            digest.update(json.dumps([(str(path), rights) for path, rights in self._grants()]).encode())
        return "sha256:" + digest.hexdigest()


def _limit(which: int, size: int) -> None:
    """Nobody below can raise it again. What our caller was not given, we cannot give."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(which, (size, size))


def main(arguments: list[str] | None = None) -> None:
    """Enter the seal and exec COMMAND; returns only by SystemExit."""
    options = _parse(arguments)
    kernel.close_on_exec_from(3)
    seal = Seal(options)
    seal.enter()
    if seal.is_refused:
        reasons = "; ".join(f"{part}: {reason}" for part, reason in seal.missing.items())
        sys.stderr.write(f"error: the seal is incomplete: {reasons}\n")
    _tell(options.report_fd, seal.report() | {"refused": seal.is_refused})
    if seal.is_refused:
        sys.exit(NOT_ENTERED)
    _await_permission(options.report_fd)
    environment = dict(pair.split("=", 1) for pair in options.env)
    try:
        _become(options.command, environment, keeps_ours=options.keep_environment)
    except OSError as error:
        _tell(options.report_fd, {"exec_error": str(error)})
        sys.stderr.write(f"error: {options.command[0]}: {error}\n")
        sys.exit(NOT_ENTERED)


def _become(command: list[str], environment: dict[str, str], *, keeps_ours: bool) -> None:
    """Run the command in our place, without a shell."""
    if not keeps_ours:
        os.execve(command[0], command, environment)  # noqa: S606
    for name, value in environment.items():
        os.putenv(name, value)
    os.execv(command[0], command)  # noqa: S606


def _tell(descriptor: int | None, message: dict[str, object]) -> None:
    if descriptor is not None:
        os.write(descriptor, json.dumps(message).encode() + b"\n")


def _await_permission(descriptor: int | None) -> None:
    """Until the launcher has seen in /proc what we claim; it hangs up instead if it has not, or has died."""
    if descriptor is not None and os.read(descriptor, 1) != GO:
        sys.exit(NOT_ENTERED)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m allod.seal.enter", description="Enter the seal, then run COMMAND.")
    parser.add_argument("--profile", choices=[*profile.PROFILES], default=profile.SEALED.name)
    parser.add_argument("--socket-dir", action="append", default=[], help="where COMMAND may make Unix sockets")
    parser.add_argument("--read", action="append", default=[], metavar="PATH", help="what it may read")
    parser.add_argument("--write", action="append", default=[], metavar="PATH", help="where it may write files")
    parser.add_argument("--execute", action="append", default=[], metavar="PATH", help="what else it may execute")
    parser.add_argument("--scratch", action="append", default=[], metavar="PATH", help="where it may make anything")
    parser.add_argument("--device", action="append", default=[], metavar="PATH", help="a device that it may use")
    parser.add_argument("--names-threads", action="store_true", help="it may write its own entries in its /proc")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="its whole environment")
    parser.add_argument("--keep-environment", action="store_true", help="add --env to ours instead of replacing it")
    parser.add_argument("--max-file-bytes", type=int, default=64 * 1024 * 1024)
    parser.add_argument("--max-memory-bytes", type=int, help="what each process may reserve")
    parser.add_argument("--parent", type=int, help="die with this process, our parent")
    parser.add_argument("--report-fd", type=int, help="a socket: JSON of what is in force out, GO in")
    parser.add_argument("--unsafe-no-seal", action="store_true", help="run COMMAND although parts are missing")
    parser.add_argument(
        "--unsafe-omit",
        action="append",
        default=[],
        choices=[*PARTS, PROCESSES, OWN_PROC, *sorted(profile.WEAKENINGS)],
        help="for the suite",
    )
    parser.add_argument("--accept-omitted", action="store_true", help="run COMMAND without those, but nothing else")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
