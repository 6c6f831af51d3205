"""The two who are to be reached: the honeypot at the far end of the cable, and the victim, a stand-in for the gateway.

Both write each mark they see (a token, `signal:N`, `mode:N`, `stray:...`) as a line to one pipe. What an escape itself
believes counts for nothing. Each runs for ever in a forked child; the lab ends it.
"""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from allod.seal.escapes.probe import IPPROTO_MPTCP, LOOPBACK_PORT, MPTCP_PORT, PROXY_PORT, TCP_PORT, VSOCK_PORT

TOKEN = re.compile(rb"allod-[0-9a-f]{16}")
BUFFER_BYTES = 4096

_ALL_FRAMES = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_NEIGHBOURS = range(133, 144)  # ICMPv6 types by which kernels find one another, sent by nobody's wish
_EVERY_S = 0.02


class ContactRecorder:
    """Writes each mark once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen: set[str] = set()

    def mark(self, mark: str) -> None:
        if mark not in self._seen:
            self._seen.add(mark)
            os.write(self._descriptor, mark.encode() + b"\n")

    def search(self, data: bytes) -> bool:
        """Mark every token in `data`; whether there was one."""
        tokens = TOKEN.findall(data)
        for token in tokens:
            self.mark(token.decode())
        return bool(tokens)


def watch_cable(recorder: ContactRecorder, interface: str, *, quiet: tuple[bytes, bytes]) -> None:
    """The honeypot: accept whatever connects, and look for tokens in every frame that comes in.

    `quiet` are the IPv4 and IPv6 addresses that only sealed processes are told of: a frame to either is an escape
    even if it carries no token.
    """
    cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
    cable.bind((interface, _ALL_FRAMES))
    listeners = _listeners()
    with selectors.DefaultSelector() as selector:
        selector.register(cable, selectors.EVENT_READ, lambda: _frame(cable, recorder, quiet))
        _accept_all(selector, listeners, lambda data: None)
        recorder.mark("honeypot-ready")
        _serve(selector, lambda: None)


def _listeners() -> list[socket.socket]:
    listeners = []
    for port, protocol in ((TCP_PORT, 0), (PROXY_PORT, 0), (MPTCP_PORT, IPPROTO_MPTCP)):
        for family in (socket.AF_INET6, socket.AF_INET):
            with suppress(OSError):  # no IPv6 or no MPTCP on this kernel: those escapes do not apply
                listener = socket.socket(family, socket.SOCK_STREAM, protocol)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
                listener.bind(("", port))
                listener.listen(16)
                listeners.append(listener)
    return listeners


def _frame(cable: socket.socket, recorder: ContactRecorder, quiet: tuple[bytes, bytes]) -> None:
    frame, (_, _, kind, *_) = cable.recvfrom(65536)
    if kind != _OUTGOING and not recorder.search(frame) and _is_stray(frame, quiet):
        recorder.mark(f"stray:{frame[12:60].hex()}")


def _is_stray(frame: bytes, quiet: tuple[bytes, bytes]) -> bool:
    version = struct.unpack_from(">H", frame, 12)[0]
    if version == 0x0800:
        return frame[30:34] == quiet[0]
    neighbourly = version == 0x86DD and frame[20:21] == b"\x3a" and frame[54] in _NEIGHBOURS
    return version == 0x86DD and frame[38:54] == quiet[1] and not neighbourly


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """What the victim has that a sealed process must not touch."""

    stream_path: str
    datagram_path: str
    abstract_stream: str
    abstract_datagram: str
    file: Path
    live_socket: socket.socket
    buffer: ctypes.Array[ctypes.c_char]


def be_victim(recorder: ContactRecorder, belongings: Belongings) -> None:
    """The victim: listen on Unix sockets and VSOCK, watch its own memory, signals and file."""
    for number in range(signal.SIGRTMIN + 1, signal.SIGRTMAX):
        signal.signal(number, lambda received, _: recorder.mark(f"signal:{received}"))

    def look() -> None:
        recorder.search(belongings.buffer.raw)
        recorder.mark(f"mode:{belongings.file.stat().st_mode & 0o777}")
        recorder.search(belongings.file.read_bytes())

    def hear(sock: socket.socket) -> None:
        look()  # first: when the lab sees its own message in the record, all that went before is there too
        recorder.search(sock.recv(4096))

    streams = [
        _unix(socket.SOCK_STREAM, belongings.stream_path),
        _unix(socket.SOCK_STREAM, "\0" + belongings.abstract_stream),
        _loopback(),
    ]
    with suppress(OSError):
        streams.append(_vsock())
    datagrams = [
        _unix(socket.SOCK_DGRAM, belongings.datagram_path),
        _unix(socket.SOCK_DGRAM, "\0" + belongings.abstract_datagram),
    ]
    with selectors.DefaultSelector() as selector:
        _accept_all(selector, streams, recorder.search)
        for sock in datagrams:
            selector.register(sock, selectors.EVENT_READ, lambda sock=sock: hear(sock))
        recorder.mark("victim-ready")
        _serve(selector, look)


def _unix(kind: socket.SocketKind, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen(16)
    return sock


def _loopback() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", LOOPBACK_PORT))
    sock.listen(16)
    return sock


def _vsock() -> socket.socket:
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.bind((socket.VMADDR_CID_ANY, VSOCK_PORT))
    sock.listen(1)
    return sock


def _accept_all(
    selector: selectors.BaseSelector, listeners: list[socket.socket], heard: Callable[[bytes], object]
) -> None:
    """Accept on every listener, and give `heard` what each connection sends."""

    def accept(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        selector.register(connection, selectors.EVENT_READ, lambda: read(connection))

    def read(connection: socket.socket) -> None:
        data = b""
        with suppress(OSError):  # the attacker was killed: a reset says no more than an end
            data = connection.recv(4096)
        heard(data)
        if not data:
            selector.unregister(connection)
            connection.close()

    for listener in listeners:
        selector.register(listener, selectors.EVENT_READ, lambda listener=listener: accept(listener))


def _serve(selector: selectors.BaseSelector, look: Callable[[], None]) -> None:
    while True:
        for key, _ in selector.select(_EVERY_S):
            key.data()
        look()
