"""Escapes through another process of the same user: its sockets, its namespaces, its memory, its attention."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from allod.seal.escapes.probe import UDP_PORT, Probe, Target
from allod.seal.walls.kernel import syscall, unshare
from allod.seal.walls.namespaces import CLONE_NEWNET

_PIDFD_OPEN, _PIDFD_GETFD, _PIDFD_SEND_SIGNAL = 434, 438, 424  # the same numbers on every architecture
_F_SETSIG = 10
_CHILD = f"import socket, sys; socket.socket(2, 2).sendto(sys.argv[2].encode(), (sys.argv[1], {UDP_PORT}))"
_PTRACE_ATTACH, _PTRACE_POKEDATA, _PTRACE_DETACH = 16, 4, 17


def _libc(name: str, *arguments: object) -> None:
    """Call a C library function; raise what it says in errno."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*(ctypes.c_long(item) if isinstance(item, int) else item for item in arguments)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _pidfd_open(pid: int) -> int:
    return syscall(_PIDFD_OPEN, pid, 0, what="pidfd_open")


def _stolen_socket(target: Target) -> None:
    descriptor = syscall(_PIDFD_GETFD, _pidfd_open(target.victim_pid), target.victim_socket, 0, what="pidfd_getfd")
    os.write(descriptor, target.payload)


def _setns(target: Target) -> None:
    try:
        unshare(CLONE_NEWNET)  # so that, unsealed too, only setns brings the network back
    finally:
        _libc("setns", _pidfd_open(target.victim_pid), CLONE_NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(target.payload, (target.address_4, UDP_PORT))


def _memory_file(target: Target) -> None:
    descriptor = os.open(f"/proc/{target.victim_pid}/mem", os.O_WRONLY)
    os.pwrite(descriptor, target.payload, target.victim_buffer)


def _memory_call(target: Target) -> None:
    payload = ctypes.create_string_buffer(target.payload)
    here = struct.pack("QQ", ctypes.addressof(payload), len(target.payload))
    there = struct.pack("QQ", target.victim_buffer, len(target.payload))
    _libc("process_vm_writev", target.victim_pid, here, 1, there, 1, 0)


def _ptrace(target: Target) -> None:
    _libc("ptrace", _PTRACE_ATTACH, target.victim_pid, 0, 0)
    os.waitpid(target.victim_pid, 0)
    padded = target.payload + b"\0" * (-len(target.payload) % 8)
    for index, (word,) in enumerate(struct.iter_unpack("q", padded)):
        _libc("ptrace", _PTRACE_POKEDATA, target.victim_pid, target.victim_buffer + 8 * index, word)
    _libc("ptrace", _PTRACE_DETACH, target.victim_pid, 0, 0)


def _kill(target: Target) -> None:
    os.kill(target.victim_pid, target.signal)


def _pidfd_signal(target: Target) -> None:
    syscall(_PIDFD_SEND_SIGNAL, _pidfd_open(target.victim_pid), target.signal, None, 0, what="pidfd_send_signal")


def _signal_by_owner(target: Target) -> None:
    reader, writer = socket.socketpair()
    fcntl.fcntl(reader, fcntl.F_SETOWN, target.victim_pid)
    fcntl.fcntl(reader, _F_SETSIG, target.signal)
    fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
    writer.send(b"x")


def _signal_by_queue(target: Target) -> None:
    _libc("sigqueue", target.victim_pid, target.signal, 0)


def _child(target: Target) -> None:
    if os.fork() == 0:
        os.setsid()
        command = [sys.executable, "-S", "-c", _CHILD, target.address_4, target.token]
        os.execv(sys.executable, command)  # noqa: S606 - to become it, without a shell
    os.wait()


def _program_in_memory(target: Target) -> None:
    descriptor = os.memfd_create("program")
    with os.fdopen(os.dup(descriptor), "wb") as program:
        program.write(Path(sys.executable).read_bytes())
    command = [sys.executable, "-S", "-c", _CHILD, target.address_4, target.token]
    os.execv(f"/proc/self/fd/{descriptor}", command)  # noqa: S606 - to become it, without a shell


PROBES = (
    Probe("stolen-socket", "pidfd_getfd: take a live socket out of the gateway", _stolen_socket),
    Probe("setns", "enter the gateway's network namespace", _setns),
    Probe("memory-file", "write the gateway's memory through /proc/PID/mem", _memory_file),
    Probe("memory-call", "write the gateway's memory by process_vm_writev", _memory_call),
    Probe("ptrace", "attach to the gateway as a debugger", _ptrace),
    Probe("kill", "signal the gateway", _kill, leaves="signal"),
    Probe("queued-signal", "signal the gateway by rt_sigqueueinfo", _signal_by_queue, leaves="signal"),
    Probe("pidfd-signal", "signal the gateway by a pidfd", _pidfd_signal, leaves="signal"),
    Probe("child", "start another program, in a session of its own, that sends", _child),
    Probe("program-in-memory", "become a program that has no path, and send", _program_in_memory),
    Probe(
        "owned-signal", "have the kernel signal the gateway: F_SETOWN and O_ASYNC", _signal_by_owner, leaves="signal"
    ),
)
