"""HTTP/1.1 to one server, kept alive: all that an engine adapter needs, and nothing it does not.

Parsing is httptools'. What is here is the pool and the exchange; decision 0004 has the measurement behind it
(a general client costs 6 times the CPU for each exchange). Whoever needs an answer no more hangs up its own side,
which is how an engine learns that nobody waits; when the engine hangs up too, it has let go of the work. TLS has no
side that could be closed alone: there the whole connection is.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import cast

import httptools

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.engine.address import Address

LAST_WORDS = b"data: [DONE]\n\n"  # of a streamed answer: whoever waits for more of it need not
PAUSE_BYTES = 1 << 20  # stop reading from the engine while this much waits for a slow client
MAX_BODY_BYTES = 64 << 20
FREE_BYTES = 64 << 10  # of a response that are no body: its head, and what stands around chunks
FREE_PER_BODY_BYTE = 8  # and besides: one byte in a chunk of its own takes six


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one exchange at a time. `silence_s` is how long nothing may come while somebody waits,
    `end_s` when the exchange must be over, by the loop's clock."""

    def __init__(self, client: EngineHttp) -> None:
        self.status = 0
        self.reusable = False
        self.lost = False
        self.finished = True
        self.has_hung_up = False
        self.silence_s = self.end_s = 0.0
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._broken = False  # what came was not HTTP
        self._overdue: Unavailable | None = None
        self._paused = False
        self._chunks: list[bytes] = []
        self._num_bytes = 0  # in chunks
        self._spare_bytes = 0  # that may come of the response and be no body
        self._coming: list[bytes] = []  # of the data that is being parsed
        self.on_body = self._coming.append  # httptools' callback: nothing of ours is called for each of many chunks
        self._enough_bytes = 0  # in chunks, for whoever waits
        self._is_said = False  # the last words of a stream have come
        self._waiting: asyncio.Future[None] | None = None
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, method: str, path: str, body: bytes, *, silence_s: float, end_s: float) -> None:
        self.status, self.reusable, self.finished, self._is_said = 0, False, False, False
        self._chunks.clear()
        self._num_bytes = 0
        self._spare_bytes = FREE_BYTES
        self._parser = httptools.HttpResponseParser(self)
        self.silence_s, self.end_s, self._heard_s = silence_s, end_s, self._loop.time()
        self._look_by(min(self._heard_s + silence_s, end_s))
        head = f"{method} {path} HTTP/1.1\r\n{self._client.headers}content-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    async def read(self, enough_bytes: int = 1) -> bytes:
        """What has come since, so many bytes at least unless no more will come; empty at the response's end."""
        self._enough_bytes = enough_bytes
        while self._num_bytes < enough_bytes and not self.finished:
            if self._chunks and (self._is_said or self._has_failed):
                break  # a failure is for whoever has read what came before it
            await self._wait_for_more()
        chunks, self._chunks, self._num_bytes = self._chunks, [], 0
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def wait_for_status(self) -> None:
        """Wait until `status` is known."""
        self._enough_bytes = 0
        while self.status == 0:
            await self._wait_for_more()

    @property
    def _has_failed(self) -> bool:
        return self.lost or self._broken or self._overdue is not None

    async def _wait_for_more(self) -> None:
        if self.lost or self._broken:
            raise Unavailable("the engine closed the connection", code="engine_lost", retry_after_s=1)
        if self._overdue is not None:
            raise self._overdue
        self._waiting = self._loop.create_future()
        await self._waiting

    def bound_silence(self, silence_s: float) -> None:
        """Nothing may come for so long from now on."""
        if silence_s < self.silence_s:
            self._heard_s = self._loop.time()
            self._look_by(self._heard_s + silence_s)
        self.silence_s = silence_s

    def hang_up(self, patience_s: float) -> None:
        """Close our side: the server works for nobody now. What it still says can be read until it closes its own."""
        self.has_hung_up, self.silence_s, self._overdue = True, patience_s, None
        self._heard_s = self._loop.time()
        self.end_s = self._heard_s + patience_s
        self._look_by(self.end_s)
        if self.lost or self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.abort()

    def close(self) -> None:
        self.end()
        self._transport.abort()

    def end(self) -> None:
        """Nobody will wait for anything on it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_usable(self) -> bool:
        """Whether another exchange may be had on it."""
        is_clean = self.finished and self.reusable and not self._chunks
        return is_clean and not (self.lost or self._broken or self.has_hung_up)

    def is_fresh(self, keep_s: float) -> bool:
        """Whether the server has been heard on it within so many seconds."""
        return self._loop.time() - self._heard_s < keep_s

    def _look_by(self, due_s: float) -> None:
        """Look at that time at the latest: a timer that is earlier is kept, from the exchange before, too."""
        if self._timer is None or due_s < self._timer.when():
            self.end()
            self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        """Whether somebody has waited too long; look again when that could be."""
        self._timer = None
        if self.finished or self.lost:
            return
        now_s, is_waited_for = self._loop.time(), self.is_waited_for
        if not is_waited_for:
            self._heard_s = now_s  # it is we who have not listened
        due_s = min(self._heard_s + self.silence_s, self.end_s)
        if now_s < due_s or not is_waited_for:
            self._timer = self._loop.call_at(max(due_s, now_s + 0.1), self._look)
            return
        self._overdue = (
            Unavailable("the engine took too long for a whole answer", code="engine_slow", retry_after_s=5)
            if now_s >= self.end_s
            else Unavailable(
                f"the engine said nothing for {self.silence_s:.0f} s", code="engine_silent", retry_after_s=5
            )
        )
        self._wake()

    def _keep(self, body: bytes) -> None:
        """For whoever reads."""
        self._chunks.append(body)
        self._num_bytes += len(body)
        self._spare_bytes += FREE_PER_BODY_BYTE * len(body)
        self._is_said = body.endswith(LAST_WORDS)
        if not self._paused and self._num_bytes > PAUSE_BYTES:
            self._paused = True
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody waits for the server to say more."""
        return self._waiting is not None and not self._waiting.done()

    # asyncio.Protocol
    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        if self.finished:  # nobody asked: whatever this is, it must not become the next answer
            self._transport.abort()
            return
        self._heard_s = self._client.heard_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._broken = True
        self._spare_bytes -= len(data)
        if self._coming:
            self._keep(b"".join(self._coming))
            self._coming.clear()
        if self._spare_bytes < 0:
            self._broken = True
        if self._num_bytes >= self._enough_bytes or self.finished or self._broken or self._is_said:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.end()
        self._wake()

    # httptools' callbacks
    def on_message_begin(self) -> None:
        if self.finished:
            raise ValueError("a second response to one request")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        self.finished = True
        self.reusable = self._parser.should_keep_alive()


class Exchange:
    """One request that was sent, and its response. `end` it, whatever happens: what is not complete is cut off."""

    def __init__(self, client: EngineHttp, request: tuple[str, str, bytes], connection: _Connection) -> None:
        self._client = client
        self._request = request
        self._connection = connection
        self._has_hung_up = False

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has come."""
        return self._connection.finished

    async def status(self) -> int:
        """The response's status. Raises Unavailable when the server is lost or says nothing for too long.

        A kept connection may have been closed by the server just now, so its loss before the status is no news of
        the server: then the request goes out on another one. The loss of a new connection is.
        """
        while True:
            try:
                await self._connection.wait_for_status()
            except Unavailable:
                lost = self._connection
                if not lost.lost or self._has_hung_up or not await self._client._send_again(self, lost):
                    raise
            else:
                return self._connection.status

    async def read(self, enough_bytes: int = 1) -> bytes:
        """What of the body has come since, so many bytes at least unless no more will come; empty at its end."""
        return await self._connection.read(enough_bytes)

    def bound_silence(self, silence_s: float) -> None:
        """From now on nothing may come for so long."""
        self._connection.bound_silence(silence_s)

    def hang_up(self, patience_s: float) -> None:
        """Nobody waits for the answer any more. What is still said within `patience_s` can be read until the server
        closes the connection (Unavailable), which it does after dropping the work."""
        self._has_hung_up = True
        self._connection.hang_up(patience_s)

    def response(self, status: int, body: bytes) -> Response:
        """That body, as the client gives it."""
        return self._client.response(status, body)

    def end(self) -> None:
        """Keep the connection for the next exchange if it can be used for one, else close it."""
        self._client._part_from(self._connection)


class EngineHttp:
    """A client of the one server at `address`, with a `key` if it wants one. `heard_s`: when it last said anything, by
    the loop's clock."""

    def __init__(self, address: Address, deadlines: Deadlines, *, key: str = "") -> None:
        self._address = address
        self._deadlines = deadlines
        self.headers = f"host: {address.authority}\r\ncontent-type: application/json\r\n"  # of every request
        self._key = key.encode()
        if key:
            self.headers += f"authorization: Bearer {key}\r\n"
        self._idle: list[_Connection] = []
        self._busy: dict[_Connection, bool] = {}  # whether it was kept from an earlier exchange
        self.is_closed = False
        self.heard_s = 0.0

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody waits for the server to say something: who reads slowly does not."""
        return any(connection.is_waited_for for connection in self._busy)

    async def request(
        self, method: str, path: str, body: bytes = b"", *, first_s: float = 0.0, limit_bytes: int = MAX_BODY_BYTES
    ) -> Response:
        """One exchange, read whole. Raises Unavailable when there is no server, it goes away, or takes too long."""
        exchange = await self.begin(method, path, body, first_s=first_s)
        try:
            status, parts, size = await exchange.status(), [], 0
            while part := await exchange.read():
                parts.append(part)
                size += len(part)
                if size > limit_bytes:
                    raise Unavailable("the engine's response is too large", code="engine_response")
            return self.response(status, b"".join(parts))
        finally:
            exchange.end()

    def response(self, status: int, body: bytes) -> Response:
        """What was said, without the key that a server may quote when it refuses."""
        quotes = status != 200 and self._key and self._key in body
        return Response(status, body.replace(self._key, b"***") if quotes else body)

    async def begin(self, method: str, path: str, body: bytes = b"", *, first_s: float = 0.0) -> Exchange:
        """Send a request. `first_s`: how long nothing need come (0: as between two words of an answer)."""
        connection = await self._connect()
        loop, deadlines = asyncio.get_running_loop(), self._deadlines
        end_s = loop.time() + deadlines.answer_s
        connection.send(method, path, body, silence_s=first_s or deadlines.silence_s, end_s=end_s)
        return Exchange(self, (method, path, body), connection)

    async def close(self) -> None:
        """Close every connection; exchanges under way fail with Unavailable, and none can be begun."""
        self.is_closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()

    async def _send_again(self, exchange: Exchange, lost: _Connection) -> bool:
        """Send the request again where a kept connection was lost under it."""
        if self.is_closed or not self._busy.pop(lost, False):
            return False
        lost.end()
        exchange._connection = connection = await self._connect()
        connection.send(*exchange._request, silence_s=lost.silence_s, end_s=lost.end_s)
        return True

    def _part_from(self, connection: _Connection) -> None:
        self._busy.pop(connection, None)
        if connection.is_usable() and not self.is_closed:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> _Connection:
        while self._idle:
            kept = self._idle.pop()
            if kept.is_usable() and kept.is_fresh(self._address.keep_s):
                self._busy[kept] = True
                return kept
            kept.close()
        try:
            if self.is_closed:
                raise OSError(0, "the connection to it was closed")
            async with asyncio.timeout(self._deadlines.connect_s):
                connection = await self._address.connect(lambda: _Connection(self))
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or error.reason or "no TLS"
            raise Unavailable(f"the engine is not who it should be: {reason}", code="engine_untrusted") from error
        except OSError as error:  # a TimeoutError is one
            message = f"the engine does not answer: {error.strerror or 'it takes no connection'}"
            raise Unavailable(message, code="engine_lost", retry_after_s=1) from error
        self._busy[connection] = False
        return connection
