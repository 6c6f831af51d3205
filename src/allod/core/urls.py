"""Addresses of servers, as people write them."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from allod.core.errors import Invalid

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*|[0-9a-f:.]*:[0-9a-f:.]*")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]{1,100}){0,8}")


class Url(NamedTuple):
    """An http or https URL of a server, taken apart. `path` has no slash at its end."""

    is_tls: bool
    host: str
    port: int
    path: str


def read_url(url: str) -> Url:
    """A URL's parts. Raises Invalid (`bad_url`) for what is no plain http or https URL."""
    refusal = Invalid(
        f"{url!r} is no address of a server", code="bad_url", hint="such as https://engine.example:8443/v1"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise refusal from None
    if "@" in parts.netloc:
        raise Invalid("an address holds no user or password", code="bad_url", hint="put the key into a file")
    host, path = parts.hostname or "", parts.path.rstrip("/")
    is_plain = parts.scheme in ("http", "https") and not (parts.query or parts.fragment) and url.isascii()
    if not is_plain or port == 0 or _HOST.fullmatch(host) is None or _PATH.fullmatch(path) is None:
        raise refusal
    is_tls = parts.scheme == "https"
    return Url(is_tls, host, port or (443 if is_tls else 80), path)


def check_loopback(host: str) -> None:
    """Raise Invalid (`plain_http`) for another machine: what is sent there must not be in the clear."""
    if host not in LOOPBACK:
        raise Invalid(
            f"{host} is not this machine: nothing is sent there in the clear",
            code="plain_http",
            hint="use https and name the certificate authority, or a socket",
        )
