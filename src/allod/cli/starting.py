"""The gateway's process, as the command line starts it: the model first, with progress shown; then its command."""

from __future__ import annotations

import sys

from allod.settings.tree import Settings


def get_model(settings: Settings) -> None:
    """Fetch what is to be served, or measure which it is, with progress shown. What that takes is loaded only here.

    Raises before that whatever a gateway of this realm would refuse to start for: another that runs, a damaged log.
    """
    from allod.app.gateway.open_realm import open_realm
    from allod.app.gateway.weights import prepare_all
    from allod.cli.progress import show_progress

    open_realm(settings).resources.close()
    with show_progress() as progress:
        prepare_all(settings, progress)


def gateway_command(settings: Settings) -> list[str]:
    """The command line of the gateway's process."""
    command = [sys.executable, "-P", "-m", "allod.web", f"--home={settings.home}"]
    command += [f"--model={name}" for name in settings.models]
    command += [f"--port={settings.server.port}", f"--replicas={settings.model.replicas}"]
    return [*command, "--unsafe-no-seal"] if settings.unsafe_no_seal else command
