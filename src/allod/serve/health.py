"""Whether a started engine is still of use: it makes progress, lets go of what nobody waits for, and keeps its size.

Progress is anything that it says to anybody: a token, a batch of a prompt, the state of its slots. Only who says
nothing for a while is asked, and only who says nothing after that, to nobody, for `hung_s` is hung. A probe that goes
unanswered while tokens come is no reason to end anything.

Memory is bounded by what it holds of its own (`RssAnon`) beyond what it held when it was ready: that counts what is
used, whatever the model, while a limit of the kernel's (RLIMIT_DATA) counts what is reserved and would have to be
guessed before weights, caches and buffers are there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable

LOOK_S = 0.25  # between two looks at it


class Watched(Protocol):
    """What is asked of an engine. `heard_s`: when it last said anything, by the loop's clock."""

    is_stuck: bool

    @property
    def heard_s(self) -> float: ...

    async def probe(self) -> None:
        """Ask for a word. Raises Unavailable."""
        ...


class Health:
    """Of one engine and its process `pid`, which may grow by `spare_bytes` once it is ready."""

    def __init__(self, engine: Watched, pid: int, deadlines: Deadlines, *, spare_bytes: int) -> None:
        self._engine = engine
        self._status = Path(f"/proc/{pid}/status")
        self._deadlines = deadlines
        self._spare_bytes = spare_bytes
        self._ready_bytes: int | None = None
        self._asked_s: float | None = None  # since when it owes a word
        self._probe: asyncio.Task[None] | None = None

    async def fault(self) -> str | None:
        """What is wrong with it by now. To be asked a few times a second, until `close`."""
        own_bytes = await asyncio.to_thread(_own_bytes, self._status)
        if self._ready_bytes is None:
            self._ready_bytes = own_bytes
        if self._engine.is_stuck:
            return f"did not let go of work within {self._deadlines.let_go_s:g} s"
        if (grown := own_bytes - self._ready_bytes) > self._spare_bytes:
            return f"grew by {grown >> 20} MiB, and {self._spare_bytes >> 20} MiB are allowed"
        if self._silent_s() >= self._deadlines.hung_s:
            return f"said nothing for {self._deadlines.hung_s:g} s although it was asked"
        return None

    def close(self) -> None:
        """Ask nothing more."""
        if self._probe is not None:
            self._probe.cancel()

    def _silent_s(self) -> float:
        """For how long it has owed a word; it is asked for one if it has said nothing for a while."""
        now_s, heard_s = asyncio.get_running_loop().time(), self._engine.heard_s
        if self._asked_s is not None and heard_s <= self._asked_s:
            return now_s - self._asked_s
        self._asked_s = None
        if now_s - heard_s >= self._deadlines.probe_s and (self._probe is None or self._probe.done()):
            self._asked_s = now_s
            self._probe = asyncio.create_task(self._ask())
        return 0.0

    async def _ask(self) -> None:
        with suppress(Unavailable):  # what it says, or that it says nothing, is heard elsewhere
            await self._engine.probe()


def _own_bytes(status: Path) -> int:
    """What a process holds in memory that is no file's; 0 where it cannot be told."""
    with suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0
