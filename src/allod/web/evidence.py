"""Evidence over HTTP: receipts, the trust file, the log's tiles, and what the seal looks like right now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import msgspec

from allod.app.gateway.realm import Realm
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.web.admin.query import Query
from allod.web.http.asgi import Call
from allod.web.http.errors import retry_after
from allod.web.http.exchange import JSON, TEXT, Headers
from allod.web.http.metrics import Metrics

BINARY: Headers = ((b"content-type", b"application/octet-stream"),)
MAX_WAITING = 256
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Lane:
    """Threads for reading files beside the event loop: `width` at a time, and a bounded number that wait.

    The threads are everybody's, the engine's included: who asks for evidence must not have them all.
    """

    def __init__(self, width: int) -> None:
        self._turns = asyncio.Semaphore(width)
        self._num_inside = 0
        self._most_inside = width + MAX_WAITING

    async def run(
        self, read: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """What `read` returns. Raises Unavailable (`overloaded`) when too many wait."""
        if self._num_inside >= self._most_inside:
            raise Unavailable("too many ask for evidence", code="overloaded", retry_after_s=1)
        self._num_inside += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(read, *arguments, **named)
        finally:
            self._num_inside -= 1


class Evidence:
    """Handlers over what a realm reads from files, two at a time: one for who has a key, one for the log."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._keyed, self._open = Lane(1), Lane(1)

    async def receipt(self, call: Call, receipt_id: str) -> None:
        """`GET /v1/receipts/{id}`: the bundle, with the salt if the receipt is the asking tenant's."""
        tenant_id = call.caller.tenant.id if call.caller is not None else None
        await call.respond(200, await self._keyed.run(self._realm.bundle, receipt_id, tenant_id), JSON)

    async def trust(self, call: Call) -> None:
        """`GET /v1/trust`: whose signatures to believe, as `allod verify --trust` reads it."""
        await call.respond(200, self._realm.trust.encode(), TEXT)

    async def log(self, call: Call, name: str) -> None:
        """`GET /log/<origin>/checkpoint` and `/tile/<L>/<N>`: hashes only, open to every monitor. Entries are not."""
        is_tile = name.startswith("tile/") and not name.startswith("tile/entries")
        if name != "checkpoint" and not is_tile:
            raise Invalid("there is no such part of a log here", code="not_found")
        data = await self._open.run(self._realm.log_file, name)
        await call.respond(200, data, TEXT if name == "checkpoint" else BINARY)

    async def seal(self, call: Call) -> None:
        """`GET /v1/seal`: an engine's perimeter as the kernel shows it at this moment; `?model=` says whose, and is the
        first model that the key may use where it does not."""
        model, gateway = Query(call.query, names=("model",)).text("model"), self._realm.gateway
        if call.caller is not None:  # a key is told of no model that it may not use
            model = next(iter(gateway.models_for(call.caller)), "") if model is None else model
            gateway.find_candidate(call.caller, model)
        await call.respond(200, msgspec.json.encode(await self._keyed.run(self._realm.seal, model)))


class HealthPages:
    """`/healthz`, `/readyz` and `/metrics`: no key, no content."""

    def __init__(self, realm: Realm, metrics: Metrics) -> None:
        self._realm = realm
        self._metrics = metrics

    async def healthz(self, call: Call) -> None:
        """Whether the process runs."""
        await call.respond(200, b'{"status":"ok"}')

    async def readyz(self, call: Call) -> None:
        """Whether it can answer: 503 while it cannot, with the reason that whoever asks for an answer is told."""
        try:
            self._realm.gateway.check()
        except AllodError as error:
            body = msgspec.json.encode({"status": "unavailable", "reason": error.message, "code": error.code})
            await call.respond(503, body, JSON + retry_after(error))
        else:
            await call.respond(200, b'{"status":"ready"}')

    async def metrics(self, call: Call) -> None:
        """Prometheus' exposition."""
        await call.respond(200, self._metrics.text(), ((b"content-type", b"text/plain; version=0.0.4"),))
