"""What an escape is told (`Target`) and how one is named (`Probe`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the honeypot and the victim are, and the mark that one attempt leaves when it gets there.

    `token` is unique to the attempt, and so are `signal` and `mode` where a token cannot travel. `address_4` and
    `address_6` are the honeypot's; the Unix paths, the process and its memory are the victim's.
    """

    token: str
    signal: int
    mode: int
    address_4: str
    address_6: str
    stream_path: str
    datagram_path: str
    abstract_stream: str
    abstract_datagram: str
    victim_pid: int
    victim_socket: int
    victim_buffer: int
    victim_file: str
    socket_dir: str

    def mark(self, leaves: Literal["token", "signal", "mode"]) -> str:
        """The line in the record that this attempt would leave."""
        return {"token": self.token, "signal": f"signal:{self.signal}", "mode": f"mode:{self.mode}"}[leaves]

    @property
    def payload(self) -> bytes:
        """The token as bytes."""
        return self.token.encode()


@dataclass(frozen=True)
class Probe:
    """One escape. `run` raises OSError where it is stopped; that it returns proves nothing.

    `leaves` is the mark that convicts it: its token, or its signal or file mode where a token cannot travel.
    """

    name: str
    tries: str
    run: Callable[[Target], None]
    leaves: Literal["token", "signal", "mode"] = "token"


TIMEOUT_S = 1.5
TCP_PORT, MPTCP_PORT, PROXY_PORT, DNS_PORT, UDP_PORT, VSOCK_PORT = 80, 81, 3128, 53, 9, 7777
LOOPBACK_PORT = 8400
IPPROTO_MPTCP = 262
INTERFACE = "allod0"  # the attacker's end of the cable
