"""Long work of one's own that leaves the processors to whatever somebody waits for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

NICENESS = 5  # a third of another thread's share where they compete, so that it still comes to an end


def in_passing(work: Callable[[], None]) -> asyncio.Future[None]:
    """Do `work` in a thread of its own, which gives way to every other."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="allod-passing", initializer=_give_way)
    done = asyncio.get_running_loop().run_in_executor(thread, work)
    thread.shutdown(wait=False)  # it ends with its work
    return done


def _give_way() -> None:
    with suppress(OSError):  # where a thread has no priority of its own all are equal
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
