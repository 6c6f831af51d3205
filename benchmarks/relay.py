"""The least that a gateway can do: bytes from here to there and back, unread. No key, no receipt, no HTTP.

python benchmarks/relay.py --port N --to N
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop


class Pipe(asyncio.Protocol):
    """One end of a connection; what comes in leaves by `other`."""

    other: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Entrance(Pipe):
    """A client; its connection to the engine is made when it comes, and its first bytes wait for that."""

    def __init__(self, to: int) -> None:
        self._to, self._early = to, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        else:
            super().data_received(data)

    async def _connect(self) -> None:
        other, pipe = await asyncio.get_running_loop().create_connection(Pipe, "127.0.0.1", self._to)
        self.other, pipe.other = other, self.transport
        other.write(self._early)


async def serve(port: int, to: int) -> None:
    """Until the process is ended."""
    server = await asyncio.get_running_loop().create_server(lambda: Entrance(to), "127.0.0.1", port)
    async with server:
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    words = parser.parse_args()
    uvloop.run(serve(words.port, words.to))
