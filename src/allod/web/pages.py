"""The console over HTTP: static files with the headers that keep a page to itself."""

from __future__ import annotations

from allod.core.errors import Invalid
from allod.web.http.asgi import Call
from allod.web.static import CONTENT_SECURITY_POLICY, Asset, Console

_SECURITY = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)


class Pages:
    """The page and its files."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def page(self, call: Call) -> None:
        """`GET /`."""
        await _send(call, self._console.page)

    async def file(self, call: Call, name: str) -> None:
        """`GET /console/<file>`."""
        asset = self._console.file(name)
        if asset is None:
            raise Invalid(f"there is nothing at {call.path}", code="not_found")
        await _send(call, asset)


async def _send(call: Call, asset: Asset) -> None:
    """304 when the browser has it already."""
    headers = (*_SECURITY, (b"content-type", asset.media_type.encode()), (b"etag", asset.etag.encode()))
    if call.headers.get(b"if-none-match") == asset.etag.encode():
        named = [*headers, (b"x-request-id", call.id.encode())]
        await call.send({"type": "http.response.start", "status": 304, "headers": named})
        await call.send({"type": "http.response.body"})
    else:
        await call.respond(200, asset.body, headers)
