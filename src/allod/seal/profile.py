"""The profile `sealed`: a process that may answer on Unix stream sockets and may connect to nothing.

An allowlist. llama.cpp's server makes its own listener, so `socket` is allowed for AF_UNIX with SOCK_STREAM alone;
that one rule is also what makes `sendmsg` safe, whose address a filter cannot see: a stream socket refuses an address.
`recvmsg` is refused because it is the only way for a foreign descriptor to come in.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from allod.seal import bpf, syscalls
from allod.seal.bpf import Check, Rule, is_null

NAME = "sealed"
MACHINES = frozenset(bpf.ARCHITECTURES) & frozenset(syscalls.MACHINES)

_CLONE_THREAD = 0x0001_0000
_CLONE_NEW = 0x7E02_0000  # mount, cgroup, UTS, IPC, user, PID, network
_SOCKET_TYPE = 0xFFFF_FFFF ^ (0o4000 | 0o2000000)  # without SOCK_NONBLOCK, SOCK_CLOEXEC
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD_CLOEXEC: no F_SETOWN (a signal)
_PRCTLS = (3, 15, 16, 0x53564D41)  # GET_DUMPABLE SET_NAME GET_NAME SET_VMA: no SET_PDEATHSIG (to outlive the gateway)


def build(machine: str, *, own_pid: int, weaken: frozenset[str] = frozenset()) -> bytes:
    """The filter as BPF bytes. With `own_pid` 0 the bytes depend on this file alone: their digest names the profile.

    `weaken` holds names from WEAKENINGS and exists so that the escape suite can be seen to fail.
    """
    rules = _rules(own_pid)
    for name in sorted(weaken):
        rules |= WEAKENINGS[name]()
    numbers = syscalls.numbers(syscalls.ALLOWED_BY_ARGUMENT, machine)
    refused = syscalls.numbers(syscalls.REFUSED, machine)
    return bpf.program(
        machine,
        allowed=syscalls.numbers(syscalls.ALLOWED, machine).values(),
        refused=[number for name, number in refused.items() if name not in rules],
        rules=[((numbers | refused)[name], rule) for name, rule in rules.items()],
    )


def _rules(own_pid: int) -> dict[str, Rule]:
    unix_stream = (Check(0, socket.AF_UNIX), Check(1, socket.SOCK_STREAM, mask=_SOCKET_TYPE))
    return {
        "socket": (unix_stream,),
        "socketpair": (unix_stream,),
        "sendto": (is_null(4),),  # no destination
        "clone": ((Check(0, _CLONE_THREAD, mask=_CLONE_THREAD | _CLONE_NEW),),),  # a thread, never a process
        "prctl": _one_of(0, _PRCTLS),
        "prlimit64": ((Check(0, 0),),),  # its own limits
        "ioctl": _one_of(1, _IOCTLS),
        "fcntl": _one_of(1, _FCNTLS),
        "kill": ((Check(0, own_pid),),),
        "tgkill": ((Check(0, own_pid),),),  # raise() and abort()
    }


def _one_of(argument: int, values: tuple[int, ...]) -> Rule:
    return tuple((Check(argument, value),) for value in values)


def _with_datagrams() -> dict[str, Rule]:
    any_unix = ((Check(0, socket.AF_UNIX),),)
    return {"socket": any_unix, "socketpair": any_unix, "sendto": ((),)}


WEAKENINGS: dict[str, Callable[[], dict[str, Rule]]] = {
    "datagrams": _with_datagrams,  # what a filter that thinks only of `connect` and of address families lets by
}

NAMES = frozenset(WEAKENINGS)
