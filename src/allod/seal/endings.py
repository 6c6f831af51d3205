"""How a sealed process ended, in words for whoever runs it."""

from __future__ import annotations

import signal

_MEANINGS = {
    signal.SIGKILL: "out of memory, or an operator",
    signal.SIGABRT: "it gave up, as for want of memory",
    signal.SIGSEGV: "it reached for memory that is not its own",
    signal.SIGBUS: "what it had mapped is gone: a file cut short, a full disk or memory",
    signal.SIGILL: "an instruction that this processor does not have",
    signal.SIGFPE: "arithmetic that has no result",
    signal.SIGSYS: "a system call that the seal refuses",
    signal.SIGTERM: "it was asked to",
}
_FOR_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGBUS)
MEMORY_HINT = (
    "if it was memory: a smaller model, fewer model.slots or less model.context_tokens; model.spare_mib ends an engine "
    "before the kernel ends others"
)


def how_it_ended(status: int) -> str:
    """`ended with exit status 1`, or `was ended by SIGKILL (signal 9: out of memory, or an operator)`.

    `status` as of `SealedProcess.poll`: negative is the signal that ended it.
    """
    if status >= 0:
        return f"ended with exit status {status}"
    if -status not in set(signal.Signals):
        return f"was ended by signal {-status}"
    number = signal.Signals(-status)
    meaning = f": {_MEANINGS[number]}" if number in _MEANINGS else ""
    return f"was ended by {number.name} (signal {-status}{meaning})"


def may_be_memory(status: int) -> bool:
    """Whether a process that ended so may have had too little of it."""
    return -status in _FOR_MEMORY
