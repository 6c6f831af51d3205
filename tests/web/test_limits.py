"""What a connection may take without a key: bytes that are no body, time to send and to read; threads for evidence."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from tests.conftest import Gateway
from uvicorn.server import ServerState

from allod.core.deadlines import Deadlines
from allod.core.errors import Unavailable
from allod.web import evidence
from allod.web.http.exchange import WATCH, ClientLeft, read_body
from allod.web.server import BoundedHeads

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """An application that answers with the length of the body, after `pause_s`."""

    def __init__(self, pause_s: float = 0) -> None:
        self.pause_s = pause_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with suppress(ClientLeft):
            body = await read_body(receive, {}, limit_bytes=1 << 30)
            await scope["extensions"][WATCH].unless_client_leaves(asyncio.sleep(self.pause_s))
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
            await send({"type": "http.response.body", "body": b"%8d" % len(body)})


class Whole:
    """An application with one answer of so many bytes."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        length = (b"content-length", b"%d" % self.num_bytes)
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"x" * self.num_bytes})


class Endless:
    """An application that streams until its client has left."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive, {}, limit_bytes=1 << 20)
        try:
            await scope["extensions"][WATCH].unless_client_leaves(self._stream(send))
        except ClientLeft:
            self.left.set()

    async def _stream(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            await asyncio.sleep(0)


def within(seconds: float, **others: float) -> Deadlines:
    """A client has that much time for each thing that it owes, and `others` for some."""
    names: dict[str, Any] = dict.fromkeys(("head_s", "body_s", "reader_s"), seconds)
    return Deadlines(**{**names, **others})


QUICK = within(0.2)


@asynccontextmanager
async def connected(
    application: Any, *, deadlines: Deadlines | None = None, buffer_bytes: int | None = None
) -> AsyncIterator[Streams]:
    """One connection to `application` behind the gateway's own protocol; `buffer_bytes` is what the kernel keeps."""
    config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None, timeout_keep_alive=75)
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: BoundedHeads(deadlines or Deadlines(), config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    client = socket.socket()
    if buffer_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    client.setblocking(False)
    await loop.sock_connect(client, listening.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        listening.close()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=5)


async def is_cut_off(reader: asyncio.StreamReader, within_s: float = 5) -> bool:
    """Whether the connection ends, with whatever is said before."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            with suppress(ConnectionError):
                while await reader.read(1 << 16):
                    pass
            return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"POST",
        HEAD,
        HEAD + b"content-length: 5\r\n\r\nab",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
    ],
    ids=["silent", "line", "head", "body", "trailers"],
)
async def test_an_unfinished_request_is_not_waited_for(data: bytes) -> None:
    """Nothing, half a head, half a body, a body without its end: the connection is another client's soon."""
    async with connected(Echo(), deadlines=QUICK) as (reader, writer):
        writer.write(data)
        assert await is_cut_off(reader)


async def test_a_body_in_very_many_parts_is_not_read() -> None:
    """Each part costs a call: a hundred thousand of a byte each would hold everybody up. Larger ones may be many."""
    for part, status in ((b"x", b"400"), (b"x" * 64, b"200")):
        async with connected(Echo()) as (reader, writer):
            chunk = b"%x\r\n%b\r\n" % (len(part), part)
            writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 30_000 + b"0\r\n\r\n")
            assert status in await reader.readline()


@pytest.mark.parametrize("drop", [b"\r\n", b"x-a: b\r\n"])
async def test_a_byte_now_and_then_buys_no_time(drop: bytes) -> None:
    """The time is for the whole head, in a connection's second request as in its first."""
    async with connected(Echo(), deadlines=QUICK) as (reader, writer):
        writer.write(HEAD + b"content-length: 0\r\n\r\n")
        await reader.readuntil(b"       0")
        if drop.startswith(b"x"):
            writer.write(HEAD)
        ended = asyncio.ensure_future(is_cut_off(reader))
        for _ in range(20):
            writer.write(drop)
            await asyncio.sleep(0.05)
        assert ended.done()
        assert ended.result()


async def test_who_waits_for_its_answer_is_not_cut_off() -> None:
    """The time is the client's, not the model's; a line end behind the body, or the next request's, changes nothing."""
    large = HEAD + b"content-length: 900000\r\n\r\n"
    for behind in (b"", b"\r\n", b"POST / HT", large + b"x" * 900_000):
        async with connected(Echo(pause_s=0.5), deadlines=QUICK) as (reader, writer):
            writer.write(HEAD + b"content-length: 3\r\n\r\nabc")
            await asyncio.sleep(0.05)
            writer.write(behind)
            await reader.readuntil(b"       3")
            if behind.startswith(large):
                await reader.readuntil(b"  900000")


async def test_who_never_reads_is_left() -> None:
    """The work for it ends, as it does when a client closes its connection; the engine is free for others."""
    application = Endless()
    async with connected(application, deadlines=QUICK, buffer_bytes=1024) as (_, writer):
        writer.write(HEAD + b"content-length: 0\r\n\r\n")
        await asyncio.wait_for(application.left.wait(), 5)


@pytest.mark.parametrize("ending", [b"", b"connection: close\r\n"], ids=["kept", "closing"])
@pytest.mark.parametrize("num_bytes", [20_000, 50_000, 5_000_000])
async def test_the_end_of_an_answer_is_not_kept_for_ever(ending: bytes, num_bytes: int) -> None:
    """However little is left of it, and though the connection is closing: what nobody reads has an end."""
    deadlines = within(0.2, reader_s_per_mib=0)
    async with connected(Whole(num_bytes), deadlines=deadlines, buffer_bytes=1024) as (reader, writer):
        writer.write(HEAD + ending + b"\r\n")
        await asyncio.sleep(0.6)
        received = 0
        with suppress(ConnectionError):
            while data := await asyncio.wait_for(reader.read(4096), 2):
                received += len(data)
        assert 0 < received < num_bytes


async def test_a_large_answer_gives_its_reader_time() -> None:
    """In proportion: a slow line is no reason to cut it off."""
    deadlines = within(0.2, reader_s_per_mib=1)
    async with connected(Whole(2_000_000), deadlines=deadlines, buffer_bytes=1024) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.6)
        assert len(await asyncio.wait_for(reader.readexactly(2_000_000), 10)) == 2_000_000


async def test_who_reads_slowly_is_served() -> None:
    """Falling behind is no fault as long as it goes on."""
    application = Endless()
    async with connected(application, deadlines=within(0.5)) as (reader, writer):
        writer.write(HEAD + b"content-length: 0\r\n\r\n")
        for _ in range(20):
            for _ in range(20):
                await reader.readexactly(50_000)
            await asyncio.sleep(0.05)
        assert not application.left.is_set()


@pytest.mark.parametrize(
    "beginning",
    [b"", HEAD, HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"],
    ids=["first line", "headers", "trailers"],
)
@pytest.mark.parametrize("line", [b"x-a: b\r\n", b"x"], ids=["lines", "one line"])
async def test_what_is_no_body_has_a_limit(beginning: bytes, line: bytes) -> None:
    """A head without end, and what may follow a body in chunks: cut off, though it comes fast."""
    async with connected(Echo()) as (reader, writer):
        writer.write(beginning)
        await asyncio.sleep(0.05)
        with suppress(ConnectionError):
            for _ in range(20):
                writer.write(line * (32_768 // len(line)))
                await writer.drain()
                await asyncio.sleep(0.005)
        assert await is_cut_off(reader, within_s=2)


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_long_body_in_chunks_is_no_head(size: int) -> None:
    """What frames its chunks may be longer than a head may be."""
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    async with connected(Echo()) as (reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 20_000 + b"0\r\na: b\r\n\r\n")
        await reader.readuntil(b"%8d" % (size * 20_000))


def test_a_gateway_may_open_as_many_files_as_the_system_allows(start_gateway: Callable[..., Any]) -> None:
    """Every connection is one; the usual soft limit of 1,024 is soon reached."""
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    gateway: Gateway
    with start_gateway("echo", prefix=("prlimit", f"--nofile=256:{hard}", "--")) as gateway:
        limits = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    assert limits == (hard, hard)


async def test_evidence_takes_one_thread_of_a_lane() -> None:
    """However many ask, and the others are served in turn."""
    lane, inside, most = evidence.Lane(1), 0, 0
    lock = threading.Lock()

    def read() -> bool:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.01)
        with lock:
            inside -= 1
        return True

    assert all(await asyncio.gather(*(lane.run(read) for _ in range(20))))
    assert most == 1


async def test_too_many_that_ask_for_evidence_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with a time, and the place of whoever was answered or left is free again."""
    monkeypatch.setattr(evidence, "MAX_WAITING", 3)
    lane, may_end = evidence.Lane(1), threading.Event()
    asking = [asyncio.ensure_future(lane.run(may_end.wait, 5)) for _ in range(4)]
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable) as caught:
        await lane.run(bool)
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
    asking[3].cancel()
    may_end.set()
    assert await asyncio.gather(*asking[:3]) == [True] * 3
    assert await asyncio.gather(*(lane.run(bool) for _ in range(4))) == [False] * 4
