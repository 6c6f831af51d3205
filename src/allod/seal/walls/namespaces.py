"""The first wall: namespaces of its own, in which there is no interface that is up, no route and no power.

User (no capability counts outside it), network (nothing to send through), IPC (no shared memory or queues of others),
UTS, and PID (no number of a process of others). A mount namespace would need a new root; what it would hide is refused
by Landlock and the filter (docs/decisions/0002-seal.md). An island, whose processes may connect, has that too, and
loopback (docs/decisions/0008-island.md).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from allod.seal.walls import netlink
from allod.seal.walls.kernel import unshare

CLONE_NEWNS, CLONE_NEWPID = 0x0002_0000, 0x2000_0000
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x4000_0000
_INSIDE_ID = 1000  # never 0: an exec by user 0 would be given capabilities again


def isolate() -> None:
    """Leave the caller's namespaces. Needs a single thread and no privilege; raises OSError."""
    _forget_groups()
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    own = Path("/proc/self")
    (own / "uid_map").write_text(f"{_INSIDE_ID} {user} 1")
    (own / "setgroups").write_text("deny")
    (own / "gid_map").write_text(f"{_INSIDE_ID} {group} 1")


def isolate_group() -> None:
    """As `isolate`, with loopback up, and mounts of one's own."""
    isolate()
    socket.sethostname("localhost")
    netlink.switch_on("lo")
    unshare(CLONE_NEWNS)


def isolate_processes() -> None:
    """A PID namespace for the processes made from now on. After `isolate`; raises OSError."""
    unshare(CLONE_NEWPID)


def _forget_groups() -> None:
    """Root can leave its supplementary groups; an ordinary user keeps them, and Landlock bounds what they open."""
    try:
        os.setgroups([])
    except PermissionError:
        return
