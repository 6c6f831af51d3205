"""HTTP/1.1 over one Unix socket, kept alive: all that an engine adapter needs, and nothing it does not.

Parsing is httptools'. What is here is the pool and the exchange; decision 0004 has the measurement behind it
(a general client costs 6 times the CPU for each exchange). A cancelled exchange hangs up, which is how an engine
learns that nobody waits any more; when the engine hangs up too, it has let go of the work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
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
        self.lost = False
        self._finished = True
        self._broken = False  # what came was not HTTP
        self._over: Callable[[], None] | None = None
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
        if self.lost or self._broken:
            raise Unavailable("the engine closed the connection", code="engine_lost", retry_after_s=1)
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def take(self) -> bytes:
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._resume()
        return data

    def close(self) -> None:
        self._transport.abort()

    def hang_up(self, over: Callable[[], None]) -> None:
        """Close our side. `over` is called once the server works on nothing of the exchange any more: now, if its
        response is complete, else when it has closed its side, which it does after dropping the work."""
        if self._finished or self.lost:
            self.close()
            over()
            return
        self._over = over
        self._resume()  # what still comes is thrown away
        if not self._transport.is_closing():
            self._transport.write_eof()

    def is_usable(self) -> bool:
        return self._finished and self.reusable and not (self.lost or self._broken or self._chunks)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # asyncio.Protocol
    def data_received(self, data: bytes) -> None:
        if self._broken or self._over is not None:
            return
        if self._finished:  # nobody asked: whatever this is, it must not become the next answer
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._broken = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()
        if self._over is not None:
            self._over()

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


async def whole(parts: AsyncGenerator[int | bytes, None]) -> Response:
    """What a stream brings, put together."""
    status, body, size = 0, [], 0
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, int):
                status = part
                continue
            body.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise Unavailable("the engine's response is too large", code="engine_response")
    return Response(status, b"".join(body))


class UnixHttp:
    """A client of the one server behind `socket_path`."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False

    async def request(self, method: str, path: str, body: bytes = b"") -> Response:
        """One exchange, read whole. Raises Unavailable when there is no server or it goes away."""
        return await whole(self.stream(method, path, body))

    async def stream(
        self, method: str, path: str, body: bytes = b"", *, over: Callable[[], None] | None = None
    ) -> AsyncGenerator[int | bytes, None]:
        """The status first, then the body as it comes.

        `over` is called once, when the server works on nothing of this any more. An exchange that is left early ends
        here at once, there a little later: who need not know when (None) has its connection closed outright.
        """
        async with self._exchange(method, path, body, over) as connection:
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
    async def _exchange(
        self, method: str, path: str, body: bytes, over: Callable[[], None] | None
    ) -> AsyncGenerator[_Connection, None]:
        """A connection on which the request was sent and the status has come.

        A kept connection may have been closed by the server just now, so its loss before the status is no news of
        the server: then the request goes out on another one. The loss of a new connection is.
        """
        connection: _Connection | None = None
        try:
            while connection is None:
                connection, is_kept = await self._connect()
                self._busy.add(connection)
                connection.send(method, path, body)
                try:
                    await connection.wait_for_status()
                except Unavailable:
                    if not is_kept or self._closed or not connection.lost:
                        raise
                    self._busy.discard(connection)
                    connection = None
            yield connection
        finally:
            if connection is not None:
                self._part_from(connection, over)
            elif over is not None:
                over()

    def _part_from(self, connection: _Connection, over: Callable[[], None] | None) -> None:
        def done() -> None:
            self._busy.discard(connection)
            if over is not None:
                over()

        if connection.is_usable():
            self._idle.append(connection)
            done()
        elif over is None:
            connection.close()
            done()
        else:
            connection.hang_up(done)

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
