"""The gateway's own process: `python -m allod.web --home DIR --port N --model NAME`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import uvloop

from allod.app.engine import Weights, starting_engine
from allod.app.home import Home, load_settings
from allod.app.listening import listen
from allod.app.weights import prepare_weights
from allod.core.errors import AllodError, exit_status, explain
from allod.model.store import silent
from allod.prove.begun import check_unlocked
from allod.settings import Settings

MANY_OBJECTS = 1_000_000  # made before anything is looked through while loading


def main() -> int:
    """Serve until told to stop; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m allod.web")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--model")
    parser.add_argument("--unsafe-no-seal", action="store_true", default=None)
    parser.add_argument("--private", action="store_true", default=None)
    words = parser.parse_args()
    os.umask(0o077)
    gc.set_threshold(MANY_OBJECTS)  # what is loaded stays: looking through it again and again finds nothing
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each connection is one
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load_settings(
            {
                "server.port": words.port,
                "model.name": words.model,
                "unsafe_no_seal": words.unsafe_no_seal,
                "is_private": words.private,
            },
            home=words.home,
        )
        with closing(listen(settings.server.host, settings.server.port)) as listener:
            check_unlocked(Home(settings.home).receipts)  # before a model is fetched, and an engine started
            uvloop.run(_serve(settings, listener, prepare_weights(settings, silent)))
    except AllodError as error:
        sys.stderr.write(explain(error) + "\n")
        return exit_status(error)
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    return 0


async def _serve(settings: Settings, listener: socket.socket, weights: Weights | None) -> None:
    """Start the engine; load all the rest while it reads its weights."""
    task = asyncio.current_task()
    assert task is not None  # a coroutine of the event loop runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # while it starts
    server = replace(settings.server, port=listener.getsockname()[1])
    settings = replace(settings, server=server)
    async with starting_engine(settings, weights) as (engine, started):
        rest = await asyncio.to_thread(importlib.import_module, "allod.web.server")
        await rest.serve(settings, listener, weights, engine, started)


if __name__ == "__main__":
    sys.exit(main())
