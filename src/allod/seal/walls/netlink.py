"""Just enough rtnetlink (rtnetlink(7)) to switch loopback on, and to join two namespaces by a virtual cable."""

from __future__ import annotations

import os
import socket
import struct

_NEWLINK, _NEWADDR, _ERROR = 16, 20, 2
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x600
_IFNAME, _LINKINFO, _NET_NS_PID = 3, 18, 19
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_NO_DAD = 1, 2, 0x02
_UP = 1


def add_cable(name: str, *, peer: str, peer_pid: int) -> None:
    """A veth pair: `name` here, `peer` in the network namespace of process `peer_pid`. Raises OSError."""
    far_end = _link() + _attribute(_IFNAME, peer.encode() + b"\0") + _attribute(_NET_NS_PID, struct.pack("I", peer_pid))
    data = _attribute(_INFO_DATA, _attribute(_VETH_PEER, far_end))
    kind = _attribute(_LINKINFO, _attribute(_INFO_KIND, b"veth") + data)
    _ask(_NEWLINK, _CREATE, _link() + _attribute(_IFNAME, name.encode() + b"\0") + kind)


def switch_on(name: str) -> None:
    """Switch the interface on. Raises OSError."""
    _ask(_NEWLINK, 0, struct.pack("BxHiII", 0, 0, socket.if_nametoindex(name), _UP, _UP))


def add_address(name: str, address: str) -> None:
    """Give the interface `address` (`10.0.0.1/24`, `fd00::1/64`), usable at once. Raises OSError."""
    from ipaddress import ip_interface  # a slow import, for the lab alone

    interface = ip_interface(address)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    header = struct.pack("BBBBI", family, interface.network.prefixlen, _IFA_NO_DAD, 0, socket.if_nametoindex(name))
    packed = interface.ip.packed
    _ask(_NEWADDR, _CREATE, header + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed))


def _link() -> bytes:
    return struct.pack("BxHiII", 0, 0, 0, 0, 0)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _ask(kind: int, flags: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.send(struct.pack("IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
        answer = sock.recv(65536)
    code = struct.unpack_from("i", answer, 16)[0]
    if struct.unpack_from("H", answer, 4)[0] != _ERROR or code:
        raise OSError(-code, f"rtnetlink: {os.strerror(-code)}")
