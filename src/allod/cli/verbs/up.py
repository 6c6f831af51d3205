"""`allod up`: realm made on first run, sealed engine, gateway, console."""

from __future__ import annotations

import argparse
import os

from allod.app.gateway.model_choice import is_at_hand
from allod.app.home import load_settings, models_said
from allod.app.listening import listen
from allod.cli.starting import gateway_command, get_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("--port", type=int, help="where to listen on loopback (8400); 0 chooses a free one")
    parser.add_argument(
        "--model",
        metavar="NAME|FILE",
        action="append",
        help="a model of the catalogue or of one's own, a GGUF file, or auto; said again, another beside it",
    )
    parser.add_argument("--replicas", type=int, help="processes of each model's engine (1)")
    parser.add_argument(
        "--unsafe-no-seal",
        action="store_true",
        default=None,
        help="serve although a part of the seal is missing here; every receipt then says so",
    )


def run(arguments: argparse.Namespace) -> int:
    """Get the model, if it is not at hand and the port is free, then become the gateway's process."""
    overrides = {
        "server.port": arguments.port,
        **models_said(arguments.model),
        "model.replicas": arguments.replicas,
        "unsafe_no_seal": arguments.unsafe_no_seal,
    }
    settings = load_settings(overrides)
    if not is_at_hand(settings):
        listen(settings.server.host, settings.server.port).close()
        get_model(settings)
    command = gateway_command(settings)
    os.execv(command[0], command)  # noqa: S606 (our own interpreter, our own module)
