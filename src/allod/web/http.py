"""The little of ASGI that handlers share: reading a bounded body, responding, noticing that a client left."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeVar

from allod.core.errors import AllodError, Invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON: Headers = ((b"content-type", b"application/json"),)
TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
_Result = TypeVar("_Result")


WATCH_AFTER_S = 0.02


class ClientLeft(Exception):
    """The client closed its connection; nobody is there to be told anything."""


def retry_after(error: AllodError) -> Headers:
    """The header that says when to ask again, where the error knows."""
    wait_s = getattr(error, "retry_after_s", None)
    return () if wait_s is None else ((b"retry-after", str(max(1, math.ceil(wait_s))).encode()),)


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, limit_bytes: int) -> bytes:
    """The request's body. Raises Invalid as soon as it is longer than allowed (413), and for one that is packed (415).

    What it says of its type is not looked at: a body here is JSON in UTF-8, or none.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b""):
        raise Invalid(
            "a body that is packed is not read here",
            code="unsupported_media_type",
            param="content-encoding",
            hint="send it as it is, without content-encoding",
        )
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit_bytes:  # nobody waits for it
        raise _too_large(limit_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and len(body) <= limit_bytes:
        return body
    parts, size = [body], len(body)
    while True:
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])


def _too_large(limit_bytes: int) -> Invalid:
    return Invalid(f"the body is longer than {limit_bytes} bytes", code="body_too_large")


async def respond(send: Send, status: int, body: bytes, headers: Headers = JSON, *, without_body: bool = False) -> None:
    """A whole response; to HEAD its length and not its body."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if without_body else body})


async def unless_client_leaves(receive: Receive, work: Awaitable[_Result]) -> _Result:
    """The result of `work`, which is cancelled as soon as the client closes its connection (then ClientLeft is raised).

    The body must have been read. Raises what `work` raises.
    """
    watch = _Watch(receive)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.client_left and watch.task.uncancel() == 0:
            raise ClientLeft from None
        raise
    finally:
        watch.stop()


class _Watch:
    """Cancels the task that made it once the client has left.

    It begins to look after `WATCH_AFTER_S`: a task for looking costs a quarter of what a short answer does.
    """

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None  # a coroutine of the event loop runs in one
        self.task, self.client_left = task, False
        self._receive = receive
        self._looking: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _start(self) -> None:
        self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self.task.cancel()
