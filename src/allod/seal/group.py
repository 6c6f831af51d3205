"""The two processes that stand between the launcher and a sealed command.

    launcher ── keeper ──╢ first ── command ── its own processes
                         ╙ the PID namespace begins here

The kernel ends a PID namespace with its first process. The first must not be the command: a first process ignores the
signals it has no handler for, and must reap the orphans. The keeper stands outside and dies with the launcher; the
first dies with the keeper, and with it, at one stroke, all the others. Signals are handed down; SIGQUIT ends the lot.

The first goes on entering the seal before there is a command, since only a process of the namespace can mount its
/proc. There the command finds the first: as one that may not be looked into.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress

from allod.seal.walls import kernel

_HANDED_DOWN = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
_WAITED_FOR = _HANDED_DOWN | {signal.SIGCHLD, signal.SIGQUIT}


def become_first(report_fd: int | None) -> int:
    """Returns in the first process of the PID namespace; the caller, its keeper, only waits from here on, without any
    power. Needs CLONE_NEWPID to have been unshared.

    `report_fd` is the command's alone, so that its exec closes it. Returns a pipe to the keeper.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    hears, tells = os.pipe()
    first = os.fork()
    if first:
        os.close(tells)
        _close(report_fd)
        kernel.forbid_new_privileges()
        kernel.drop_capabilities()
        _stand_by(first, end=lambda: os.kill(first, signal.SIGKILL))
        _end_alike(os.read(hears, 16))
    os.close(hears)
    return tells


def become_command(report_fd: int | None, tells: int) -> None:
    """Returns in the second process; the first only waits from here on. `tells` is the first's pipe to its keeper."""
    kernel.die_with_parent(signal.SIGKILL)
    _end_if_nobody_hears(tells)
    kernel.show_to_kin(shown=False)
    command = os.fork()
    if command:
        _close(report_fd)
        status = _stand_by(command, end=lambda: None)
        os.write(tells, str(status).encode())
        os._exit(0)
    os.close(tells)
    kernel.show_to_kin(shown=True)  # the launcher reads in /proc what it is
    os.setsid()  # the session of its launcher has no number here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)


def _stand_by(child: int, *, end: Callable[[], None]) -> int:
    """Hand signals down to `child` and reap whatever ends, until it has; its status as of wait(2)."""
    while True:
        number = signal.sigwait(_WAITED_FOR)
        if number in _HANDED_DOWN:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        elif number == signal.SIGQUIT:
            end()
        while number == signal.SIGCHLD:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return status
            if not pid:
                break


def _end_alike(said: bytes) -> None:
    """End as the command did: with its exit status, or by the signal that ended it. No word: it was killed with all."""
    code = os.waitstatus_to_exitcode(int(said)) if said else -signal.SIGKILL
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED_FOR)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _end_if_nobody_hears(pipe: int) -> None:
    """The keeper may have ended before we asked to die with it; it has no process number that we could see."""
    poll = select.poll()
    poll.register(pipe, 0)
    if poll.poll(0):  # POLLERR: the reading end is closed
        os._exit(1)


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
