"""How an error becomes a response: one status for all dialects, and each route's own words."""

from __future__ import annotations

from typing import Any

import pytest

from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.nations.nation import Nation
from allod.govern.tenancy.keys import KeyRing
from allod.web.http.asgi import Application, Call, Route
from allod.web.http.errors import ErrorDialect, headers_of
from allod.web.http.metrics import Metrics
from allod.web.openai.write import ERRORS

NATION = Nation(code="xx", name="Nowhere", source="invented", tiers=(), markings={}, places=frozenset(), purposes={})
LOUD = ErrorDialect(lambda error: error.code.upper().encode(), lambda error: b"! " + error.code.upper().encode())


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Invalid("x"), {}),
        (Denied("x", code="invalid_api_key"), {b"www-authenticate": b"Bearer"}),
        (Denied("x", code="policy_denied", is_recorded=True), {b"x-allod-receipt": b"r1"}),
        (Unavailable("x", retry_after_s=0.2), {b"retry-after": b"1"}),
        (Unavailable("x", retry_after_s=2.1, is_recorded=True), {b"retry-after": b"3", b"x-allod-receipt": b"r1"}),
    ],
)
def test_an_errors_headers_say_what_to_do(error: AllodError, headers: dict[bytes, bytes]) -> None:
    """The error itself knows whether a receipt tells of it: no list of codes does."""
    assert dict(headers_of(error, "r1")) == headers


async def test_an_error_leaves_in_the_dialect_of_its_route() -> None:
    """Before and after the response has begun; where there is no route, in the application's."""

    async def refuse(call: Call) -> None:
        raise Denied("no", code="too_loud")

    async def break_off(call: Call) -> None:
        call.started = True
        raise Unavailable("gone", code="engine_lost")

    door = Application(
        routes={
            ("GET", "/loud"): Route(refuse, LOUD, needs="nothing"),
            ("GET", "/lost"): Route(break_off, LOUD, needs="nothing"),
        },
        keys=KeyRing(NATION),
        hosts=frozenset({b"here"}),
        metrics=Metrics(requests_inside=lambda: 0, num_unreadable=lambda: 0),
        dialect=ERRORS,
    )
    bodies = {path: await said_by(door, path) for path in ("/loud", "/lost", "/nowhere")}
    assert (bodies["/loud"], bodies["/lost"]) == (b"TOO_LOUD", b"! ENGINE_LOST")
    assert b'"code":"not_found"' in bodies["/nowhere"]


async def said_by(door: Application, path: str) -> bytes:
    """The body that comes back."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"host", b"here")]}
    await door(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)
