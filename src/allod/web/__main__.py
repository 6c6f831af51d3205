"""The gateway's own process: `python -m allod.web --home DIR --port N --model NAME`."""

from __future__ import annotations

import argparse
import gc
import os
import resource
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path

from allod.app.gateway.engine_seal import start_ahead
from allod.app.home import Home, load_settings, models_said
from allod.app.listening import listen
from allod.core.errors import AllodError, exit_status, explain
from allod.core.telling import tell
from allod.prove.tlog.begun import check_unlocked
from allod.seal.ahead import Ahead
from allod.settings.tree import Settings

SWITCH_S = 0.0005  # that a thread may compute before another (the event loop) has its turn; Python's own is 5 ms
MANY_OBJECTS = 1_000_000  # made before anything is looked through while loading


def main() -> int:
    """Serve until told to stop; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m allod.web")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", action="append")
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--unsafe-no-seal", action="store_true", default=None)
    parser.add_argument("--private", action="store_true", default=None)
    arguments = parser.parse_args()
    os.umask(0o077)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is ended
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(MANY_OBJECTS)  # what is loaded stays: looking through it again and again finds nothing
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each connection is one
    try:
        settings = load_settings(
            {
                "server.port": arguments.port,
                **models_said(arguments.model),
                "model.replicas": arguments.replicas,
                "unsafe_no_seal": arguments.unsafe_no_seal,
                "is_private": arguments.private,
            },
            home=arguments.home,
        )
        with closing(listen(settings.server.host, settings.server.port)) as listener:
            check_unlocked(Home(settings.home).receipts)  # before a model is fetched, and an engine started
            with start_ahead(settings) as ahead:
                _run(settings, listener, ahead)
    except AllodError as error:
        tell(sys.stderr, f"{explain(error)}\n")
        return exit_status(error)
    except OSError as error:
        tell(sys.stderr, f"error: {error}\n")
        return 3
    except KeyboardInterrupt:
        pass
    return 0


def _run(settings: Settings, listener: socket.socket, ahead: Ahead | None) -> None:
    """Run the gateway. What that takes is loaded beside what the engine's process loads."""
    from allod.web.starting import run

    run(settings, listener, ahead)


if __name__ == "__main__":
    sys.exit(main())
