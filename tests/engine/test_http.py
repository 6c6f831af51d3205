"""HTTP to an engine: connections are reused, broken ones are never trusted, and whoever stops, stops the server.

Each test has a server of its own: a socket and a script of what it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.engine.address import Address, UnixAddress
from allod.engine.http import PAUSE_BYTES, EngineHttp, Response

Answer = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request as the server sees it, and the connection to answer it on."""

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = head
        self.body = body
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def whole(self, body: bytes, *, status: bytes = b"200 OK", more: bytes = b"") -> None:
        await self.send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), more, body))

    async def chunked(self, *parts: bytes) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in parts:
            await self.send(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0)
        await self.send(b"0\r\n\r\n")


class Server:
    """What was heard, and how many connections were made and seen to end."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()
        self.heard: list[Exchange] = []
        self.num_connections = 0
        self.ended = asyncio.Semaphore(0)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.is_closing():
                    await self._exchange(reader, writer)
        finally:
            self.ended.release()
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        exchange = Exchange(head, await reader.readexactly(length), reader, writer)
        self.heard.append(exchange)
        await self._answer(exchange)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(path: Path, answer: Answer) -> AsyncGenerator[tuple[EngineHttp, Server], None]:
    server = Server(answer)
    listener = await asyncio.start_unix_server(server.accept, path / "s")
    async with talking(server, listener, UnixAddress(str(path / "s"))) as client:
        yield client, server


@asynccontextmanager
async def talking(
    server: Server, listener: asyncio.Server, address: Address, *, key: str = ""
) -> AsyncGenerator[EngineHttp, None]:
    """A client of a server that listens."""
    client = EngineHttp(address, Deadlines(), key=key)
    try:
        async with asyncio.timeout(20):
            yield client
    finally:
        await client.close()
        listener.close()
        await server.stop()
        await asyncio.sleep(0)


async def streamed(client: EngineHttp, body: bytes = b"") -> AsyncGenerator[int | bytes, None]:
    """The status of a response, then its body as it comes."""
    exchange = await client.begin("GET", "/", body)
    try:
        yield await exchange.status()
        while part := await exchange.read():
            yield part
    finally:
        exchange.end()


async def say_hello(exchange: Exchange) -> None:
    await exchange.whole(b"hello")


async def lost(client: EngineHttp) -> None:
    """The next request fails as it does when an engine has gone: soon worth another try."""
    with pytest.raises(Unavailable) as caught:
        await client.request("POST", "/", b"{}")
    assert caught.value.code == "engine_lost"
    assert caught.value.retry_after_s is not None


async def test_a_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    """Method, path and every byte of the body."""
    body = bytes(range(256)) * 300
    async with serving(tmp_path, say_hello) as (client, server):
        assert await client.request("POST", "/v1/x?y=z", body) == Response(200, b"hello")
    assert server.heard[0].head.startswith(b"POST /v1/x?y=z HTTP/1.1\r\n")
    assert server.heard[0].body == body


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"503 Service Unavailable"])
async def test_the_status_is_the_servers(tmp_path: Path, status: bytes) -> None:
    """Errors are responses here; what they mean is for the caller."""
    async with serving(tmp_path, lambda exchange: exchange.whole(b"why", status=status)) as (client, _):
        assert await client.request("GET", "/") == Response(int(status[:3]), b"why")


async def test_a_body_in_chunks_is_put_together(tmp_path: Path) -> None:
    """Whatever their sizes, in their order."""
    parts = [b"a", b"b" * 70_000, b"c\r\n0\r\n\r\n", b"d"]
    async with serving(tmp_path, lambda exchange: exchange.chunked(*parts)) as (client, _):
        assert await client.request("GET", "/") == Response(200, b"".join(parts))


async def test_an_empty_body_is_a_whole_response(tmp_path: Path) -> None:
    """With a length of none and with no chunk."""
    async with serving(tmp_path, lambda exchange: exchange.whole(b"")) as (client, _):
        assert await client.request("GET", "/") == Response(200, b"")
    async with serving(tmp_path, lambda exchange: exchange.chunked()) as (client, _):
        assert await client.request("GET", "/") == Response(200, b"")


async def test_a_response_in_single_bytes_is_the_same(tmp_path: Path) -> None:
    """Where the pieces of the transport end says nothing."""

    async def drip(exchange: Exchange) -> None:
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello":
            await exchange.send(bytes((byte,)))
            await asyncio.sleep(0)

    async with serving(tmp_path, drip) as (client, _):
        assert await client.request("GET", "/") == Response(200, b"hello")


async def test_a_stream_is_its_status_and_then_its_parts_as_they_come(tmp_path: Path) -> None:
    """A part is handed on before the next one exists."""
    seen = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await seen.wait()
        await exchange.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with serving(tmp_path, slowly) as (client, _), aclosing(streamed(client)) as parts:
        assert await anext(parts) == 200
        assert await anext(parts) == b"one"
        seen.set()
        assert [part async for part in parts] == [b"two"]


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    """One after another, whole and streamed, on one connection."""
    async with serving(tmp_path, lambda exchange: exchange.chunked(exchange.body)) as (client, server):
        for number in range(20):
            body = str(number).encode()
            assert await client.request("POST", "/", body) == Response(200, body)
            assert [part async for part in streamed(client, body)] == [200, body]
        assert server.num_connections == 1


async def test_exchanges_at_once_have_connections_of_their_own(tmp_path: Path) -> None:
    """And each gets its own answer."""

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(0.05 if exchange.body < b"5" else 0)
        await exchange.whole(exchange.body)

    async with serving(tmp_path, late) as (client, server):
        bodies = [str(number).encode() for number in range(10)]
        answers = await asyncio.gather(*(client.request("POST", "/", body) for body in bodies))
        assert [answer.body for answer in answers] == bodies
        assert server.num_connections == 10


async def test_a_server_that_says_close_is_believed(tmp_path: Path) -> None:
    """The next request takes a new connection."""
    async with serving(tmp_path, lambda exchange: exchange.whole(b"x", more=b"connection: close\r\n")) as (
        client,
        server,
    ):
        for _ in range(3):
            assert (await client.request("GET", "/")).body == b"x"
        assert server.num_connections == 3


async def test_a_connection_that_was_closed_while_idle_is_not_used(tmp_path: Path) -> None:
    """Servers close idle connections without a word; the next request must not suffer for it."""

    async def answer_and_hang_up(exchange: Exchange) -> None:
        await exchange.whole(b"x")
        exchange.writer.close()

    async with serving(tmp_path, answer_and_hang_up) as (client, server):
        for _ in range(3):
            assert (await client.request("GET", "/")).body == b"x"
            await server.ended.acquire()
            await asyncio.sleep(0.01)
        assert server.num_connections == 3


async def test_a_kept_connection_that_dies_under_a_request_is_no_error(tmp_path: Path) -> None:
    """The server's closing and our request crossed: the request goes out again, on a new connection."""

    async def only_once(exchange: Exchange) -> None:
        if exchange.writer in seen:
            exchange.writer.close()
        else:
            seen.add(exchange.writer)
            await exchange.whole(exchange.body)

    seen: set[asyncio.StreamWriter] = set()
    async with serving(tmp_path, only_once) as (client, server):
        for body in (b"1", b"2", b"3"):
            assert (await client.request("POST", "/", body)).body == body
        assert server.num_connections == 3
        assert [exchange.body for exchange in server.heard] == [b"1", b"2", b"2", b"3", b"3"]


async def test_an_answer_that_has_begun_is_not_asked_for_again(tmp_path: Path) -> None:
    """Once the status has come on a kept connection, its loss is an error: the work may have been done."""

    async def begin_only(exchange: Exchange) -> None:
        if len(server.heard) == 1:
            await exchange.whole(b"x")
        else:
            await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
            exchange.writer.close()

    async with serving(tmp_path, begin_only) as (client, server):
        await client.request("GET", "/")
        await lost(client)
        assert len(server.heard) == 2


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """No socket, and a socket that nobody listens on."""
    await lost(EngineHttp(UnixAddress(str(tmp_path / "absent")), Deadlines()))
    (tmp_path / "file").write_bytes(b"")
    await lost(EngineHttp(UnixAddress(str(tmp_path / "file")), Deadlines()))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
    ids=["nothing", "half a head", "no body", "half a body", "no chunk", "no last chunk", "half the end"],
)
async def test_a_response_that_breaks_off_is_a_lost_engine(tmp_path: Path, sent: bytes) -> None:
    """Half an answer is never taken for a whole one."""

    async def break_off(exchange: Exchange) -> None:
        await exchange.send(sent)
        exchange.writer.close()

    async with serving(tmp_path, break_off) as (client, _):
        await lost(client)
        with pytest.raises(Unavailable):
            [part async for part in streamed(client)]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    ],
    ids=["noise", "ssh", "status", "length", "chunk", "header"],
)
async def test_garbage_is_a_lost_engine(tmp_path: Path, sent: bytes) -> None:
    """And the connection it came from is closed, though the server would keep it."""

    async def babble(exchange: Exchange) -> None:
        await exchange.send(sent)

    async with serving(tmp_path, babble) as (client, server):
        await lost(client)
        await server.ended.acquire()


async def test_a_lost_connection_does_not_spoil_the_next(tmp_path: Path) -> None:
    """After a failure the client connects anew and all is well."""
    answers: list[Answer] = [lambda exchange: exchange.send(b"garbage\r\n\r\n"), say_hello]

    async with serving(tmp_path, lambda exchange: answers[len(server.heard) - 1](exchange)) as (client, server):
        await lost(client)
        assert (await client.request("GET", "/")).body == b"hello"


async def endless(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"5\r\nhello\r\n")
        await asyncio.sleep(0)


async def silent(exchange: Exchange) -> None:
    await exchange.reader.read()  # ends when the client closes
    exchange.writer.close()


@pytest.mark.parametrize("answer", [endless, silent])
async def test_a_cancelled_request_closes_its_connection(tmp_path: Path, answer: Answer) -> None:
    """That is how an engine learns that nobody waits any more."""
    async with serving(tmp_path, answer) as (client, server):
        task = asyncio.create_task(client.request("GET", "/"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.ended.acquire()


async def test_a_stream_that_is_left_closes_its_connection(tmp_path: Path) -> None:
    """Leaving after the first part ends the server's work, and the half-read connection is not used again."""
    async with serving(tmp_path, endless) as (client, server):
        for _ in range(3):
            async with aclosing(streamed(client)) as parts:
                assert await anext(parts) == 200
                assert await anext(parts)
            await server.ended.acquire()
        assert server.num_connections == 3


async def test_a_slow_consumer_slows_the_server(tmp_path: Path) -> None:
    """What waits for a slow client stays near the limit, however fast the engine is; and nothing of it is lost."""
    total, sent = 64 * PAUSE_BYTES, 0
    piece = bytes(PAUSE_BYTES // 4)

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            await exchange.send(piece)
            sent += len(piece)

    async with serving(tmp_path, flood) as (client, _), aclosing(streamed(client)) as parts:
        assert await anext(parts) == 200
        await asyncio.sleep(0.2)
        assert sent < 4 * PAUSE_BYTES
        received = 0
        async for part in parts:
            assert isinstance(part, bytes)
            received += len(part)
        assert received == total


async def test_closing_fails_what_is_under_way_on_a_kept_connection(tmp_path: Path) -> None:
    """A request that waits on a connection kept from before is not sent again once the client is closed."""

    async def answer_then_fall_silent(exchange: Exchange) -> None:
        if len(server.heard) == 1:
            await exchange.whole(b"x")
        else:
            await silent(exchange)

    async with serving(tmp_path, answer_then_fall_silent) as (client, server):
        await client.request("GET", "/")
        waiting = asyncio.create_task(client.request("GET", "/"))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(Unavailable):
            await waiting
        assert len(server.heard) == 2


async def test_an_unread_large_body_does_not_stall_the_next_request(tmp_path: Path) -> None:
    """A stream that is left once everything has arrived, reading paused, leaves no paused connection behind."""

    async def large_then_small(exchange: Exchange) -> None:
        await exchange.whole(b"x" * (PAUSE_BYTES + 1) if len(server.heard) == 1 else b"y")

    async with serving(tmp_path, large_then_small) as (client, server):
        async with aclosing(streamed(client)) as parts:
            assert await anext(parts) == 200
            await asyncio.sleep(0.2)
        assert await client.request("GET", "/") == Response(200, b"y")


async def test_a_second_answer_to_one_request_is_not_part_of_the_first(tmp_path: Path) -> None:
    """Bytes behind a whole response are never handed on, and their connection is not used again."""

    async def answer_twice(exchange: Exchange) -> None:
        one = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"
        await exchange.send(one + b"x" + one + b"y")

    async with serving(tmp_path, answer_twice) as (client, server):
        for _ in range(2):
            assert await client.request("GET", "/") == Response(200, b"x")
        assert server.num_connections == 2


async def test_closing_fails_what_is_under_way(tmp_path: Path) -> None:
    """Requests that wait are told that the engine is lost, and do not wait for ever."""
    async with serving(tmp_path, silent) as (client, server):
        waiting = [asyncio.create_task(client.request("GET", "/")) for _ in range(3)]
        await asyncio.sleep(0.05)
        await client.close()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, Unavailable)
            assert result.code == "engine_lost"
        for _ in waiting:
            await server.ended.acquire()


async def test_who_waits_for_much_is_not_kept_from_a_failure_nor_what_came_before_it(tmp_path: Path) -> None:
    """A read of so many bytes at least has what came, however little, once no more will; the loss comes after it."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"half")
        await exchange.send(b"done")
        exchange.writer.close()

    async with serving(tmp_path, answer) as (client, _):
        exchange = await client.begin("GET", "/")
        assert await exchange.status() == 200
        assert await exchange.read(1 << 14) == b"halfdone"
        with pytest.raises(Unavailable, match="closed"):
            await exchange.read(1 << 14)
        exchange.end()


async def test_the_last_words_of_a_stream_are_not_waited_on(tmp_path: Path) -> None:
    """An event stream that has said its last word is read at once, though the response has not ended."""
    ends = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"e\r\ndata: [DONE]\n\n\r\n")
        await ends.wait()

    async with serving(tmp_path, answer) as (client, _):
        exchange = await client.begin("GET", "/")
        assert await exchange.status() == 200
        assert await exchange.read(1 << 14) == b"data: [DONE]\n\n"
        ends.set()
        exchange.end()


@pytest.mark.parametrize(
    "noise",
    [b"x: " + b"a" * 1000, b"1;" + b"a" * 1000],
    ids=["head", "chunk"],
)
async def test_what_is_no_body_has_an_end(tmp_path: Path, noise: bytes) -> None:
    """A head, or what stands before a chunk, that goes on for ever is a lost engine."""
    chunked = b"HTTP/1.1 200 OK\r\n" + (b"transfer-encoding: chunked\r\n\r\n" if noise[:1] == b"1" else b"")

    async def babble(exchange: Exchange) -> None:
        await exchange.send(chunked, noise)
        while True:
            await exchange.send(b"a" * 1000)

    async with serving(tmp_path, babble) as (client, server):
        await lost(client)
        await server.ended.acquire()


async def test_a_body_in_chunks_of_one_byte_is_a_body(tmp_path: Path) -> None:
    """However much more than itself stands around it."""
    async with serving(tmp_path, lambda exchange: exchange.chunked(*[b"x"] * 15_000)) as (client, _):
        assert (await client.request("GET", "/")).body == b"x" * 15_000
