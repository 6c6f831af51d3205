"""What an escape is told (`Target`) and how one is named (`Probe`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Leaves = Literal["token", "signal", "mode", "tag"]
TAG = "tag:[0-9a-f]{10}"


def tag_of(number: int) -> str:
    """The mark for a 40-bit number, as TAG has it."""
    return f"tag:{number:010x}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the honeypot and the victim are, and the mark that one attempt leaves when it gets there.

    `token` is unique to the attempt, and so are `signal` and `mode` where a token cannot travel. `address_4` and
    `address_6` are the honeypot's; the Unix paths, the process and its memory are the victim's; a sealed process may
    read `shared_file`, and so may the accomplice.
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
    accomplice_pid: int
    shared_file: str
    socket_dir: str

    def mark(self, leaves: Leaves) -> str:
        """The line in the record that this attempt would leave."""
        marks = {"signal": f"signal:{self.signal}", "mode": f"mode:{self.mode}", "tag": self.tag}
        return marks.get(leaves, self.token)

    @property
    def tag_number(self) -> int:
        """40 bits of the token, for where no more can travel."""
        return int(self.token[-10:], 16)

    @property
    def tag(self) -> str:
        """The same as text that fits into a process's name."""
        return tag_of(self.tag_number)

    @property
    def payload(self) -> bytes:
        """The token as bytes."""
        return self.token.encode()


@dataclass(frozen=True)
class Probe:
    """One escape. `run` raises OSError where it is stopped; that it returns proves nothing.

    `leaves` is the mark that convicts it: its token, or a signal, file mode or tag where a token cannot travel.
    """

    name: str
    tries: str
    run: Callable[[Target], None]
    leaves: Leaves = "token"


TIMEOUT_S = 1.5
TCP_PORT, MPTCP_PORT, PROXY_PORT, DNS_PORT, UDP_PORT, VSOCK_PORT = 80, 81, 3128, 53, 9, 7777
LOOPBACK_PORT = 8400
IPPROTO_MPTCP = 262
INTERFACE = "allod0"  # the attacker's end of the cable
