"""What the gateway's own protocol writes: a response's head and what follows it are one write."""

from __future__ import annotations

from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from allod.core.deadlines import Deadlines
from allod.web.server import BoundedHeads

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

    def is_closing(self) -> bool:
        return self.is_closed

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **named: None


async def written(application: Any, *requests: bytes) -> Written:
    """What is written for these requests, which come one after the other."""
    config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None, server_header=False)
    config.load()
    state, transport = ServerState(), Written()
    protocol = BoundedHeads(Deadlines(), config, server_state=state, app_state={})
    protocol.connection_made(transport)  # type: ignore[arg-type]
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
