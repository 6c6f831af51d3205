"""Escapes over Unix sockets, which reach other processes without any network."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from pathlib import Path

from allod.seal.escapes.probe import TIMEOUT_S, Probe, Target


def _stream(address: str, payload: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(address)
        sock.sendall(payload)


def _pathname_stream(target: Target) -> None:
    _stream(target.stream_path, target.payload)


def _through_a_root(target: Target) -> None:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may not be looked into, or has a root without such a path
            return _stream(f"{process}/root{target.stream_path}", target.payload)
    raise OSError(errno.ENOENT, "no process whose root has it")


def _abstract_stream(target: Target) -> None:
    _stream("\0" + target.abstract_stream, target.payload)


def _pathname_datagram(target: Target) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(target.payload, target.datagram_path)


def _abstract_datagram(target: Target) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(target.payload, "\0" + target.abstract_datagram)


def _datagram_message(target: Target) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendmsg([target.payload], [], 0, target.datagram_path)


def _pair_datagram(target: Target) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(target.payload, target.datagram_path)


def _pair_message(target: Target) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendmsg([target.payload], [], 0, target.datagram_path)


PROBES = (
    Probe("unix-stream", "connect to a Unix socket in the file system", _pathname_stream),
    Probe("unix-through-a-root", "connect to one by the root that /proc shows of a process", _through_a_root),
    Probe("unix-abstract-stream", "connect to an abstract Unix socket", _abstract_stream),
    Probe("unix-datagram", "sendto a Unix datagram socket in the file system", _pathname_datagram),
    Probe("unix-abstract-datagram", "sendto an abstract Unix datagram socket", _abstract_datagram),
    Probe("unix-datagram-message", "sendmsg with an address, which a filter cannot read", _datagram_message),
    Probe("pair-datagram", "sendto with an address, from a socketpair", _pair_datagram),
    Probe("pair-message", "sendmsg with an address, from a socketpair", _pair_message),
)
