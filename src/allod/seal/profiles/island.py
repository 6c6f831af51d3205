"""The profile `island`: a group of processes (torch.distributed, vLLM) that reach one another by loopback.

Here the namespaces are the wall and the filter is the moat: no family of sockets that ignores a network namespace
(VSOCK), no hand-made packets, no way to another namespace or another process's memory, and none of the large doors
into the kernel (bpf, io_uring, perf, userfaultfd, keys). Whom a signal or a path can reach is for the PID namespace
and the root to say.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType

from allod.seal.profiles.sealed import CLONE_NEW, FCNTLS, IOCTLS, MADVICE, OWN_LIMITS, PRCTLS, SOCKET_TYPE
from allod.seal.walls.bpf import Check, Rule, one_of

_NETLINK_ROUTE, _SCHED_OTHER = 0, 0
_PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_PRCTLS = (*PRCTLS, 1, 2)  # SET_PDEATHSIG GET_PDEATHSIG: nothing here outlives the namespace's first process
_FCNTLS = (*FCNTLS, 1031, 1032)  # F_SETPIPE_SZ, F_GETPIPE_SZ: no F_SETOWN, and no lock on a file that others have, too
_IOCTLS = (
    *IOCTLS,
    *(0x8910, 0x8912, 0x8913, 0x8915, 0x8921, 0x8927, 0x8933),  # SIOCGIF: NAME CONF FLAGS ADDR MTU HWADDR INDEX
    0x8946,  # SIOCETHTOOL: how fast an interface is, which gloo asks
)


def rules(own_pid: int) -> dict[str, Rule]:
    """The calls that are allowed with these arguments only."""
    return {
        "socket": (*_internet(), *_any_kind(socket.AF_UNIX), *_questions_of_routes()),
        "socketpair": _any_kind(socket.AF_UNIX),
        "clone": ((Check(0, 0, mask=CLONE_NEW),),),  # threads and processes, in these namespaces
        "prctl": one_of(0, _PRCTLS),
        "sched_setscheduler": ((Check(1, _SCHED_OTHER),),),  # libzmq sets each thread's, and aborts where it cannot
        "prlimit64": OWN_LIMITS,
        "madvise": one_of(2, MADVICE),
        "ioctl": one_of(1, _IOCTLS),
        "fcntl": one_of(1, _FCNTLS),
    }


def _internet() -> Rule:
    return tuple(
        (Check(0, family), Check(1, kind, mask=SOCKET_TYPE), Check(2, protocol))
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        for protocol in _PROTOCOLS
    )


def _any_kind(family: int) -> Rule:
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
    return tuple((Check(0, family), Check(1, kind, mask=SOCKET_TYPE)) for kind in kinds)


def _questions_of_routes() -> Rule:
    return tuple(
        (Check(0, socket.AF_NETLINK), Check(1, kind, mask=SOCKET_TYPE), Check(2, _NETLINK_ROUTE))
        for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM)
    )


def _with_every_family() -> dict[str, Rule]:
    return {"socket": ((),)}


WEAKENINGS: Mapping[str, Callable[[], dict[str, Rule]]] = MappingProxyType({"families": _with_every_family})
