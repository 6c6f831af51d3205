"""Where escapes are tried: two network namespaces joined by a cable, both thrown away afterwards.

    [ attacker, victim ] allod0 ──────── allod1 [ honeypot ]

Made in a user namespace, so it needs no privilege, cannot disturb the machine's own network, and vanishes with its
last process. `python -m allod.seal.lab.lab` runs the suite inside and writes JSON lines; suite.py reads them.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from allod.core.errors import AllodError, Unavailable
from allod.seal.devices.grants import NO_DEVICES, DeviceGrants
from allod.seal.enter import PARTS
from allod.seal.escapes.every import EVERY
from allod.seal.escapes.probe import INTERFACE, PROXY_PORT, TCP_PORT, UDP_PORT, Probe, Target
from allod.seal.lab.accomplice import be_accomplice
from allod.seal.lab.honeypot import BUFFER_BYTES, Belongings, ContactRecorder, be_victim, watch_cable
from allod.seal.launch import SealOptions, python_read_paths, start
from allod.seal.walls import kernel, netlink
from allod.seal.walls.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUSER

FAR_INTERFACE = "allod1"
_ATTACKER = ("10.77.0.1/24", "fd77::1/64")
_CONTROL = ("10.77.0.2", "fd77::2")  # the honeypot, as unsealed attempts know it
_SEALED = ("10.77.0.3", "fd77::3")  # and as sealed ones do: nothing at all may come here
_ATTEMPT_TIMEOUT_S, _CALLS_TIMEOUT_S, _BARRIER_TIMEOUT_S, _LATE_S = 6.0, 20.0, 3.0, 0.3
_SLOT_BYTES = 32
_SHARED = "shared"

CALLS = "calls"  # beside the names of EVERY: all the calls at once
_HINT = "allow user namespaces, or run as root; the kernel needs veth (CONFIG_VETH)"


class Record:
    """All that honeypot and victim have seen, read from their pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.marks: set[str] = set()

    def expect(self, *marks: str) -> None:
        """Read until all `marks` are there. Raises Unavailable when they do not come."""
        deadline = time.monotonic() + _BARRIER_TIMEOUT_S
        while not self.marks.issuperset(marks):
            readable, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise Unavailable("the honeypot or the victim does not answer", code="lab_unavailable", hint=_HINT)
            self.marks.update(os.read(self._descriptor, 65536).decode().split())


class Lab:
    """A running lab, in which `attempt` tries one escape at a time."""

    def __init__(
        self,
        directory: Path,
        record: Record,
        *,
        profile: str,
        devices: DeviceGrants,
        victim_pid: int,
        accomplice_pid: int,
        belongings: Belongings,
    ) -> None:
        self._directory = directory
        self._profile = profile
        self._devices = devices
        self._victim_pid = victim_pid
        self._accomplice_pid = accomplice_pid
        self._belongings = belongings
        self._num_attempts = 0
        self._signals = iter(range(signal.SIGRTMIN + 1, signal.SIGRTMAX))
        self._modes = iter(range(0o601, 0o700))
        self.record = record

    def attempt(self, probe: Probe, *, omit: tuple[str, ...], address: tuple[str, str]) -> dict[str, object]:
        """Start `probe` as an engine is started; what it said of itself, and the mark that would convict it."""
        target = self._target(probe, address)
        log = self._directory / f"{target.token}.log"
        arguments = ("allod.seal.escapes", probe.name, json.dumps(vars(target)))
        proxy = f"http://{target.address_4}:{PROXY_PORT}"
        process = start(self._options(arguments, log, omit, environment={"http_proxy": proxy}))
        status = process.wait(_ATTEMPT_TIMEOUT_S)
        if status is None:
            process.terminate(grace_s=0)
        self._look_into_socket_directory()
        self.settle()
        said = log.read_text().split("\n")
        killed = f"killed by {signal.Signals(-status).name}" if status is not None and status < 0 else ""
        return {
            "mark": target.mark(probe.leaves),
            "tried": said[0] == "trying",
            "said": " ".join(said[1:]).strip() or killed or ("hung" if status is None else f"exit status {status}"),
        }

    def make_calls(self, *, omit: tuple[str, ...]) -> dict[str, str]:
        """Make every system call that the profile refuses (escapes/calls.py): how each was answered, by its name."""
        log = self._directory / f"calls-{token_hex(8)}.log"
        arguments = ("allod.seal.escapes.calls", self._profile, str(self._victim_pid))
        process = start(self._options(arguments, log, omit))
        if process.wait(_CALLS_TIMEOUT_S) is None:
            process.terminate(grace_s=0)
        whole_lines = log.read_text().split("\n")[:-1]
        return dict(json.loads(line) for line in whole_lines if line.startswith("["))

    def settle(self) -> None:
        """Return when the honeypot and the victim have seen all that was sent before this call.

        Raises Unavailable where they do not answer, ChildProcessError where the accomplice hears no more.
        """
        if os.waitid(os.P_PID, self._accomplice_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            raise ChildProcessError("the accomplice has ended: what was said to it nobody heard")
        flushes = to_honeypot, to_victim = f"allod-{token_hex(8)}", f"allod-{token_hex(8)}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(to_honeypot.encode(), (_CONTROL[0], UDP_PORT))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(to_victim.encode(), self._belongings.datagram_path)
        self.record.expect(*flushes)

    def _target(self, probe: Probe, address: tuple[str, str]) -> Target:
        own, index = self._belongings, self._num_attempts
        self._num_attempts += 1
        return Target(
            token=f"allod-{token_hex(8)}",
            signal=next(self._signals) if probe.leaves == "signal" else 0,
            mode=next(self._modes) if probe.leaves == "mode" else 0,
            address_4=address[0],
            address_6=address[1],
            stream_path=own.stream_path,
            datagram_path=own.datagram_path,
            abstract_stream=own.abstract_stream,
            abstract_datagram=own.abstract_datagram,
            victim_pid=self._victim_pid,
            victim_socket=own.live_socket.fileno(),
            victim_buffer=ctypes.addressof(own.buffer) + index % (BUFFER_BYTES // _SLOT_BYTES) * _SLOT_BYTES,
            victim_file=str(own.file),
            accomplice_pid=self._accomplice_pid,
            shared_file=str(self._directory / _SHARED),
            socket_dir=str(self._directory / "sockets"),
        )

    def _options(
        self, arguments: tuple[str, ...], log: Path, omit: tuple[str, ...], environment: Mapping[str, str] = {}
    ) -> SealOptions:
        return SealOptions(
            command=(sys.executable, "-S", "-P", "-m", *arguments),
            profile=self._profile,
            devices=self._devices,
            socket_dir=self._directory / "sockets",
            read_paths=(*python_read_paths(), self._directory / _SHARED),
            environment={"PYTHONPATH": str(Path(__file__).resolve().parents[3]), **environment},
            log_path=log,
            unsafe_no_seal=bool(omit),
            unsafe_omit=omit,
        )

    def _look_into_socket_directory(self) -> None:
        for entry in (self._directory / "sockets").iterdir():
            if entry.is_symlink() or not entry.is_socket():
                self.record.marks.add(entry.name)
            entry.unlink()


@contextmanager
def open_lab(directory: Path, *, profile: str, devices: DeviceGrants = NO_DEVICES) -> Iterator[Lab]:
    """Make the lab in `directory` (empty, ours) and leave the caller's namespaces for it. Needs a single thread.
    `profile` is what attempts are made under, `devices` what they are granted.

    Raises Unavailable `lab_unavailable` where namespaces or virtual cables cannot be made.
    """
    (directory / "sockets").mkdir(mode=0o700)
    (directory / "key").write_text("secret")
    (directory / _SHARED).write_text("what a model's file is to an engine and to others")
    reading, writing = os.pipe()
    record, recorder = Record(reading), ContactRecorder(writing)
    children: list[int] = []
    try:
        _leave_namespaces()
        children.append(_fork(lambda: _be_honeypot(recorder)))
        record.expect("honeypot-apart")
        _lay_cable(children[0])
        record.expect("honeypot-ready")
        belongings = _belongings(directory)
        children.append(_fork(lambda: be_victim(recorder, belongings)))
        record.expect("victim-ready")
        children.append(_fork(lambda: be_accomplice(recorder, directory / _SHARED)))
        record.expect("accomplice-ready")
        yield Lab(
            directory,
            record,
            profile=profile,
            devices=devices,
            victim_pid=children[1],
            accomplice_pid=children[2],
            belongings=belongings,
        )
    except OSError as error:
        raise Unavailable(f"no lab: {error}", code="lab_unavailable", hint=_HINT) from error
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _leave_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)
    except OSError:
        kernel.unshare(CLONE_NEWNET | CLONE_NEWIPC)  # root, where user namespaces are switched off
        return
    own = Path("/proc/self")
    (own / "uid_map").write_text(f"0 {user} 1")
    (own / "setgroups").write_text("deny")
    (own / "gid_map").write_text(f"0 {group} 1")


def _fork(become: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            kernel.die_with_parent(signal.SIGKILL)
            become()
        except OSError as error:
            sys.stderr.write(f"error: {error}\n")
        finally:
            os._exit(1)
    return pid


def _lay_cable(honeypot_pid: int) -> None:
    netlink.switch_on("lo")
    netlink.add_cable(INTERFACE, peer=FAR_INTERFACE, peer_pid=honeypot_pid)
    _connect_interface(INTERFACE, _ATTACKER)
    for setting, value in (("ping_group_range", "0 0"), ("tcp_fastopen", "5")):
        with suppress(OSError):  # read-only in some containers: that escape then does not apply
            Path("/proc/sys/net/ipv4", setting).write_text(value)


def _connect_interface(name: str, addresses: tuple[str, ...]) -> None:
    netlink.switch_on(name)
    for address in addresses:
        with suppress(OSError):  # no IPv6 on this kernel: those escapes then do not apply
            netlink.add_address(name, address)


def _be_honeypot(recorder: ContactRecorder) -> None:
    kernel.unshare(CLONE_NEWNET)
    recorder.mark("honeypot-apart")
    while FAR_INTERFACE not in (name for _, name in socket.if_nameindex()):
        time.sleep(0.005)
    _connect_interface(FAR_INTERFACE, tuple(f"{four}/24" for four, _ in (_CONTROL, _SEALED)))
    _connect_interface(FAR_INTERFACE, tuple(f"{six}/64" for _, six in (_CONTROL, _SEALED)))
    with suppress(OSError):
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("515")  # accept data in the first packet, no cookie
    quiet = socket.inet_aton(_SEALED[0]), socket.inet_pton(socket.AF_INET6, _SEALED[1])
    watch_cable(recorder, FAR_INTERFACE, quiet=quiet)


def _belongings(directory: Path) -> Belongings:
    return Belongings(
        stream_path=str(directory / "stream"),
        datagram_path=str(directory / "datagram"),
        abstract_stream=f"{directory}/stream",
        abstract_datagram=f"{directory}/datagram",
        file=directory / "key",
        live_socket=socket.create_connection((_CONTROL[0], TCP_PORT), timeout=3.0),
        buffer=ctypes.create_string_buffer(BUFFER_BYTES),
    )


def run(
    directory: Path,
    *,
    profile: str,
    devices: DeviceGrants,
    omit: tuple[str, ...],
    tell: Callable[[dict[str, object]], None],
) -> None:
    """Every escape unsealed, then every escape sealed, and so with every call that is refused; `tell` hears how many
    attempts there will be, each attempt, and in the end all the marks."""
    tell({"phase": "plan", "attempts": 2 * (len(EVERY) + 1)})
    with open_lab(directory, profile=profile, devices=devices) as lab:
        for phase, parts, address in (("control", PARTS, _CONTROL), ("sealed", omit, _SEALED)):
            tell({"phase": phase, "probe": CALLS, "answers": lab.make_calls(omit=parts)})
            for probe in EVERY.values():
                tell({"phase": phase, "probe": probe.name, **lab.attempt(probe, omit=parts, address=address)})
        time.sleep(_LATE_S)
        lab.settle()
        tell({"phase": "record", "marks": sorted(lab.record.marks)})


def main(directory: str, profile: str, devices: str, *omit: str) -> None:
    """Run the suite in `directory`; `devices` is JSON of nodes and of whether threads may be named.

    Writes one JSON object a line; an error is a line too."""

    def tell(message: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    kernel.die_with_parent(signal.SIGKILL)
    try:
        nodes, names_threads = json.loads(devices)
        grants = DeviceGrants(tuple(map(Path, nodes)), names_threads=names_threads)
        run(Path(directory), profile=profile, devices=grants, omit=omit, tell=tell)
    except AllodError as error:
        tell({"phase": "error", "message": error.message, "code": error.code, "hint": error.hint})


if __name__ == "__main__":
    main(*sys.argv[1:])
