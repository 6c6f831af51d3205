"""Escapes over the network: every protocol that has been seen to pass one wall or another."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

from allod.seal.escapes.probe import (
    DNS_PORT,
    INTERFACE,
    IPPROTO_MPTCP,
    LOOPBACK_PORT,
    MPTCP_PORT,
    TCP_PORT,
    TIMEOUT_S,
    UDP_PORT,
    VSOCK_PORT,
    Probe,
    Target,
)

_ICMP_ECHO = struct.pack(">BBHHH", 8, 0, 0, 1, 1)
_BROADCAST, _SENDER = b"\xff" * 6, b"\x02\0\0\0\0\x01"
_VSOCK_LOCAL = 1


def _stream(family: int, protocol: int, address: tuple[str, int], payload: bytes) -> None:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(address)
        sock.sendall(payload)


def _datagram(family: int, address: tuple[str, int], payload: bytes) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(payload, address)


def _tcp4(target: Target) -> None:
    _stream(socket.AF_INET, 0, (target.address_4, TCP_PORT), target.payload)


def _tcp6(target: Target) -> None:
    _stream(socket.AF_INET6, 0, (target.address_6, TCP_PORT), target.payload)


def _loopback(target: Target) -> None:
    _stream(socket.AF_INET, 0, ("127.0.0.1", LOOPBACK_PORT), target.payload)


def _mptcp(target: Target) -> None:
    _stream(socket.AF_INET, IPPROTO_MPTCP, (target.address_4, MPTCP_PORT), target.payload)


def _fast_open(target: Target) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.sendto(target.payload, socket.MSG_FASTOPEN, (target.address_4, TCP_PORT))


def _udp4(target: Target) -> None:
    _datagram(socket.AF_INET, (target.address_4, UDP_PORT), target.payload)


def _udp6(target: Target) -> None:
    _datagram(socket.AF_INET6, (target.address_6, UDP_PORT), target.payload)


def _dns(target: Target) -> None:
    label = target.payload
    question = bytes([len(label)]) + label + b"\4test\0" + struct.pack(">HH", 1, 1)
    _datagram(socket.AF_INET, (target.address_4, DNS_PORT), struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + question)


def _echo_with_checksum(payload: bytes) -> bytes:
    packet = _ICMP_ECHO + payload + b"\0" * (len(payload) % 2)
    total = sum(struct.unpack(f">{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return packet[:2] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]


def _ping(target: Target) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.sendto(_echo_with_checksum(target.payload), (target.address_4, 0))


def _raw_icmp(target: Target) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(_echo_with_checksum(target.payload), (target.address_4, 0))


def _raw_ip(target: Target) -> None:
    body = target.payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 253, 0)  # 253: for experiments (RFC 3692)
    packet = header + b"\0" * 4 + socket.inet_aton(target.address_4) + body
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(packet, (target.address_4, 0))


def _packet(target: Target) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((INTERFACE, 0))
        sock.send(_BROADCAST + _SENDER + b"\x88\xb5" + target.payload)  # EtherType for experiments (IEEE 802)


def _vsock(target: Target) -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        if not Path("/sys/module/vsock_loopback").exists():
            raise OSError(errno.ENODEV, "no VSOCK loopback here, and the hypervisor is not ours to knock at")
        sock.settimeout(TIMEOUT_S)
        sock.connect((_VSOCK_LOCAL, VSOCK_PORT))
        sock.sendall(target.payload)


def _proxy(target: Target) -> None:
    from urllib.request import getproxies  # a slow import, for this escape alone

    proxy = urlsplit(getproxies()["http"])
    request = f"GET http://{target.token}.test/ HTTP/1.0\r\n\r\n".encode()
    _stream(socket.AF_INET, 0, (str(proxy.hostname), int(proxy.port or 80)), request)


PROBES = (
    Probe("tcp4", "TCP over IPv4", _tcp4),
    Probe("tcp6", "TCP over IPv6", _tcp6),
    Probe("loopback", "a TCP port of the gateway on this machine's loopback", _loopback),
    Probe("mptcp", "Multipath TCP, which Landlock's TCP rule does not see", _mptcp),
    Probe("fast-open", "data in TCP's first packet, by sendto without connect", _fast_open),
    Probe("udp4", "UDP over IPv4", _udp4),
    Probe("udp6", "UDP over IPv6", _udp6),
    Probe("dns", "a DNS query that carries the data in the name", _dns),
    Probe("ping", "an ICMP echo from an unprivileged ping socket", _ping),
    Probe("raw-icmp", "an ICMP echo from a raw socket", _raw_icmp),
    Probe("raw-ip", "a hand-made IP packet", _raw_ip),
    Probe("packet", "a hand-made Ethernet frame", _packet),
    Probe("vsock", "a VSOCK stream, which ignores network namespaces", _vsock),
    Probe("proxy", "the proxy that its environment names", _proxy),
)
