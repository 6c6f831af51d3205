"""`allod up`: realm made on first run, sealed engine, gateway, console."""

from __future__ import annotations

import argparse
import os
import sys

from allod.app.engine import Weights
from allod.app.home import load_settings
from allod.app.weights import is_file_name, prepare_weights
from allod.cli.progress import shown
from allod.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
    parser.add_argument("--port", type=int, help="where to listen on loopback (8400); 0 chooses a free one")
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="a model of the catalogue or of one's own, a GGUF file, or auto"
    )
    parser.add_argument(
        "--unsafe-no-seal",
        action="store_true",
        default=None,
        help="serve although a part of the seal is missing here; every receipt then says so",
    )


def run(words: argparse.Namespace) -> int:
    """Get the model with progress shown, then become the gateway's process."""
    overrides = {"server.port": words.port, "model.name": words.model, "unsafe_no_seal": words.unsafe_no_seal}
    settings = load_settings(overrides)
    with shown() as progress:
        weights = prepare_weights(settings, progress)
    command = gateway_command(settings, weights)
    os.execv(command[0], command)  # noqa: S606 (our own interpreter, our own module)


def gateway_command(settings: Settings, weights: Weights | None) -> list[str]:
    """The command line of the gateway's process, with the model that was chosen."""
    name = settings.model.name if weights is None or is_file_name(settings.model.name) else weights.served.name
    command = [sys.executable, "-P", "-m", "allod.web", f"--home={settings.home}", f"--model={name}"]
    command.append(f"--port={settings.server.port}")
    return [*command, "--unsafe-no-seal"] if settings.unsafe_no_seal else command
