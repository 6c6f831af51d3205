"""The little of ASGI that handlers share: reading a bounded body, responding, noticing that a client left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from allod.core.errors import Invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON: Headers = ((b"content-type", b"application/json"),)
TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
EVENTS: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
_Result = TypeVar("_Result")


class ClientLeft(Exception):
    """The client closed its connection; nobody is there to be told anything."""


async def read_body(receive: Receive, *, limit_bytes: int) -> bytes:
    """The request's body. Raises Invalid (413) as soon as it is longer than allowed."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and len(body) <= limit_bytes:
        return body
    parts, size = [body], len(body)
    while True:
        if size > limit_bytes:
            raise Invalid(f"the body is longer than {limit_bytes} bytes", code="body_too_large")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])


async def respond(send: Send, status: int, body: bytes, headers: Headers = JSON) -> None:
    """A whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def unless_client_leaves(receive: Receive, work: Awaitable[_Result]) -> _Result:
    """The result of `work`, which is cancelled as soon as the client closes its connection (then ClientLeft is raised).

    The body must have been read. Raises what `work` raises.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait((task,))
        raise ClientLeft
    finally:
        watch.cancel()
        task.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
