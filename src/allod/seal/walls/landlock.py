"""The second wall: only these files (Landlock, Documentation/userspace-api/landlock.rst).

Everything not granted by a rule is refused: reading, writing, executing, making. Where the kernel is new enough, so
are TCP ports (ABI 4), device ioctls (5), other processes' abstract sockets and signals (6); older kernels leave
those three to the namespace and the filter, which the escape suite shows.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from allod.seal.walls.kernel import syscall

MINIMUM_ABI = 3  # Linux 6.2: before it a file that may only be read can still be emptied

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _REMOVE_DIRECTORY, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIRECTORY, _MAKE_REGULAR, _MAKE_SOCKET, _REFER, _TRUNCATE = 1 << 7, 1 << 8, 1 << 9, 1 << 13, 1 << 14
_MAKE_SYMLINK = 1 << 12
_ASK_DEVICE = 1 << 15
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _ASK_DEVICE
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by the ABI that brought them

READ = _READ_FILE | _READ_DIRECTORY
EXECUTE = _EXECUTE | _READ_FILE
WRITE = READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIRECTORY | _REMOVE_FILE | _MAKE_DIRECTORY | _MAKE_REGULAR
ARRANGE = WRITE | _REFER  # and move files from one folder to another
SCRATCH = ARRANGE | _MAKE_SOCKET | _MAKE_SYMLINK
OVERWRITE = READ | _WRITE_FILE | _TRUNCATE  # what is there already, and nothing new
DEVICE = _READ_FILE | _WRITE_FILE | _ASK_DEVICE  # before ABI 5 a device that may be opened may be asked, too
LISTEN = _MAKE_SOCKET | _REMOVE_FILE  # a socket and nothing else: no file, no symlink to trick a reader with


class Grant(NamedTuple):
    """What may be done beneath `path` (or to it, when it is a file): one of the rights above."""

    path: Path
    rights: int


def newest_abi() -> int:
    """The kernel's Landlock ABI; raises OSError where Landlock is missing or switched off."""
    return syscall(_CREATE, None, 0, 1, what="landlock")


def restrict(grants: Iterable[Grant], *, abi: int, tcp: bool = False) -> None:
    """Put this process, for ever, under `grants` and nothing more. Needs no_new_privs; raises OSError.

    `tcp` leaves TCP to the namespace: Landlock knows ports and no addresses, so it cannot tell loopback from the world.
    """
    filesystem = _HANDLED[max(known for known in _HANDLED if known <= abi)]
    attributes = struct.pack("<QQQ", filesystem, 0 if tcp else 0b11, 0b11)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = syscall(_CREATE, attributes, len(attributes), 0, what="landlock ruleset")
    try:
        for grant in grants:
            _add(ruleset, grant, filesystem)
        syscall(_RESTRICT, ruleset, 0, what="landlock restrict")
    finally:
        os.close(ruleset)


def _add(ruleset: int, grant: Grant, handled: int) -> None:
    descriptor = os.open(grant.path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = grant.rights & handled & (-1 if grant.path.is_dir() else _FILE_ONLY)
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, descriptor))
        syscall(_ADD, ruleset, 1, rule, 0, what=f"landlock rule for {grant.path}")
    finally:
        os.close(descriptor)
