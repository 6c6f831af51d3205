"""HTTP/1.1 over one Unix socket, kept alive: all that an engine adapter needs, and nothing it does not.

Parsing is httptools'. What is here is the pool and the exchange; decision 0004 has the measurement behind it
(a general client costs 6 times the CPU for each exchange). A cancelled exchange closes its connection, which is how
an engine learns that nobody waits any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httptools

from allod.core.errors import Unavailable

PAUSE_BYTES = 1 << 20  # stop reading from the engine while this much waits for a slow client
MAX_BODY_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one exchange at a time."""

    def __init__(self) -> None:
        self.status = 0
        self.reusable = False
        self._finished = True
        self._lost = False
        self._paused = False
        self._chunks: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, method: str, path: str, body: bytes) -> None:
        self.status, self.reusable, self._finished = 0, False, False
        self._chunks.clear()
        self._parser = httptools.HttpResponseParser(self)
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)

    async def wait(self) -> bool:
        """Wait for something new; False when the response is complete and read."""
        while not self._chunks and not self._finished:
            await self._news()
        return bool(self._chunks)

    async def wait_for_status(self) -> None:
        """Wait until `status` is known."""
        while self.status == 0:
            await self._news()

    async def _news(self) -> None:
        if self._lost:
            raise Unavailable("the engine closed the connection", code="engine_lost", retry_after_s=1)
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def take(self) -> bytes:
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        self._transport.abort()

    def is_usable(self) -> bool:
        return self._finished and self.reusable and not self._lost and not self._chunks

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # asyncio.Protocol
    def data_received(self, data: bytes) -> None:
        if self._finished:  # nobody asked: whatever this is, it must not become the next answer
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._wake()

    # httptools' callbacks
    def on_message_begin(self) -> None:
        if self._finished:
            raise ValueError("a second response to one request")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        if not self._paused and sum(map(len, self._chunks)) > PAUSE_BYTES:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._finished = True
        self.reusable = self._parser.should_keep_alive()


class UnixHttp:
    """A client of the one server behind `socket_path`."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False

    async def request(self, method: str, path: str, body: bytes = b"") -> Response:
        """One exchange, read whole. Raises Unavailable when there is no server or it goes away."""
        async with self._exchange(method, path, body) as connection:
            parts, size = [], 0
            while await connection.wait():
                parts.append(connection.take())
                size += len(parts[-1])
                if size > MAX_BODY_BYTES:
                    raise Unavailable("the engine's response is too large", code="engine_response")
            return Response(connection.status, b"".join(parts))

    async def stream(self, method: str, path: str, body: bytes = b"") -> AsyncGenerator[int | bytes, None]:
        """The status first, then the body as it comes."""
        async with self._exchange(method, path, body) as connection:
            yield connection.status
            while await connection.wait():
                yield connection.take()

    async def close(self) -> None:
        """Close every connection; exchanges under way fail with Unavailable."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def _exchange(self, method: str, path: str, body: bytes) -> AsyncGenerator[_Connection, None]:
        """A connection on which the request was sent and the status has come.

        A kept connection may have been closed by the server just now, so its loss before the status is no news of
        the server: then the request goes out on another one. The loss of a new connection is.
        """
        while True:
            connection, is_kept = await self._connect()
            self._busy.add(connection)
            try:
                connection.send(method, path, body)
                try:
                    await connection.wait_for_status()
                except Unavailable:
                    if is_kept and not self._closed:
                        continue
                    raise
                yield connection
                return
            finally:
                self._busy.discard(connection)
                if connection.is_usable():
                    self._idle.append(connection)
                else:
                    connection.close()

    async def _connect(self) -> tuple[_Connection, bool]:
        """A connection, and whether it was kept from an earlier exchange."""
        while self._idle:
            kept = self._idle.pop()
            if kept.is_usable():
                return kept, True
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(_Connection, self._socket_path)
        except OSError as error:
            message = f"the engine does not answer: {error.strerror}"
            raise Unavailable(message, code="engine_lost", retry_after_s=1) from error
        return connection, False
