"""The front door: one ASGI application, its routes in one table.

A plain ASGI callable, because routing here is little more than one dictionary: decision 0004 has the measurement.
Whatever goes wrong leaves in the dialect of the route; an error that nobody expected is logged with its request id and
leaves as a 500 without detail.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from allod.core.errors import AllodError, Denied, Invalid
from allod.core.requests import new_request_id
from allod.core.times import now_ms
from allod.govern.tenancy.keys import Caller, KeyRing
from allod.govern.tenancy.tenants import Key
from allod.web.http.bodies import check_keys
from allod.web.http.errors import ErrorDialect, headers_of, status_of
from allod.web.http.exchange import JSON, WATCH, ClientLeft, Headers, Receive, Send, Watch, read_body, respond
from allod.web.http.metrics import Metrics
from allod.web.http.router import PathRouter

_SAID_ONCE = (b"host", b"authorization", b"x-api-key", b"x-allod-tier", b"x-allod-markings", b"x-allod-purpose")
logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(slots=True)
class Call:
    """One HTTP request on its way. `headers` has lower-case names; `caller` or `administrator` is
    whoever presented a key; both are None only on open routes."""

    id: str
    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    receive: Receive
    send: Send
    start_ms: int
    caller: Caller | None = None
    administrator: Key | None = None
    methods: Collection[str] = ()  # that the path is for
    is_head: bool = False  # asked as HEAD, and answered as GET without the body
    watch: Watch | None = None  # over the client's connection
    started: bool = False  # whether the response has begun, so that an error can no longer be a status

    async def read_body(self, *, limit_bytes: int) -> bytes:
        """The request's body: JSON in which no object repeats a key, or what is no JSON at all.

        Raises what `exchange.read_body` and `bodies.check_keys` raise.
        """
        body = await read_body(self.receive, self.headers, limit_bytes=limit_bytes)
        await check_keys(body)
        return body

    async def unless_client_leaves(self, work: Awaitable[_Result]) -> _Result:
        """The result of `work`, which is cancelled once the client leaves; then ClientLeft is raised."""
        return await (work if self.watch is None else self.watch.unless_client_leaves(work))

    async def respond(self, status: int, body: bytes, headers: Headers = JSON) -> None:
        """A whole response; it carries the request's id."""
        named = (*headers, (b"x-request-id", self.id.encode()))
        await respond(self.send, status, body, named, without_body=self.is_head)


Handler = Callable[..., Awaitable[None]]  # of the call, and of what stands for each placeholder in the route's path
Needs = Literal["use", "admin", "any", "nothing"]


@dataclass(frozen=True, slots=True)
class Route:
    """`needs` a key of a tenant ("use"), an administrator's ("admin"), either of them ("any"), or none ("nothing").

    Whatever goes wrong is said in `dialect`.
    """

    handler: Handler
    dialect: ErrorDialect
    needs: Needs = "use"
    is_counted: bool = True  # by its path, if that has no placeholder; otherwise among all others


class Application:
    """Serves `routes`, by method and path as a `PathRouter` reads them.

    `hosts` are the names it answers to: a page elsewhere that points a name of its own at this machine (DNS
    rebinding) is refused. `dialect` is for what goes wrong before there is a route.
    """

    def __init__(
        self,
        *,
        routes: dict[tuple[str, str], Route],
        keys: KeyRing,
        hosts: frozenset[bytes],
        metrics: Metrics,
        dialect: ErrorDialect,
    ) -> None:
        self._routes = routes
        self._router = PathRouter(routes)
        self._paths = {path for (_, path), route in routes.items() if route.is_counted}
        self._keys = keys
        self._hosts = hosts
        self._metrics = metrics
        self._dialect = dialect

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no WebSocket here; uvicorn closes it
        start_ms = now_ms()
        call = Call(
            id=new_request_id(start_ms),
            method="GET" if scope["method"] == "HEAD" else scope["method"],
            is_head=scope["method"] == "HEAD",
            path=scope["path"],
            query=scope["query_string"],
            headers=dict(scope["headers"]),
            receive=receive,
            send=send,
            start_ms=start_ms,
            watch=scope.get("extensions", {}).get(WATCH),
        )
        status = 200
        dialect = self._dialect
        try:
            _check_headers(call.headers, scope["headers"])
            route, values = self._route(call)
            dialect = route.dialect
            if route.needs != "nothing":
                self._authenticate(call, route.needs)
            await route.handler(call, *values)
        except ClientLeft:
            status = 499  # nginx's number for it; nobody receives it, but who closed one side alone
            await _fail(call, _client_left(), dialect)
        except AllodError as reason:
            status = status_of(reason)
            await _fail(call, reason, dialect)
        except Exception:
            status = 500
            logger.exception("request %s failed", call.id)
            unexpected = AllodError("an internal error; the gateway's log has the details", code="internal")
            await _fail(call, unexpected, dialect)
        self._metrics.count_request(call.path if call.path in self._paths else "other", status, call.start_ms)

    def _authenticate(self, call: Call, needs: Needs) -> None:
        """Raises Denied unless the call has a key of the kind that it needs."""
        key = _read_key(call.headers)
        if needs != "admin":
            try:
                call.caller = self._keys.caller_of(key, call.start_ms)
                return
            except Denied as reason:
                if needs == "use" or reason.code != "wrong_kind_of_key":
                    raise
        call.administrator = self._keys.administrator_of(key, call.start_ms)

    def _route(self, call: Call) -> tuple[Route, tuple[str, ...]]:
        if call.headers.get(b"host", b"").lower() not in self._hosts:
            raise Denied("this host name is not served here", code="unknown_host")
        route, values, call.methods = self._router.find(call.method, call.path)
        if route is not None:
            return route, values
        if call.methods:
            raise method_not_allowed(call)
        raise Invalid(f"there is nothing at {call.path}", code="not_found")


async def _fail(call: Call, error: AllodError, dialect: ErrorDialect) -> None:
    if call.started:
        await call.send({"type": "http.response.body", "body": dialect.error_event(error)})
        return
    status = status_of(error)
    headers = (*JSON, *headers_of(error, call.id))
    if status == 405:
        methods = [*call.methods, "HEAD"] if "GET" in call.methods else call.methods
        headers += ((b"allow", ", ".join(methods).encode()),)
    await call.respond(status, dialect.error(error), headers)


def method_not_allowed(call: Call) -> Invalid:
    """The error for a path that has other methods, `call.methods`, than the one that was asked for."""
    method = "HEAD" if call.is_head else call.method
    return Invalid(f"{method} is not for {call.path}", code="method_not_allowed")


def _client_left() -> Invalid:
    """To whom cannot be told from a client that is gone."""
    return Invalid(
        "the connection was closed from the client's side, and the work for it ended",
        code="client_left",
        hint="keep both sides open until the answer is there",
    )


def _check_headers(headers: dict[bytes, bytes], given: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse a header of ours that is said twice: of two labels, or hosts, none may win by its place."""
    if len(headers) != len(given):
        names = [name for name, _ in given]
        for name in _SAID_ONCE:
            if names.count(name) > 1:
                raise Invalid(f"the header {name.decode()} is repeated", code="repeated_header", param=name.decode())


def _read_key(headers: dict[bytes, bytes]) -> str:
    """`Authorization: Bearer`, or Anthropic's `x-api-key`; empty where there is neither."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        key = headers.get(b"x-api-key", b"")
    return key.strip().decode("latin-1")
