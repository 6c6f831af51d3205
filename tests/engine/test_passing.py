"""Work in passing: in a thread that gives way, and that nobody else gets afterwards."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from tests.serve.conftest import until

from allod.engine.replicas.passing import NICENESS, in_passing


def niceness() -> int:
    """Of the thread that asks."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_it_gives_way_and_nothing_else_does() -> None:
    """Neither the event loop nor any thread that other work is done in, before or after it."""
    before, found = niceness(), []
    await in_passing(lambda: found.append(niceness()))
    assert found == [min(before + NICENESS, 19)]
    assert (niceness(), await asyncio.to_thread(niceness)) == (before, before)


async def test_it_ends_as_its_work_does() -> None:
    """With its error, and its thread with it."""

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_passing(fail)
    await until(lambda: not any(thread.name.startswith("allod-passing") for thread in threading.enumerate()))
