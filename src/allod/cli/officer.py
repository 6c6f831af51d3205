"""Who sits at the command line."""

from __future__ import annotations

import os
import pwd


def account_here() -> str:
    """`cli:` and whose account this is, by its number: what the environment says could be anybody."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"cli:{os.getuid()}"
