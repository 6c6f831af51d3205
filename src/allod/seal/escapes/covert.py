"""Escapes to an accomplice: a process of the same user, told in what the kernel lets one see or set of another."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

from allod.seal.escapes.probe import TIMEOUT_S, Probe, Target
from allod.seal.walls import kernel

_SET_NAME = 15
_SEEN_WITHIN_S = 0.3  # the accomplice looks every 0.02 s
LOCK = "hhqqi4x"  # struct flock: kind, whence, start, length, owner
SET_LOCK, GET_LOCK, READ_LOCK = 37, 36, 0  # F_OFD_SETLK F_OFD_GETLK F_RDLCK
SETTING = "/proc/sys/net/ipv4/tcp_fastopen_key"  # of a network namespace, so that the machine's stays as it is


def write_setting(number: int) -> None:
    """Write a tag's number there, as it has to be written."""
    digits = f"{number:032x}"
    Path(SETTING).write_text("-".join(digits[at : at + 8] for at in range(0, 32, 8)))


def _affinity(target: Target) -> None:
    """Each bit is the processor that the accomplice is told to run on; it goes back to all of them to acknowledge."""
    accomplice = target.accomplice_pid
    everywhere = os.sched_getaffinity(accomplice)
    if len(everywhere) < 2:
        os.sched_setaffinity(accomplice, everywhere)
        raise OSError(errno.ENODEV, "one processor says nothing")
    bits = [byte >> bit & 1 for byte in target.payload for bit in range(8)]
    deadline = time.monotonic() + 2 * TIMEOUT_S
    for bit in bits:
        os.sched_setaffinity(accomplice, {sorted(everywhere)[bit]})
        while os.sched_getaffinity(accomplice) != everywhere and time.monotonic() < deadline:
            time.sleep(0.0002)


def _name(target: Target) -> None:
    kernel.prctl(_SET_NAME, target.tag.encode(), what="PR_SET_NAME")
    time.sleep(_SEEN_WITHIN_S)


def _name_file(target: Target) -> None:
    Path("/proc/self/comm").write_text(target.tag)
    time.sleep(_SEEN_WITHIN_S)


def _change_setting(target: Target) -> None:
    write_setting(target.tag_number)
    time.sleep(_SEEN_WITHIN_S)


def _record_lock(target: Target) -> None:
    with Path(target.shared_file).open("rb") as file:
        lock = struct.pack(LOCK, READ_LOCK, os.SEEK_SET, target.tag_number, 1, 0)
        fcntl.fcntl(file, SET_LOCK, lock)
        time.sleep(_SEEN_WITHIN_S)


PROBES = (
    Probe("affinity", "tell an accomplice on which processor to run, a bit at a time", _affinity),
    Probe("name", "take a name that an accomplice reads in /proc", _name, leaves="tag"),
    Probe("name-file", "take such a name by writing it to /proc", _name_file, leaves="tag"),
    Probe("setting", "change a setting of the kernel by writing it to /proc/sys", _change_setting, leaves="tag"),
    Probe(
        "record-lock", "lock a byte of a file that both may read: which one is the message", _record_lock, leaves="tag"
    ),
)
