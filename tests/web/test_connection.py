"""The gateway's own protocol: a response's head and what follows it are one write; who works is told of who leaves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from allod.core.deadlines import Deadlines
from allod.web.http.exchange import WATCH, ClientLeft
from allod.web.server import MAX_QUEUED, BoundedHeads

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Written:
    """A transport that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **named: None


def connected(application: Any, state: ServerState) -> tuple[BoundedHeads, Written]:
    """The protocol of a new connection, and what it writes to."""
    config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None, server_header=False)
    config.load()
    protocol, transport = BoundedHeads(Deadlines(), config, server_state=state, app_state={}), Written()
    protocol.connection_made(transport)  # type: ignore[arg-type]  # what is called of one
    return protocol, transport


async def written(application: Any, *requests: bytes) -> Written:
    """What is written for these requests, which come one after the other."""
    state = ServerState()
    protocol, transport = connected(application, state)
    for request in requests:
        protocol.data_received(request)
        for task in tuple(state.tasks):
            await task
    protocol.connection_lost(None)
    return transport


def answering(*bodies: bytes, is_read: bool = False) -> Any:
    """An application whose answer comes in these parts; without any it fails after its head."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if is_read:
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    return application


async def test_a_head_and_what_follows_it_are_one_write() -> None:
    """Each time on a connection; and a part that looks like a head is none."""
    transport = await written(answering(b"HTTP/1.1 200 OK", b"b", b""), GET, GET)
    heads = [write for write in transport.writes if write.startswith(b"HTTP/1.1 200 OK\r\n")]
    assert len(transport.writes) == 6
    assert len(heads) == 2
    assert all(head.endswith(b"\r\n\r\nf\r\nHTTP/1.1 200 OK\r\n") for head in heads)


@pytest.mark.parametrize("request_", [GET.replace(b"GET", b"HEAD"), GET], ids=["no body", "broken off"])
async def test_a_head_that_nothing_follows_is_written(request_: bytes) -> None:
    """At the end of an answer to HEAD, and where the application ends without a body."""
    transport = await written(answering(b"") if request_.startswith(b"HEAD") else answering(), request_)
    assert len(transport.writes) == 1
    assert transport.writes[0].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_who_asks_whether_to_go_on_is_told_at_once() -> None:
    """It sends no body before it has read that."""
    expecting = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n"
    transport = await written(answering(b"a", is_read=True), expecting)
    assert transport.writes[0] == CONTINUE
    assert transport.writes[1].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_refusal_of_what_is_no_request_is_written_before_the_connection_closes() -> None:
    """uvicorn writes it whole."""
    transport = await written(answering(b"a"), b"\x00\r\n\r\n")
    assert [write.partition(b"\r\n")[0] for write in transport.writes] == [b"HTTP/1.1 400 Bad Request"]
    assert transport.is_closed


@pytest.mark.parametrize("num_turns", [0, 5], ids=["before it began", "while it waits"])
async def test_work_for_a_client_that_left_ends_at_once(num_turns: int) -> None:
    """Nobody looks for that: the connection says so, and by then or later the work is cancelled."""
    told: list[object] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await scope["extensions"][WATCH].unless_client_leaves(asyncio.sleep(60))
        except ClientLeft as reason:
            told.append(reason)

    state = ServerState()
    protocol, _ = connected(application, state)
    protocol.data_received(GET)
    [task] = state.tasks
    for _ in range(num_turns):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    ended, _ = await asyncio.wait([task], timeout=2)
    assert (len(ended), len(told)) == (1, 1)


async def test_a_client_is_heard_while_its_answer_is_made() -> None:
    """Reading was paused for its large body, and would have gone on only with the next request."""
    heard: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await scope["extensions"][WATCH].unless_client_leaves(asyncio.sleep(0))
        heard.append(not protocol.flow.read_paused)

    state = ServerState()
    protocol, _ = connected(application, state)
    protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n" + b"x" * 70_000)
    assert protocol.flow.read_paused
    await asyncio.gather(*state.tasks)
    assert heard == [True]


@pytest.mark.parametrize(("num", "is_closed"), [(MAX_QUEUED + 1, False), (MAX_QUEUED + 2, True), (5_000, True)])
async def test_requests_that_come_before_the_one_that_is_answered_was_are_bounded(num: int, is_closed: bool) -> None:
    """Each is read and kept though nobody asked for a key yet: a flood of them ends the connection."""
    state = ServerState()
    protocol, transport = connected(answering(b"x"), state)
    protocol.data_received(GET * num)
    assert transport.is_closed == is_closed
    assert len(protocol.pipeline) == MAX_QUEUED
    while state.tasks:
        await asyncio.gather(*state.tasks)
    assert len(transport.writes) == (0 if is_closed else num)


async def whole(application: Any, *parts: bytes | None) -> bytes:
    """What one connection is sent for these parts (None: the client says no more), until it is closed."""
    state = ServerState()
    protocol, transport = connected(application, state)
    for part in parts:
        if part is not None:
            protocol.data_received(part)
        elif not protocol.eof_received():
            transport.close()
        await asyncio.sleep(0)
    if transport.is_closed:
        protocol.connection_lost(None)
    while state.tasks:
        await asyncio.wait_for(asyncio.gather(*state.tasks), 5)
    assert transport.is_closed
    return b"".join(transport.writes)


async def slowly(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path, in two parts, some turns of the event loop apart."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (scope["path"].encode(), b"end"):
        for _ in range(5):
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": part, "more_body": part != b"end"})


POST = b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
ANSWERED = b"2\r\n/p\r\n3\r\nend\r\n0\r\n\r\n"


@pytest.mark.parametrize("rest", [(), (b"\n",), (b"\x00",), (b"GET /",)], ids=ascii)
async def test_who_says_no_more_is_answered(rest: tuple[bytes, ...]) -> None:
    """What came whole is, whatever stands behind it; then the connection ends."""
    said = await whole(slowly, POST + b"{}", *rest, None)
    assert said.endswith(ANSWERED)
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "rest", [b"\x00\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01" * 1000, POST + b"{}\x00"], ids=ascii
)
async def test_what_is_no_request_does_not_come_into_an_answer(rest: bytes) -> None:
    """Answers that are under way end as they would have, and nothing that comes behind is heard."""
    said = await whole(slowly, POST + b"{}", rest, POST + b"{}")
    assert said.endswith(ANSWERED)
    assert said.count(b"HTTP/1.1") == said.count(ANSWERED) == (2 if rest.startswith(b"POST") else 1)


async def test_a_request_that_breaks_behind_an_answer_is_dropped() -> None:
    """Its head had come; it is not waited for."""
    broken = POST.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"no number\r\n"
    said = await whole(slowly, POST + b"{}", broken)
    assert said.endswith(ANSWERED)
    assert said.count(b"HTTP/1.1") == 1


async def test_a_request_that_breaks_itself_is_refused() -> None:
    """Nothing was answered yet."""
    broken = POST.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"no number\r\n"
    assert (await whole(slowly, broken)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("parts", [(POST + b"{",), (POST[:9],), ()], ids=ascii)
async def test_who_says_no_more_before_a_request_is_whole_has_left(parts: tuple[bytes, ...]) -> None:
    """There is nothing to answer."""
    assert await whole(slowly, *parts, None) in (b"", CONTINUE)


async def telling(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked: method, path, names of headers, body."""
    body, is_whole = b"", False
    while not is_whole:
        event = await receive()
        body, is_whole = body + event["body"], not event["more_body"]
    names = b",".join(name for name, _ in scope["headers"])
    said = b" ".join([scope["method"].encode(), scope["path"].encode(), names, body])
    headers = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


def answers(said: bytes) -> list[bytes]:
    """The bodies of these responses, each of which is of a length that it says."""
    bodies = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        bodies.append(said[:length])
        said = said[length:]
    return bodies


UPGRADE = (  # as Java's client says it, unless told to speak HTTP/1.1
    b"POST /p HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\ncontent-length: 27\r\nhost: x\r\nhttp2-settings: A\r\n"
    b"upgrade: h2c\r\n\r\nGET /healthz HTTP/1.1\r\nh:\r\n"
)
UPGRADED = b"POST /p connection,content-length,host,http2-settings GET /healthz HTTP/1.1\r\nh:\r\n"


async def test_a_request_that_asks_for_an_upgrade_is_answered_as_if_it_did_not() -> None:
    """Its body is its body, wherever packets are cut, and what follows it is the next request."""
    requests = UPGRADE * 2 + GET
    for cut in range(len(requests)):
        said = await whole(telling, requests[:cut], requests[cut:], None)
        assert answers(said) == [UPGRADED, UPGRADED, b"GET / host "], cut


async def test_an_upgrade_is_ignored_though_each_byte_is_a_packet() -> None:
    """In chunks, too."""
    head = UPGRADE.partition(b"content-length")[0] + b"transfer-encoding: chunked\r\nupgrade: h2c\r\n\r\n"
    said = await whole(telling, *(bytes([each]) for each in head + b"2\r\n{}\r\n0\r\n\r\n" + GET), None)
    assert answers(said) == [b"POST /p connection,transfer-encoding {}", b"GET / host "]


@pytest.mark.parametrize("connection", [b"Upgrade", b"upgrade, close", b"keep-alive, Upgrade"], ids=ascii)
async def test_a_websocket_is_an_ordinary_request(connection: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing else is heard where the connection is to close; and the log has no advice to install anything."""
    asked = GET[:-2] + b"connection: " + connection + b"\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
    transport = await written(telling, asked + GET)
    said = answers(b"".join(transport.writes))
    assert said[0] == b"GET / host,connection,sec-websocket-key "
    assert said[1:] == ([] if b"close" in connection else [b"GET / host "])
    assert not caplog.records


@pytest.mark.parametrize("target", [b"x:443", b"/", b"*", b"http://x/"], ids=ascii)
async def test_a_tunnel_is_refused(target: bytes) -> None:
    """What is sent into it is no request of ours."""
    said = await whole(telling, b"CONNECT " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n" + GET, GET)
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("num", [MAX_QUEUED + 2, 5_000])
async def test_a_flood_of_upgrades_ends_the_connection(num: int) -> None:
    """Like one of other requests."""
    protocol, transport = connected(telling, state := ServerState())
    protocol.data_received(UPGRADE * num)
    assert transport.is_closed
    assert len(protocol.pipeline) == MAX_QUEUED
    await asyncio.gather(*state.tasks)


@pytest.mark.parametrize("num", [1, 3])
async def test_the_last_answer_before_a_connection_closes_says_so(num: int) -> None:
    """Behind its request came what is none."""
    said = await whole(telling, GET * num + b"\x00")
    assert said.count(b"HTTP/1.1 200") == num
    assert said.count(b"connection: close") == 1
    assert said.rindex(b"connection: close") > said.rindex(b"HTTP/1.1 200")


async def test_a_flood_behind_a_request_ends_the_connection() -> None:
    """It is not read for ever, though nothing of it is kept."""
    protocol, transport = connected(slowly, ServerState())
    protocol.data_received(POST + b"{}")
    for _ in range(20):
        protocol.data_received(b"\x00" * 4000)
    assert transport.is_closed


async def test_what_ends_work_is_not_ended_itself() -> None:
    """A client says no more, and is gone a little later."""
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append("in order")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        with suppress(ClientLeft):
            await scope["extensions"][WATCH].unless_client_leaves(work())

    state = ServerState()
    protocol, _ = connected(application, state)
    protocol.data_received(GET)
    await asyncio.sleep(0)
    assert protocol.eof_received()
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    assert ended == ["in order"]
