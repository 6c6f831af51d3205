"""Where a server is: behind a Unix socket, or at a host and port, by TLS unless that is this machine.

Nobody but the authorities in the file that is named is trusted to say who a host is, and the host's name is checked.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from allod.core.errors import Invalid
from allod.core.files.named import read_named_text
from allod.core.urls import check_loopback

MAX_CA_BYTES = 1 << 20
KEEP_S = 30.0  # that an idle connection is used again: who stands between may have dropped it without a word
PROBE_IDLE_S, PROBE_EVERY_S, NUM_PROBES = 15, 5, 3  # of the kernel's, on a connection that is silent
UNHEARD_MS = 20_000  # that what was sent may go without the other machine's word that it came
_Made = TypeVar("_Made", bound=asyncio.BaseProtocol)


class Address(Protocol):
    """What can be connected to."""

    @property
    def authority(self) -> str:
        """Who is asked, as the Host header says it."""
        ...

    @property
    def keep_s(self) -> float:
        """How long a connection may be idle and still be used."""
        ...

    async def connect(self, make: Callable[[], _Made]) -> _Made:
        """A new connection. Raises OSError, of which ssl.SSLError is one."""
        ...


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket's path: of a server on this machine."""

    path: str

    @property
    def authority(self) -> str:
        return "engine"

    @property
    def keep_s(self) -> float:
        return math.inf

    async def connect(self, make: Callable[[], _Made]) -> _Made:
        return (await asyncio.get_running_loop().create_unix_connection(make, self.path))[1]


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and port. Without `tls` only this machine's own: raises Invalid (`plain_http`) for another."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.tls is None:
            check_loopback(self.host)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def keep_s(self) -> float:
        return KEEP_S

    async def connect(self, make: Callable[[], _Made]) -> _Made:
        name = None if self.tls is None else self.host
        transport, connection = await asyncio.get_running_loop().create_connection(
            make, self.host, self.port, ssl=self.tls, server_hostname=name
        )
        kept: socket.socket = transport.get_extra_info("socket")
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_IDLE_S)
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, NUM_PROBES)
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
        return connection


def trust_of(authorities: Path) -> ssl.SSLContext:
    """TLS that trusts the certificates in this PEM file, and nobody else's. Raises Invalid (`no_certificates`)."""
    text = read_named_text(authorities, limit_bytes=MAX_CA_BYTES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise Invalid(
            f"{authorities} holds no certificates that can be read", code="no_certificates", hint="a PEM file"
        ) from error
    return context
