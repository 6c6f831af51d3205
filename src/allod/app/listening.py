"""The socket that clients connect to."""

from __future__ import annotations

import socket

from allod.core.errors import Unavailable

BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket, bound before anything slow is done. Raises Unavailable when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host} port {port}: {error.strerror}",
            code="port_in_use",
            hint="another gateway may be running; choose another port with --port",
        ) from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
