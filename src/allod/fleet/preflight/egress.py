"""Which addresses can be reached from here: tried for real, all at once, and not for long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection

TIMEOUT_S = 2.0


def reach(addresses: Collection[str], *, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """Those of `addresses` (`host:port`) that answer, with how; a name that resolves has answered."""
    found: list[str] = []
    # Daemons: a name service that never answers must not hold up the end of the process.
    tries = [threading.Thread(target=_try, args=(address, timeout_s, found), daemon=True) for address in set(addresses)]
    for thread in tries:
        thread.start()
    for thread in tries:
        thread.join(2 * timeout_s)
    return tuple(sorted(found))


def _try(address: str, timeout_s: float, found: list[str]) -> None:
    host, _, port = address.rpartition(":")
    try:
        known = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return
    if not _is_numeric(host):
        found.append(f"{address} (its name was resolved)")
        return
    family, kind, protocol, _, endpoint = known[0]
    try:
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(timeout_s)
            one.connect(endpoint)
    except ConnectionRefusedError:
        found.append(f"{address} (it refused)")  # an answer, from out there
    except OSError:
        return
    else:
        found.append(address)


def _is_numeric(host: str) -> bool:
    return host.startswith("[") or host.replace(".", "").isdecimal()
