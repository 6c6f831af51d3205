"""Who sits at the command line."""

from __future__ import annotations

import os
import pwd

from allod.cli.running import time_of_record_ms
from allod.core.times import now_ms
from allod.govern.tenancy.officer import Officer
from allod.settings.tree import Settings


def account_here() -> str:
    """`cli:` and whose account this is, by its number: what the environment says could be anybody."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"cli:{os.getuid()}"


def officer_of(settings: Settings) -> Officer:
    """Who changes something of this realm, and when by its receipts' clock. Raises what `time_of_record_ms` raises."""
    return Officer(account_here(), time_of_record_ms(settings))


def officer_who_ends() -> Officer:
    """Who ends something, which needs no clock that is believed: it has ended, whenever that was."""
    return Officer(account_here(), now_ms())
