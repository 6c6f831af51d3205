"""Whether a started engine is still of use: it makes progress, lets go of what nobody waits for, and keeps its size.

Progress is anything that it says to anybody: a token, a batch of a prompt, the state of its slots. Only who says
nothing for a while is asked, and only who says nothing after that, to nobody, for `hung_s` is hung. A probe that goes
unanswered while tokens come is no reason to end anything.

The kernel tells two cases sooner, after `still_s`: a process that is stopped, and one that owes a word and neither uses
processor time nor waits for a processor or a disk. A busy engine, however slow, is neither. One that has accelerators
computes without processor time, asleep in a call of their driver: of it only the first case is told so soon.

Memory is bounded by what it holds of its own (`RssAnon`) beyond what it held when it was ready: that counts what is
used, whatever the model, while a limit of the kernel's (RLIMIT_DATA) counts what is reserved and would have to be
guessed before weights, caches and buffers are there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable

FEW_TICKS = 2  # of processor time, hundredths of a second: what taking up a question takes, and no more than that


class Process(NamedTuple):
    """What the kernel says of a process: the memory that it holds and that is no file's, its processor time, whether it
    is stopped, and whether any of its threads runs, or waits for a processor or a disk."""

    own_bytes: int = 0
    num_ticks: int = 0
    is_stopped: bool = False
    is_at_work: bool = True


class WatchedEngine(Protocol):
    """What is asked of an engine. `heard_s`: when it last said anything, by the loop's clock."""

    is_stuck: bool

    @property
    def heard_s(self) -> float: ...

    async def probe(self) -> None:
        """Ask for a word. Raises Unavailable."""
        ...


class Health:
    """Of one engine and its process `pid`, which may grow by `spare_bytes` once it is ready. With `has_accelerators`
    it may compute elsewhere, where the kernel does not see it."""

    def __init__(
        self, engine: WatchedEngine, pid: int, deadlines: Deadlines, *, spare_bytes: int, has_accelerators: bool = False
    ) -> None:
        self._engine = engine
        self._process = Path(f"/proc/{pid}")
        self._deadlines = deadlines
        self._spare_bytes = spare_bytes
        self._has_accelerators = has_accelerators
        self._ready_bytes: int | None = None
        self._asked_s: float | None = None  # since when it owes a word
        self._probe: asyncio.Task[None] | None = None
        self._moved_s: float | None = None  # when it last was not stopped, and owed no word or computed something
        self._num_ticks = 0  # then

    async def fault(self) -> str | None:
        """What is wrong with it by now. To be asked a few times a second, until `close`."""
        process = await asyncio.to_thread(_look_at, self._process)
        if self._ready_bytes is None:
            self._ready_bytes = process.own_bytes
        if self._engine.is_stuck:
            return f"did not let go of work within {self._deadlines.let_go_s:g} s"
        if (grown := process.own_bytes - self._ready_bytes) > self._spare_bytes:
            return f"grew by {grown >> 20} MiB, and {self._spare_bytes >> 20} MiB are allowed"
        silent_s = self._silent_s()
        if silent_s >= self._deadlines.hung_s:
            return f"said nothing for {self._deadlines.hung_s:g} s although it was asked"
        if self._still_s(process, owes=silent_s > 0) >= self._deadlines.still_s:
            what = "was stopped" if process.is_stopped else "said and computed nothing although it was asked"
            return f"{what} for {self._deadlines.still_s:g} s"
        return None

    def close(self) -> None:
        """Ask nothing more."""
        if self._probe is not None:
            self._probe.cancel()

    def _silent_s(self) -> float:
        """For how long it has owed a word; it is asked for one if it has said nothing for a while."""
        now_s, heard_s = asyncio.get_running_loop().time(), self._engine.heard_s
        if self._asked_s is not None and heard_s < self._asked_s:  # in the same tick of the clock is after it
            self._ask_again()  # one that failed says nothing of whether the next would
            return now_s - self._asked_s
        self._asked_s = None
        if now_s - heard_s >= self._deadlines.probe_s and self._ask_again():
            self._asked_s = now_s
        return 0.0

    def _ask_again(self) -> bool:
        """Whether it was asked now: not while a question is under way."""
        if self._probe is not None and not self._probe.done():
            return False
        self._probe = asyncio.create_task(self._ask())
        return True

    def _still_s(self, process: Process, *, owes: bool) -> float:
        """For how long it has been stopped, or has owed a word and computed nothing."""
        now_s = asyncio.get_running_loop().time()
        is_computing = process.is_at_work or process.num_ticks - self._num_ticks > FEW_TICKS
        is_moving = not owes or is_computing or self._has_accelerators
        if self._moved_s is None or (is_moving and not process.is_stopped):
            self._moved_s, self._num_ticks = now_s, process.num_ticks
        return now_s - self._moved_s

    async def _ask(self) -> None:
        with suppress(Unavailable):  # what it says, or that it says nothing, is heard elsewhere
            await self._engine.probe()


def _look_at(process: Path) -> Process:
    """What cannot be told is no reason to end it."""
    with suppress(OSError):
        state, num_ticks = _state_of(process)
        is_at_work = any(_state_of(thread)[0] in "RD" for thread in (process / "task").iterdir())
        return Process(_own_bytes(process / "status"), num_ticks, state in "Tt", is_at_work)
    return Process()


def _state_of(task: Path) -> tuple[str, int]:
    """The state of a process or thread, and the processor time that it has used (proc_pid_stat(5))."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[11]) + int(fields[12])


def _own_bytes(status: Path) -> int:
    for line in status.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0
