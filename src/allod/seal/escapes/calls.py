"""Every system call that a profile does not allow, made once: `python -m allod.seal.escapes.calls PROFILE VICTIM_PID`.

The arguments are such that nothing happens even unsealed: mostly -1 throughout, which the kernel finds wrong once it
looks. What convicts the seal is the answer: a call that it refuses is answered by the filter (EPERM, or ENOSYS for
one that it does not know), before the kernel looks; the same call unsealed must be answered otherwise, else it says
nothing. The answers go to standard output, one JSON line each.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from allod.seal.profiles import profile
from allod.seal.walls import syscalls
from allod.seal.walls.kernel import syscall

_NOTHING = ("-1",) * 6
_PAGE_BYTES = 4096
_LATER, _NUM_LATER = "later", 64  # numbers that no Linux known to us has given away
_VFORK = bytes.fromhex("b83a000000 0f05 85c0 7509 31ff b83c000000 0f05 c3")  # vfork; in the child: exit(0)

# `name arguments`: `victim` is a process number, `page` the address of 4096 zeros, `ones` of as many bytes 0xFF
_BY_EITHER: Final = """
other families of sockets, and kinds that ignore a namespace:
  socket 16 3 9; socket 17 3 0; socket 40 1 0; socket 38 5 0; socketpair 1 3 0 page
new namespaces, and processes made by flags that cannot be read:
  clone -1 -1 -1 -1 -1
what a process sets of itself, for others to see, or to be let in by:
  prctl 15 page; prctl 1398164801 0 0 0 0; prctl 4 1; prctl 22 -1; prctl 29 50000; prctl 35 15 page 4 0;
  prctl 36 1; prctl 38 1 0 0 0; prctl 62 0 victim 0 page; prctl 67 1 0 0 0; prctl 1499557217 victim
limits, of others and of itself:
  prlimit64 victim 7 0 page; prlimit64 0 4 page 0
memory shared with strangers of the same content:
  madvise page 4096 12
terminals, signals that the kernel sends for one, leases and locks that others notice:
  ioctl 1 0x5412 page; ioctl 1 0x8902 page; fcntl 1 8 victim; fcntl 1 10 0; fcntl 1 1024 2;
  fcntl 1 1026 0; fcntl 1 5 page; fcntl 1 6 page; fcntl 1 7 page; fcntl 1 36 page; fcntl 1 37 page; fcntl 1 38 page;
  fcntl 1 1033 0; fcntl 1 1036 page
another process:
  sched_setaffinity victim 8 ones; sched_setscheduler victim 1 page; sched_setparam victim page;
  sched_getattr victim page 64 0; sched_rr_get_interval victim page; setpriority 0 victim 0; ioprio_get 1 victim;
  ioprio_set 1 victim 0x4004; get_robust_list victim page page; kcmp victim victim 1 0 0;
  migrate_pages victim 0 0 0; move_pages victim 0 0 0 0 0; pidfd_open victim 0; process_vm_readv victim page 0 page 0 0;
  process_vm_writev victim page 0 page 0 0
others, which -1 would not tell apart or would change something by:
  umask 18; msgget 24940 0; modify_ldt 0 page 0; fanotify_init 0x200 0; setrlimit 4 page
"""
_BY_AN_ENGINE: Final = """
sockets with an address, or to the world:
  socket 2 1 0; socket 10 2 0; socket 1 2 0; socketpair 1 2 0 page; sendto -1 page 1 0 page 16
processes:
  clone 17 0 0 0 0; prctl 1 9
interfaces:
  ioctl 1 0x8946 0
another process:
  kill victim 0; kill -1 -1; tgkill victim victim 0; sched_getaffinity victim 8 page; sched_setscheduler victim 0 page;
  sched_getscheduler victim; sched_getparam victim page; getpgid victim; getsid victim; getpriority 0 victim
"""


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One call to make. `refusal` is what the filter answers; `name` tells it apart from all others."""

    name: str
    number: int
    arguments: tuple[str, ...]
    refusal: str


def calls_of(name: str, machine: str) -> list[SystemCall]:
    """All the calls that the profile `name` must refuse on `machine`, in the order in which they are tried."""
    kept = profile.PROFILES[name]
    allowed = syscalls.numbers(kept.allowed, machine)
    refused = syscalls.numbers(syscalls.REFUSED, machine) | syscalls.numbers(syscalls.ALLOWED_BY_ARGUMENT, machine)
    absent = {
        call: number
        for table in (syscalls.ABSENT, syscalls.ISLAND_ALLOWED)
        for call, number in syscalls.numbers(table, machine).items()
        if call not in refused
    }
    known = {call: number for call, number in (refused | absent).items() if call not in allowed}
    listed = [row for row in _list_calls(is_group=kept.is_group) if row[0] in known]
    explicit = {row[0] for row in listed}
    rest = [(call, *_NOTHING) for call in known if call not in explicit and call not in kept.rules(0)]
    calls = [
        SystemCall(
            name=" ".join(row if row[1:] != _NOTHING else row[:1]),
            number=known[row[0]],
            arguments=row[1:],
            refusal="ENOSYS" if row[0] in absent else "EPERM",
        )
        for row in (*listed, *rest)
    ]
    return [*calls, SystemCall(_LATER, syscalls.LAST + 1, _NOTHING, "ENOSYS")]


def _list_calls(*, is_group: bool) -> Iterator[tuple[str, ...]]:
    for table in (_BY_EITHER, *(() if is_group else (_BY_AN_ENGINE,))):
        lines = " ; ".join(line.rstrip(";") for line in table.splitlines() if not line.endswith(":"))
        yield from (tuple(entry.split()) for entry in lines.split(";") if entry.strip())


class _Caller:
    """Makes calls, and says how they were answered."""

    def __init__(self, victim_pid: int) -> None:
        self._pages = [mmap.mmap(-1, _PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
        self._pages[1].write(b"\xff" * _PAGE_BYTES)
        page, ones = (ctypes.addressof(ctypes.c_char.from_buffer(page)) for page in self._pages)
        self._values = {"victim": victim_pid, "page": page, "ones": ones}

    def answer(self, call: SystemCall) -> str:
        """`done`, or the name of the error."""
        if call.name == _LATER:
            answers = (self._answer(call.number + more, call.arguments) for more in range(_NUM_LATER))
            return next((answer for answer in answers if answer != call.refusal), call.refusal)
        if call.name == "vfork":
            return _error_of(_vfork())
        return self._answer(call.number, call.arguments, is_fork=call.name.split()[0] in ("fork", "clone"))

    def _answer(self, number: int, names: tuple[str, ...], *, is_fork: bool = False) -> str:
        self._pages[0][:] = bytes(_PAGE_BYTES)  # the call before may have written there
        arguments = [self._values[name] if name in self._values else int(name, 0) for name in names]
        try:
            result = syscall(number, *arguments, what="")
        except OSError as error:
            return _error_of(-(error.errno or 0))
        if is_fork and result == 0:
            os._exit(0)  # the child
        return "done"


def _error_of(result: int) -> str:
    return "done" if result >= 0 else errno.errorcode.get(-result, str(-result))


def _vfork() -> int:
    """A raw vfork by machine code of our own: its child ends before it touches the stack that is ours as well."""
    page = mmap.mmap(-1, _PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    page.write(_VFORK)
    return int(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())


def _leave_session() -> None:
    """Go on as a child where one may be made: who leads a session cannot make another, seal or no seal."""
    with suppress(PermissionError):
        if child := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def main(name: str, victim_pid: str) -> None:
    """Make the calls of profile `name`; `victim_pid` is the process that some of them name."""
    _leave_session()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    caller = _Caller(int(victim_pid))
    for call in calls_of(name, platform.machine()):
        os.write(1, json.dumps([call.name, caller.answer(call)]).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
