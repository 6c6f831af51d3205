"""The gateway that runs in this realm, if one does: where it is, what it serves, and that it takes up what was changed
beside it."""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from allod.app.gateway.clock import clock_of_realm
from allod.app.home import Home
from allod.core.errors import Unavailable
from allod.prove.receipts.clock import CLOCK_HINT
from allod.settings.tree import Settings

NEWS_TIMEOUT_S = 5


def find_gateway(home: Home) -> str | None:
    """The announced gateway's URL, if its process lives and is ours: another user's gets no key from us."""
    announced = _read_announcement(home)
    return str(announced["url"]) if announced else None


def model_of_running(home: Home) -> str | None:
    """The name of the model that the gateway was started with; None where none runs."""
    announced = _read_announcement(home)
    return announced.get("model") if announced else None


def _read_announcement(home: Home) -> dict[str, Any] | None:
    try:
        announced: dict[str, Any] = json.loads(home.gateway.read_text())
        process = Path("/proc", str(int(announced["pid"])))
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        has_home = not {f"--home={home.path}".encode(), str(home.path).encode()}.isdisjoint(arguments)  # one or two
        is_ours = process.stat().st_uid == os.geteuid() and b"allod.web" in arguments and has_home
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return announced if is_ours else None


def time_of_record_ms(settings: Settings) -> int:
    """The time that what is made beside the gateway is dated by. What only ends a key or a tenant needs none.

    Raises Unavailable (`clock_wrong`) where this realm's log, or a gateway that runs here, contradicts the clock.
    """
    time_ms, url = clock_of_realm(settings).now_ms(), find_gateway(Home(settings.home))
    _, told = _readiness(url) if url else (0, None)
    if isinstance(told, dict) and told.get("code") == "clock_wrong":
        raise Unavailable(str(told.get("reason")), code="clock_wrong", hint=CLOCK_HINT)
    return time_ms  # a gateway that is not there to be asked does not contradict, nor did the log


def is_clock_believed(settings: Settings) -> bool:
    """Whether neither this realm's log nor a gateway that runs here may doubt it: one that is not ready might."""
    try:
        clock_of_realm(settings).now_ms()
    except Unavailable:
        return False
    url = find_gateway(Home(settings.home))
    return url is None or _readiness(url)[0] == 200


def _readiness(url: str) -> tuple[int, Any]:
    """What a gateway says at `/readyz`: status and body; 0 and None where it says nothing that can be read."""
    status, body = _ask(url, "GET", "/readyz")
    try:
        return status, json.loads(body)
    except ValueError:
        return 0, None


def _ask(url: str, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """What a gateway answers: status and body; 0 and nothing where it says nothing."""
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=NEWS_TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


@contextmanager
def the_log_to_itself() -> Iterator[None]:
    """What is done inside needs the receipts' log: where another process has it, the error says whose that is."""
    try:
        yield
    except Unavailable as error:
        if error.code != "log_locked":
            raise
        hint = "stop the gateway (`allod up`) first: while it runs, nobody else may open the log"
        raise error.restate(hint=hint) from error


def take_up_news(settings: Settings) -> None:
    """Return once a gateway that runs here has in force what the store says; at once where none runs.

    Where it cannot be told it learns by itself, within a second: that is said, and is no error of what was done.
    """
    home = Home(settings.home)
    url = find_gateway(home)
    if url is None:
        return
    with suppress(OSError):  # without its key it is not told
        key = home.admin_key.read_text().strip()
        if _ask(url, "POST", "/v1/governance/news", authorization=f"Bearer {key}")[0] == 200:
            return
    print("the gateway that runs here takes this up within a second", file=sys.stderr)
