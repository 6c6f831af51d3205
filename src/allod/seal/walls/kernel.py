"""The few kernel calls that Python does not offer, each raising OSError. Linux, glibc or musl."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from functools import cache

_CAPABILITY_VERSION_3 = 0x2008_0522
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 4, 22, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_CLOSE_RANGE, _CLOSE_RANGE_CLOEXEC = 436, 4
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_MNT_DETACH = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    """A raw system call. Integers go as 64 bits, as the kernel's ABI wants them."""
    widened = (ctypes.c_long(item) if isinstance(item, int) else item for item in arguments)
    return _check(_libc().syscall(ctypes.c_long(number), *widened), what)


def unshare(flags: int) -> None:
    """New namespaces for this process (unshare(2))."""
    _check(_libc().unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, *, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    result = _libc().mount(*texts[:3], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount {source or kind or ''} on {target}")


def set_mount_attributes(target: str, attributes: int, *, recursive: bool) -> None:
    """Add `attributes` (MOUNT_ATTR_*) to a mount, and to those beneath it (mount_setattr(2))."""
    request = struct.pack("<4Q", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    path, what = os.fsencode(target), f"attributes of {target}"
    syscall(_MOUNT_SETATTR, _AT_FDCWD, path, flags, request, len(request), what=what)


def make_root(folder: str) -> None:
    """Make `folder`, a mount point, the root, and let go of the old one (pivot_root(2), its NOTES)."""
    os.chdir(folder)
    _check(_libc().pivot_root(b".", b"."), "pivot_root")
    _check(_libc().umount2(b".", ctypes.c_int(_MNT_DETACH)), "leave the old root")
    os.chdir("/")


def prctl(option: int, *arguments: object, what: str) -> int:
    """prctl(2), its unused arguments zero as several options demand."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    widened = (ctypes.c_ulong(item) if isinstance(item, int) else item for item in padded)
    return _check(_libc().prctl(ctypes.c_int(option), *widened), what)


def forbid_new_privileges() -> None:
    """No setuid file or file capability helps from here on; needed before Landlock and seccomp."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, what="no_new_privs")


def die_with_parent(signal_number: int) -> None:
    """Ask for `signal_number` when the parent thread ends. A change of credentials may clear it (prctl(2))."""
    prctl(_PR_SET_PDEATHSIG, signal_number, what="parent death signal")


def show_to_kin(*, shown: bool) -> None:
    """Whether processes of the same user may look into this one: its memory, root and descriptors in /proc."""
    prctl(_PR_SET_DUMPABLE, int(shown), what="dumpable")


def drop_capabilities() -> None:
    """Empty every set. The bounding set needs CAP_SETPCAP; without it no_new_privs keeps the set useless."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, what="ambient capabilities")
    for capability in range(64):
        try:
            if prctl(_PR_CAPBSET_READ, capability, what="bounding set"):
                prctl(_PR_CAPBSET_DROP, capability, what="bounding set")
        except OSError:  # past the last capability, or an ordinary user outside a namespace of their own
            break
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc().capset(header, nothing), "capset")


def load_filter(program: bytes) -> None:
    """Install a seccomp filter on this (single) thread and all it becomes."""
    argument = _Program(len(program) // 8, program)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(argument), what="seccomp")


def close_on_exec_from(descriptor: int) -> None:
    """Mark every descriptor from `descriptor` up to be closed by exec, whoever leaked it to us."""
    try:
        syscall(_CLOSE_RANGE, descriptor, 0xFFFF_FFFF, _CLOSE_RANGE_CLOEXEC, what="close_range")
    except OSError:  # before Linux 5.11
        for open_descriptor in range(descriptor, os.sysconf("SC_OPEN_MAX")):
            try:
                os.set_inheritable(open_descriptor, False)
            except OSError:
                continue


def is_linux() -> bool:
    """Whether any part of the seal can exist here."""
    return sys.platform == "linux"
