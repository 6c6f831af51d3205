"""What the environment says of where things are: the only file that reads it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from allod.core.errors import Invalid


def default_home() -> Path:
    """Where a realm lives unless ALLOD_HOME says otherwise."""
    if home := os.environ.get("ALLOD_HOME"):
        try:
            return Path(home).expanduser()
        except RuntimeError as error:
            raise Invalid(f"ALLOD_HOME is {home!r}, and there is no such user", code="home_unusable") from error
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "allod"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "allod"


def scheduler_clients() -> dict[str, str]:
    """What a scheduler's own commands are given of our environment: where to find them and their cluster."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "USER", "SLURM_CONF") if name in os.environ}
