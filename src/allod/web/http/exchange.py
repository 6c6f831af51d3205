"""The little of ASGI that handlers share: reading a bounded body, responding, noticing that a client left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeVar

from allod.core.errors import Invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON: Headers = ((b"content-type", b"application/json"),)
NOT_KEPT: Headers = (*JSON, (b"cache-control", b"no-store"))  # an answer may hold a key
TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
WATCH = "allod.watch"  # among the extensions of a request's scope
_Result = TypeVar("_Result")


class ClientLeft(Exception):
    """The client closed its connection; nobody is there to be told anything."""


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


class Watch:
    """Over one connection, whose protocol tells it when the client is gone: no task has to look for that.

    `listen` lets that be noticed again where reading was paused.
    """

    __slots__ = ("_has_left", "_listen", "_task")

    def __init__(self, listen: Callable[[], None]) -> None:
        self._listen = listen
        self._has_left = False
        self._task: asyncio.Task[Any] | None = None  # that works for the client now

    def client_left(self) -> None:
        """Nobody is there any more. Said again it changes nothing: what ends its work is not ended itself."""
        if self._has_left:
            return
        self._has_left = True
        if self._task is not None:
            self._task.cancel()

    async def unless_client_leaves(self, work: Awaitable[_Result]) -> _Result:
        """The result of `work`, which is cancelled as soon as the client closes its connection (then ClientLeft is
        raised). The body must have been read. Raises what `work` raises."""
        task = asyncio.current_task()
        assert task is not None  # a coroutine of the event loop runs in one
        self._task = task
        if self._has_left:
            task.cancel()
        else:
            self._listen()
        try:
            return await work
        except asyncio.CancelledError:
            if self._has_left and task.uncancel() == 0:
                raise ClientLeft from None
            raise
        finally:
            self._task = None
