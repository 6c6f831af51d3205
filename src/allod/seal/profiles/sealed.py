"""The profile `sealed`: a process that may answer on Unix stream sockets and may connect to nothing.

llama.cpp's server makes its own listener, so `socket` is allowed for AF_UNIX with SOCK_STREAM alone;
that one rule is also what makes `sendmsg` safe, whose address a filter cannot see: a stream socket refuses an address.
`recvmsg` is refused because it is the only way for a foreign descriptor to come in.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType

from allod.seal.walls.bpf import Check, Rule, null_pointer, one_of

CLONE_THREAD = 0x0001_0000
CLONE_NEW = 0x7E02_0000  # mount, cgroup, UTS, IPC, user, PID, network
SOCKET_TYPE = 0xFFFF_FFFF ^ (0o4000 | 0o2000000)  # without SOCK_NONBLOCK, SOCK_CLOEXEC
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
FCNTLS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD_CLOEXEC: no F_SETOWN (a signal)
PRCTLS = (3, 16)  # GET_DUMPABLE GET_NAME: no SET_NAME, SET_VMA (others read it), SET_PDEATHSIG (to outlive the gateway)
MADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 22, 23)  # no MERGEABLE: pages shared with strangers
OWN_LIMITS: Rule = ((Check(0, 0), *null_pointer(2)),)  # prlimit64: to read; others can read a limit that is set


def rules(own_pid: int) -> dict[str, Rule]:
    """The calls that are allowed with these arguments only."""
    itself = (0, own_pid)
    unix_stream = (Check(0, socket.AF_UNIX), Check(1, socket.SOCK_STREAM, mask=SOCKET_TYPE))
    return {
        "socket": (unix_stream,),
        "socketpair": (unix_stream,),
        "sendto": (null_pointer(4),),  # no destination
        "clone": ((Check(0, CLONE_THREAD, mask=CLONE_THREAD | CLONE_NEW),),),  # a thread, never a process
        "prctl": one_of(0, PRCTLS),
        "prlimit64": OWN_LIMITS,
        "ioctl": one_of(1, IOCTLS),
        "fcntl": one_of(1, FCNTLS),
        "madvise": one_of(2, MADVICE),
        "sched_getaffinity": one_of(0, itself),
        "getpgid": one_of(0, itself),
        "getsid": one_of(0, itself),
        "getpriority": one_of(1, itself),
        "kill": ((Check(0, own_pid),),),
        "tgkill": ((Check(0, own_pid),),),  # raise() and abort()
    }


def _with_datagrams() -> dict[str, Rule]:
    any_unix = ((Check(0, socket.AF_UNIX),),)
    return {"socket": any_unix, "socketpair": any_unix, "sendto": ((),)}


WEAKENINGS: Mapping[str, Callable[[], dict[str, Rule]]] = MappingProxyType(
    {"datagrams": _with_datagrams}  # what a filter that thinks only of `connect` and of address families lets by
)
