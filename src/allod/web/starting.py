"""The event loop of a gateway that starts: the engine first, and what serves while it reads its weights."""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import uvloop

from allod.app.gateway.engine import Prepared, StartingEngine, log_name_of, start_engine
from allod.app.gateway.weights import prepare_all
from allod.model.store import silent
from allod.seal.ahead import Ahead
from allod.settings.tree import Settings


def run(settings: Settings, listener: socket.socket, ahead: Ahead | None) -> None:
    """Serve on `listener` until told to stop, with the first engine's process that was started `ahead` if one was."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with suppress(asyncio.CancelledError):  # told to stop while it started
        uvloop.run(_serve(settings, listener, prepare_all(settings, silent), ahead))


async def _serve(
    settings: Settings, listener: socket.socket, models: tuple[Prepared, ...], ahead: Ahead | None
) -> None:
    """Tell the engines what to load; load all the rest while they read their weights."""
    task = asyncio.current_task()
    assert task is not None  # a coroutine of the event loop runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # while it starts
    server = replace(settings.server, port=listener.getsockname()[1])
    settings = replace(settings, server=server)
    async with AsyncExitStack() as stack:
        engines = []
        for number, prepared in enumerate(models):
            log_name = log_name_of(prepared, is_first=number == 0)
            starting = start_engine(settings, prepared, None if number else ahead, log_name=log_name)
            engines.append(StartingEngine(prepared, *await stack.enter_async_context(starting)))
        rest = await asyncio.to_thread(importlib.import_module, "allod.web.server")
        await rest.serve(settings, listener, engines)
