"""Escapes by other doors into the kernel: io_uring, and the 32-bit and x32 system calls of x86."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import struct

from allod.seal.escapes.probe import TCP_PORT, Probe, Target
from allod.seal.walls.kernel import syscall

_SETUP, _ENTER, _GET_EVENTS = 425, 426, 1
_OP_CONNECT, _OP_SEND, _OP_SOCKET = 16, 26, 45
_SQ_RING, _SQES = 0, 0x1000_0000
_PARAMETERS_BYTES, _SQE_BYTES, _CQE_BYTES = 120, 64, 16

_MAP_32BIT = 0x40
_INT_80 = bytes.fromhex("53 89f8 89f3 87d1 cd80 5b c3")  # f(call, a, b, c): ebx, ecx, edx are its arguments
_I386_WRITE, _I386_SOCKET, _I386_CONNECT = 4, 359, 362
_X32_SOCKET = 0x4000_0000 | 41


def _internet_address(target: Target) -> bytes:
    return (
        struct.pack("=H", socket.AF_INET) + struct.pack(">H", TCP_PORT) + socket.inet_aton(target.address_4) + bytes(8)
    )


class _Ring:
    """The least io_uring that can open a socket: one entry at a time, waited for."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(_PARAMETERS_BYTES)
        self._descriptor = syscall(_SETUP, 4, parameters, what="io_uring_setup")
        offsets = struct.unpack_from("10I", parameters.raw, 40), struct.unpack_from("10I", parameters.raw, 80)
        (_, self._sq_tail, self._sq_mask, _, _, _, self._sq_array, *_), cq = offsets
        self._cq_head, self._cq_mask, self._cqes = cq[0], cq[2], cq[5]
        num_sqes, num_cqes = struct.unpack_from("2I", parameters.raw)
        size = max(self._cqes + num_cqes * _CQE_BYTES, self._sq_array + 4 * num_sqes)
        self._ring = mmap.mmap(self._descriptor, size, offset=_SQ_RING)
        self._sqes = mmap.mmap(self._descriptor, 4 * _SQE_BYTES, offset=_SQES)

    def _number(self, offset: int) -> int:
        return int(struct.unpack_from("I", self._ring, offset)[0])

    def call(self, operation: int, *, descriptor: int, address: int = 0, length: int = 0, offset: int = 0) -> int:
        """Submit one operation and return its result; raises OSError."""
        tail = self._number(self._sq_tail)
        index = tail & self._number(self._sq_mask)
        entry = struct.pack("BBHiQQI", operation, 0, 0, descriptor, offset, address, length)
        self._sqes[index * _SQE_BYTES : (index + 1) * _SQE_BYTES] = entry.ljust(_SQE_BYTES, b"\0")
        struct.pack_into("I", self._ring, self._sq_array + 4 * index, index)
        struct.pack_into("I", self._ring, self._sq_tail, tail + 1)
        syscall(_ENTER, self._descriptor, 1, 1, _GET_EVENTS, None, 0, what="io_uring_enter")
        head = self._number(self._cq_head)
        at = self._cqes + (head & self._number(self._cq_mask)) * _CQE_BYTES
        result = int(struct.unpack_from("i", self._ring, at + 8)[0])
        struct.pack_into("I", self._ring, self._cq_head, head + 1)
        if result < 0:
            raise OSError(-result, f"io_uring: {os.strerror(-result)}")
        return result


def _io_uring(target: Target) -> None:
    ring = _Ring()
    address = ctypes.create_string_buffer(_internet_address(target), 16)
    payload = ctypes.create_string_buffer(target.payload)
    sock = ring.call(_OP_SOCKET, descriptor=socket.AF_INET, offset=socket.SOCK_STREAM)
    ring.call(_OP_CONNECT, descriptor=sock, address=ctypes.addressof(address), offset=16)
    ring.call(_OP_SEND, descriptor=sock, address=ctypes.addressof(payload), length=len(target.payload))


def _needs_x86() -> None:
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "only x86 has it")


def _int_80(target: Target) -> None:
    _needs_x86()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT
    page = libc.mmap(None, ctypes.c_size_t(4096), 7, flags, -1, ctypes.c_long(0))
    address, payload = _internet_address(target), target.payload
    ctypes.memmove(page, _INT_80, len(_INT_80))
    ctypes.memmove(page + 64, address, len(address))
    ctypes.memmove(page + 128, payload, len(payload))
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(page)

    def check(result: int) -> int:
        if result < 0:
            raise OSError(-result, f"int 0x80: {os.strerror(-result)}")
        return result

    sock = check(call(_I386_SOCKET, socket.AF_INET, socket.SOCK_STREAM, 0))
    check(call(_I386_CONNECT, sock, page + 64, len(address)))
    check(call(_I386_WRITE, sock, page + 128, len(payload)))


def _x32(target: Target) -> None:
    _needs_x86()
    with socket.socket(fileno=syscall(_X32_SOCKET, socket.AF_INET, socket.SOCK_STREAM, 0, what="x32 socket")) as sock:
        sock.connect((target.address_4, TCP_PORT))
        sock.sendall(target.payload)


PROBES = (
    Probe("io-uring", "socket, connect and send as io_uring operations, which a filter does not see", _io_uring),
    Probe("int-80", "the same as 32-bit system calls: int 0x80", _int_80),
    Probe("x32", "the same as x32 system calls", _x32),
)
