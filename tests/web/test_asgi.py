"""The front door over raw HTTP: who is let in, where paths lead, and what no request can do to the next one."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import Gateway

from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.realm import ServedEngine, run_realm
from allod.app.home import load_settings
from allod.engine.adapters.echo import EchoEngine
from allod.web.admin.handlers import PREFIX
from allod.web.http.asgi import Needs
from allod.web.routes import application

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Why?"}]}).encode()
LIMIT_BYTES = 4 << 20
KEYED = [
    f"POST {CHAT}",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/echo",
    "GET /v1/receipts/0",
    "GET /v1/trust",
    "GET /v1/seal",
]
NOWHERE = [
    "/v1/completion",
    "/v2/models",
    "/v1/chat/completions/",
    "//v1/models",
    "/console",
    "/console/../web/server.py",
    "/console/%2e%2e/static.py",
    "/favicon.ico",
    "/.env",
    "/%00",
    "/log/other/receipts/x/checkpoint",
]


class Reply(NamedTuple):
    """A response, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The dialect's error, whose shape is checked on the way."""
        document = json.loads(self.body)
        assert document.keys() == {"error"}
        error: dict[str, Any] = document["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["code"], str)
        assert self.headers["content-type"] == "application/json"
        assert re.fullmatch(r"[0-9a-f]{32}", self.headers["x-request-id"])
        return error


class Wire:
    """One connection to a gateway, for requests and for bytes that are none."""

    def __init__(self, gateway: Gateway) -> None:
        self.host = gateway.url.removeprefix("http://")
        self.key = gateway.key
        name, port = self.host.split(":")
        self.socket = socket.create_connection((name, int(port)), timeout=20)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *reason: object) -> None:
        self.file.close()
        self.socket.close()

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """A request's head with the right host and key."""
        given = [f"{method} {path} HTTP/1.1", f"host: {self.host}", f"authorization: Bearer {self.key}", *lines]
        return "\r\n".join([*given, "", ""]).encode("latin-1")

    def post(self, body: bytes = BODY, *lines: str) -> bytes:
        return self.head("POST", CHAT, f"content-length: {len(body)}", *lines) + body

    def read(self, *, method: str = "GET") -> Reply:
        """The next response, and not a byte of the one after it."""
        line = self.file.readline()
        if not line:
            raise ConnectionError("closed without a response")
        status = int(line.split()[1])
        headers = {name.lower(): value for name, value in http.client.parse_headers(self.file).items()}
        has_body = method != "HEAD" and status != 304
        return Reply(status, headers, self.file.read(int(headers["content-length"])) if has_body else b"")

    def ask(self, data: bytes, *, method: str = "GET") -> Reply:
        self.socket.sendall(data)
        return self.read(method=method)


@pytest.fixture
def wire(gateway: Gateway) -> Iterator[Wire]:
    with Wire(gateway) as made:
        yield made


# Who is let in


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["authorization: Bearer"],
        ["authorization: Bearer allod-wrong"],
        ["authorization: Basic {key}"],
        ["authorization: {key}"],
        ["authorization: Bearer {key}x"],
        ["x-api-key: allod-wrong"],
        ["cookie: key={key}"],
        ["authorization: Bearer \xff\xfe"],
    ],
    ids=str,
)
@pytest.mark.parametrize("request_line", KEYED)
def test_no_key_no_answer(wire: Wire, request_line: str, lines: list[str]) -> None:
    """401 on every path of the interface, with the way to authenticate; and no key is repeated."""
    given = [line.format(key=wire.key) for line in lines]
    data = "\r\n".join([f"{request_line} HTTP/1.1", f"host: {wire.host}", "content-length: 0", *given, "", ""])
    reply = wire.ask(data.encode("latin-1"))
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert reply.error["type"] == "authentication_error"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert wire.key.encode() not in reply.body


# Which key opens what


NEEDS: dict[str, Needs] = {
    f"POST {CHAT}": "use",
    "POST /v1/embeddings": "use",
    "GET /v1/models": "use",
    "GET /v1/models/": "use",
    "GET /v1/receipts/": "any",
    "GET /v1/trust": "any",
    "GET /v1/seal": "any",
    "GET /v1/organization/": "admin",
    "POST /v1/organization/": "admin",
    "DELETE /v1/organization/": "admin",
    "GET /v1/governance/shares": "admin",
    "GET /v1/governance/policy": "admin",
    "POST /v1/governance/explain": "admin",
    "POST /v1/governance/news": "admin",
    "GET /v1/governance/replicas": "admin",
    "POST /v1/governance/replicas": "admin",
    "GET /v1/governance/receipts": "admin",
    "GET /": "nothing",
    "GET /console/": "nothing",
    "GET /healthz": "nothing",
    "GET /readyz": "nothing",
    "GET /metrics": "nothing",
    "GET /log/": "nothing",
}


def admin_key(gateway: Gateway) -> str:
    return (gateway.home / "admin.key").read_text().strip()


def presenting(wire: Wire, request_line: str, *lines: str) -> Reply:
    """The reply to a request without a body, with these header lines and no other key."""
    head = [f"{request_line} HTTP/1.1", f"host: {wire.host}", "content-length: 0", *lines, "", ""]
    return wire.ask("\r\n".join(head).encode("latin-1"))


async def test_every_route_says_whose_key_it_needs(tmp_path: Path) -> None:
    """The whole table: a route that is added without a thought for its key is noticed here."""
    settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
    async with run_realm(settings, ServedEngine(EchoEngine(), (ECHO_MODEL,))) as realm:
        made = await asyncio.to_thread(application, realm)
        found = {
            f"{method} {path.replace(settings.origin + '/', '').replace('{*}', '')}": route.needs
            for (method, path), route in made._routes.items()
        }
    administration = {line: found.pop(line) for line in list(found) if f" {PREFIX}" in line and line not in NEEDS}
    assert found == NEEDS
    assert len(administration) >= 40
    assert set(administration.values()) == {"admin"}


@pytest.mark.parametrize("request_line", [line for line, needs in NEEDS.items() if needs != "nothing"])
def test_without_a_key_nothing_opens(wire: Wire, request_line: str) -> None:
    """401, and the way to authenticate; also for a key that nobody was given, of either kind."""
    for lines in (
        [],
        [f"authorization: Bearer allod-{'A' * 43}"],
        [f"authorization: Bearer allod-admin-{'A' * 43}"],
        [f"authorization: Basic {wire.key}"],
    ):
        reply = presenting(wire, request_line, *lines)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("request_line", [line for line, needs in NEEDS.items() if needs == "admin"])
@pytest.mark.parametrize("header", ["authorization: Bearer {}", "x-api-key: {}"])
def test_a_key_for_use_administers_nothing(wire: Wire, request_line: str, header: str) -> None:
    """403, which says that it is the wrong kind of key, not that it is none."""
    reply = presenting(wire, request_line, header.format(wire.key))
    assert (reply.status, reply.error["code"]) == (403, "wrong_kind_of_key")
    assert "www-authenticate" not in reply.headers
    assert wire.key.encode() not in reply.body


@pytest.mark.parametrize("request_line", [line for line, needs in NEEDS.items() if needs == "use"])
@pytest.mark.parametrize("header", ["authorization: Bearer {}", "x-api-key: {}"])
def test_an_admin_key_asks_no_model(wire: Wire, gateway: Gateway, request_line: str, header: str) -> None:
    """Whoever governs uses the realm with a key of a tenant's, so that what is used is somebody's."""
    reply = presenting(wire, request_line, header.format(admin_key(gateway)))
    assert (reply.status, reply.error["code"]) == (403, "wrong_kind_of_key")
    assert admin_key(gateway).encode() not in reply.body


@pytest.mark.parametrize("request_line", [line for line, needs in NEEDS.items() if needs in ("use", "any")])
def test_a_key_for_use_opens_what_is_for_use(wire: Wire, request_line: str) -> None:
    """Whatever the answer is, it is no matter of keys."""
    reply = presenting(wire, request_line, f"authorization: Bearer {wire.key}")
    assert reply.status in (200, 400, 404)


@pytest.mark.parametrize("request_line", [line for line, needs in NEEDS.items() if needs in ("admin", "any")])
def test_an_admin_key_opens_what_is_for_administration(wire: Wire, gateway: Gateway, request_line: str) -> None:
    """And what is for either."""
    reply = presenting(wire, request_line, f"authorization: Bearer {admin_key(gateway)}")
    assert reply.status in (200, 400, 404)


@pytest.mark.parametrize(
    "path", ["/v1/organization/projects", "/v1/organization/admin_api_keys", "/v1/organization/usage/completions"]
)
def test_the_organization_is_for_administrators(wire: Wire, gateway: Gateway, path: str) -> None:
    """Without a key 401, with one for use 403, with an admin key an answer."""
    assert presenting(wire, f"GET {path}").status == 401
    reply = presenting(wire, f"GET {path}", f"authorization: Bearer {wire.key}")
    assert (reply.status, reply.error["code"]) == (403, "wrong_kind_of_key")
    reply = presenting(wire, f"GET {path}", f"authorization: Bearer {admin_key(gateway)}")
    assert reply.status == (400 if path.endswith("completions") else 200)  # usage wants to know from when


def test_only_administrators_are_told_what_administration_has(wire: Wire, gateway: Gateway) -> None:
    """Which paths there are, and for which methods, is no matter of anybody else's."""
    for path, status in (("costs", 405), ("projects/local/archive/", 404), ("invites", 404)):
        line = f"POST /v1/organization/{path}"
        assert presenting(wire, line).status == 401
        assert presenting(wire, line, f"authorization: Bearer {wire.key}").status == 403
        reply = presenting(wire, line, f"authorization: Bearer {admin_key(gateway)}")
        assert (reply.status, reply.headers.get("allow")) == (status, "GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize("path", ["/v1/organizations/projects", "/v1/organization", "/v1/governance/", "/v1/receipts"])
def test_what_is_near_a_route_is_no_route(wire: Wire, gateway: Gateway, path: str) -> None:
    """404 whoever asks: no key opens a path that is nearly one."""
    for key in (wire.key, admin_key(gateway)):
        assert presenting(wire, f"GET {path}", f"authorization: Bearer {key}").status == 404


def test_authorization_counts_before_the_other_header(wire: Wire, gateway: Gateway) -> None:
    """One key is looked at: a wrong one beside a right one is wrong, and two kinds are not added up."""
    right, wrong, admin = wire.key, f"allod-{'A' * 43}", admin_key(gateway)
    for bearer, other, status in ((wrong, right, 401), (right, wrong, 200), (admin, right, 403), (right, admin, 200)):
        reply = presenting(wire, "GET /v1/models", f"authorization: Bearer {bearer}", f"x-api-key: {other}")
        assert reply.status == status


@pytest.mark.parametrize("header", ["authorization: Bearer {}", "x-api-key: {}"])
def test_two_keys_are_none(wire: Wire, gateway: Gateway, header: str) -> None:
    """Said twice, neither counts, whatever they are."""
    for first, second in ((wire.key, admin_key(gateway)), (admin_key(gateway), wire.key), (wire.key, wire.key)):
        reply = presenting(wire, "GET /v1/models", header.format(first), header.format(second))
        assert (reply.status, reply.error["code"]) == (400, "repeated_header")


def test_a_receipt_is_opened_for_its_tenant_and_closed_for_the_administrator(wire: Wire, gateway: Gateway) -> None:
    """Both can verify it; what opens it is the tenant's."""
    receipt = wire.ask(wire.post()).headers["x-allod-receipt"]
    own = presenting(wire, f"GET /v1/receipts/{receipt}", f"authorization: Bearer {wire.key}")
    closed = presenting(wire, f"GET /v1/receipts/{receipt}", f"authorization: Bearer {admin_key(gateway)}")
    assert (own.status, closed.status) == (200, 200)
    assert "opening" in json.loads(own.body)
    assert "opening" not in json.loads(closed.body)
    assert json.loads(own.body)["statement"] == json.loads(closed.body)["statement"]


@pytest.mark.parametrize("line", ["authorization: Bearer {}", "authorization: bearer {}", "x-api-key: {}"])
def test_either_header_carries_the_key(wire: Wire, line: str) -> None:
    """OpenAI's and Anthropic's."""
    data = f"GET /v1/models HTTP/1.1\r\nhost: {wire.host}\r\n{line.format(wire.key)}\r\n\r\n"
    assert wire.ask(data.encode()).status == 200


def test_a_key_in_the_address_is_none(wire: Wire) -> None:
    """Addresses end in logs and histories."""
    data = f"GET /v1/models?key={wire.key}&api_key={wire.key} HTTP/1.1\r\nhost: {wire.host}\r\n\r\n"
    assert wire.ask(data.encode()).status == 401


@pytest.mark.parametrize(
    ("path", "body"), [("/healthz", b'{"status":"ok"}'), ("/readyz", b'{"status":"ready"}'), ("/metrics", b"allod_")]
)
def test_health_needs_no_key(wire: Wire, path: str, body: bytes) -> None:
    """Whoever watches the process need not be able to ask the model."""
    reply = wire.ask(f"GET {path} HTTP/1.1\r\nhost: {wire.host}\r\n\r\n".encode())
    assert reply.status == 200
    assert body in reply.body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1:{port}.x"]
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v1/models"])
def test_another_host_name_is_not_served(wire: Wire, path: str, host: str) -> None:
    """A page elsewhere that points its own name at this machine gets nothing, open path or not (DNS rebinding)."""
    named = host.format(port=wire.host.split(":")[1])
    data = f"GET {path} HTTP/1.1\r\nhost: {named}\r\nauthorization: Bearer {wire.key}\r\n\r\n"
    reply = wire.ask(data.encode())
    assert (reply.status, reply.error["code"]) == (403, "unknown_host")


@pytest.mark.parametrize("turned", [False, True])
def test_two_hosts_are_none(wire: Wire, turned: bool) -> None:
    """Neither the first nor the last of them counts."""
    hosts = [f"host: {wire.host}", "host: evil.example"]
    data = "\r\n".join(["GET /healthz HTTP/1.1", *(reversed(hosts) if turned else hosts), "", ""])
    reply = wire.ask(data.encode())
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "repeated_header", "host")


@pytest.mark.parametrize("tiers", [("TOP SECRET", "OFFICIAL"), ("OFFICIAL", "TOP SECRET")])
def test_a_tier_that_is_said_twice_is_never_lowered(wire: Wire, tiers: tuple[str, str]) -> None:
    """Refused, in either order: of two labels none may win by its place."""
    reply = wire.ask(wire.post(BODY, *(f"x-allod-tier: {tier}" for tier in tiers)))
    assert (reply.status, reply.error["param"]) == (400, "x-allod-tier")


def test_other_headers_may_be_repeated(wire: Wire) -> None:
    """As proxies do with their own."""
    assert wire.ask(wire.post(BODY, "via: 1.1 a", "via: 1.1 b")).status == 200


def test_an_absolute_address_does_not_stand_for_the_host(wire: Wire) -> None:
    """The host's own line is what counts, and it must be ours, whatever the address before it names."""
    data = f"GET http://{wire.host}/healthz HTTP/1.1\r\nhost: evil.example\r\n\r\n"
    assert wire.ask(data.encode()).status == 403


def test_a_request_without_a_host_is_not_served(wire: Wire) -> None:
    """HTTP/1.0 needs none; we do."""
    assert wire.ask(b"GET /healthz HTTP/1.0\r\n\r\n").status == 403


def test_the_loopback_names_are_served(wire: Wire) -> None:
    """With the port that is listened on."""
    port = wire.host.split(":")[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LocalHost:{port}"):
        assert wire.ask(f"GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()).status == 200


# Where paths lead


@pytest.mark.parametrize("path", NOWHERE)
def test_an_unknown_path_is_not_found(wire: Wire, path: str) -> None:
    """404 in the dialect's shape."""
    reply = wire.ask(wire.head("GET", path))
    assert (reply.status, reply.error["code"]) == (404, "not_found")


def test_a_query_is_no_part_of_a_path(wire: Wire) -> None:
    """Clients add versions and the like."""
    assert wire.ask(wire.head("GET", "/v1/models?api-version=1&x=/../y")).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("PUT", CHAT),
        ("GET", "/v1/embeddings"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models"),
        ("POST", "/"),
        ("OPTIONS", CHAT),
        ("TRACE", "/"),
        ("PATCH", "/healthz"),
        ("DELETE", "/v1/models/echo"),
    ],
)
def test_a_wrong_method_is_not_allowed(wire: Wire, method: str, path: str) -> None:
    """405 with the method that is, and the path is not said to be missing."""
    reply = wire.ask(wire.head(method, path, "content-length: 0"))
    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == ("POST" if path in (CHAT, "/v1/embeddings") else "GET, HEAD")


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
def test_no_other_site_is_ever_permitted(wire: Wire, method: str) -> None:
    """A browser on another site's behalf is told of no permission, whatever it asks for."""
    lines = ["origin: https://evil.example", "access-control-request-method: POST", "content-length: 0"]
    for path in (CHAT, "/v1/models", "/", "/healthz"):
        reply = wire.ask(wire.head(method, path, *lines))
        assert not [name for name in reply.headers if name.startswith("access-control-")]


def test_head_has_no_body_and_spoils_nothing(wire: Wire) -> None:
    """Whatever its status, the connection is in step for the next request."""
    for path in ("/", "/v1/models", "/nowhere"):
        assert wire.ask(wire.head("HEAD", path), method="HEAD").body == b""
        assert wire.ask(wire.head("GET", "/healthz")).status == 200


def test_the_console_keeps_to_itself(wire: Wire) -> None:
    """The page may load its own files and nothing else, cannot be framed, and says nothing of where it was."""
    for path in ("/", "/console/app.js", "/console/console.css"):
        reply = wire.ask(f"GET {path} HTTP/1.1\r\nhost: {wire.host}\r\n\r\n".encode())
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-opener-policy"] == "same-origin"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_that_is_known_is_not_sent_again(wire: Wire) -> None:
    """304 without a body for the same tag, 200 for another."""
    tag = wire.ask(wire.head("GET", "/")).headers["etag"]
    again = wire.ask(wire.head("GET", "/", f"if-none-match: {tag}"))
    assert (again.status, again.body) == (304, b"")
    assert wire.ask(wire.head("GET", "/", 'if-none-match: "other"')).status == 200


# What a body may be


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (BODY[:-1] + b',"x":1}', "invalid", "x"),
        (BODY[:-1] + b',"seed":"1"}', "invalid", "seed"),
        (BODY[:-1] + b',"n":2}', "unsupported_parameter", "n"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_body_is_refused_and_nothing_is_recorded(wire: Wire, body: bytes, code: str, param: str | None) -> None:
    """400 with OpenAI's shape; no receipt, for nothing was decided."""
    reply = wire.ask(wire.post(body))
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert (reply.error["code"], reply.error["param"]) == (code, param)
    assert "x-allod-receipt" not in reply.headers


def test_the_largest_body_is_read(wire: Wire) -> None:
    """Exactly at the limit: JSON may have space behind it."""
    assert wire.ask(wire.post(BODY.ljust(LIMIT_BYTES))).status == 200


def test_a_body_over_the_limit_is_refused(wire: Wire) -> None:
    """413 for one byte more."""
    reply = wire.ask(wire.post(BODY.ljust(LIMIT_BYTES + 1)))
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("announced", [LIMIT_BYTES + 1, 10**18])
def test_a_body_that_is_announced_over_the_limit_is_not_waited_for(gateway: Gateway, announced: int) -> None:
    """413 from the head alone."""
    with Wire(gateway) as wire:
        wire.socket.sendall(wire.head("POST", CHAT, f"content-length: {announced}"))
        assert wire.read().status == 413


def test_a_body_without_end_is_cut_off(gateway: Gateway) -> None:
    """Without a length, in chunks: the refusal comes while the client is still sending."""
    with Wire(gateway) as wire:
        wire.socket.sendall(wire.head("POST", CHAT, "transfer-encoding: chunked"))
        chunk = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
        with suppress(ConnectionError):
            for _ in range(LIMIT_BYTES // (1 << 16) + 8):
                wire.socket.sendall(chunk)
        assert wire.read().status == 413


def test_a_chunked_body_is_the_same_body(wire: Wire) -> None:
    """In pieces of one byte."""
    chunks = b"".join(b"1\r\n%b\r\n" % BODY[at : at + 1] for at in range(len(BODY)))
    reply = wire.ask(wire.head("POST", CHAT, "transfer-encoding: chunked") + chunks + b"0\r\n\r\n")
    assert reply.status == 200


def test_a_client_that_waits_for_leave_to_send_gets_it(wire: Wire) -> None:
    """`Expect: 100-continue`, as curl sends for large bodies."""
    wire.socket.sendall(wire.head("POST", CHAT, f"content-length: {len(BODY)}", "expect: 100-continue"))
    assert wire.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.ask(BODY).status == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"enum": []},
        {"required": ["a"], "properties": {"a": True}},
        {"required": ["a"], "properties": {"a": {"oneOf": [{"type": "string"}]}}},
        {"$ref": "http://127.0.0.1:1/schema.json"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ],
    ids=str,
)
def test_no_schema_is_an_internal_error(wire: Wire, schema: dict[str, Any]) -> None:
    """Answered, refused as the client's mistake, or not kept by this engine; never a 500."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    reply = wire.ask(wire.post(json.dumps({**json.loads(BODY), "response_format": wanted}).encode()))
    assert reply.status in (200, 400, 503)
    assert reply.status == 200 or reply.error["code"] in ("invalid_schema", "schema_not_kept")


# What no request can do to the next


@pytest.mark.parametrize(
    "path", ["/", "/console/app.js", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/echo", "/v1/trust"]
)
def test_every_answer_has_an_id(wire: Wire, path: str) -> None:
    """Errors and pages too, so that whoever complains can name the request."""
    first, second = (wire.ask(wire.head("GET", path)).headers["x-request-id"] for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert first != second


def test_a_connection_serves_many_requests(wire: Wire) -> None:
    """Right and wrong ones in turn, each with an id of its own."""
    ids = set()
    for _ in range(5):
        for data, status in ((wire.post(), 200), (wire.post(b"{"), 400), (wire.head("GET", "/nowhere"), 404)):
            reply = wire.ask(data)
            assert reply.status == status
            ids.add(reply.headers["x-request-id"])
    assert len(ids) == 15


def test_requests_sent_ahead_are_answered_in_order(wire: Wire) -> None:
    """Pipelining: four at once, an error among them."""
    texts = ["one", "two", "three"]
    asked = [wire.post(BODY.replace(b"Why?", text.encode())) for text in texts]
    wire.socket.sendall(b"".join([*asked[:2], wire.post(b"{"), asked[2]]))
    replies = [wire.read() for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 400, 200]
    answers = [json.loads(reply.body) for reply in replies if reply.status == 200]
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == texts


def test_an_early_refusal_does_not_take_the_body_for_a_request(gateway: Gateway) -> None:
    """A body that nobody read, and that looks like a request, is still a body."""
    with Wire(gateway) as wire:
        hidden = wire.head("GET", "/v1/models")
        data = f"POST {CHAT} HTTP/1.1\r\nhost: {wire.host}\r\ncontent-length: {len(hidden)}\r\n\r\n".encode() + hidden
        assert wire.ask(data).status == 401
        with suppress(ConnectionError):
            assert wire.ask(wire.head("GET", "/healthz")).body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    "lines",
    [
        ["content-length: 5", "content-length: 6"],
        ["content-length: 5", "transfer-encoding: chunked"],
        ["content-length: -1"],
        ["content-length: many"],
        ["transfer-encoding: chunked, identity"],
        ["content-length : 0"],
        ["x: \x00"],
    ],
    ids=str,
)
def test_an_ambiguous_request_is_refused_and_its_connection_closed(gateway: Gateway, lines: list[str]) -> None:
    """Where two readers could see two requests, there is none: 400, and nothing behind it is read."""
    with Wire(gateway) as wire:
        wire.socket.sendall(wire.head("POST", CHAT, *lines) + b"0\r\n\r\n" + wire.head("GET", "/healthz"))
        received = b""
        with suppress(ConnectionError):
            while data := wire.socket.recv(4096):
                received += data
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x00" * 100, b"HELO there\r\n\r\n", b"GET\r\n\r\n"]
)
def test_what_is_no_http_is_closed(gateway: Gateway, data: bytes) -> None:
    """TLS, noise, another protocol: at most one 400, and the gateway answers others as before."""
    with Wire(gateway) as wire, suppress(ConnectionError):
        wire.socket.sendall(data)
        assert wire.socket.recv(4096)[:12] in (b"", b"HTTP/1.1 400")
    with Wire(gateway) as other:
        assert other.ask(other.head("GET", "/healthz")).status == 200


def test_a_client_that_leaves_in_its_own_body_harms_nobody(gateway: Gateway) -> None:
    """Half a body and then nothing."""
    for _ in range(5):
        with Wire(gateway) as wire:
            wire.socket.sendall(wire.post()[:-5])
    with Wire(gateway) as other:
        assert other.ask(other.post()).status == 200


def test_an_upgrade_is_not_taken(wire: Wire) -> None:
    """There is no WebSocket here: the request is answered as HTTP."""
    lines = ["connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: AAAA"]
    assert wire.ask(wire.head("GET", "/v1/models", *lines)).status == 200


# Evidence and figures


@pytest.mark.parametrize("receipt_id", ["0" * 32, "", "..", "%2e%2e%2f%2e%2e%2flocal.key", "x" * 5000])
def test_a_receipt_that_is_not_there_is_told_so(wire: Wire, receipt_id: str) -> None:
    """With a code of its own, and never a file of the realm."""
    reply = wire.ask(wire.head("GET", f"/v1/receipts/{receipt_id}"))
    assert (reply.status, reply.error["code"]) == (404, "no_such_receipt")


def test_hashes_of_the_log_are_open_and_entries_are_not(wire: Wire, gateway: Gateway) -> None:
    """Monitors read the head and the tiles without a key; entry bundles hold statements, and are not served."""
    wire.ask(wire.post())
    origin = gateway.allod("log", "head").stdout.splitlines()[0]
    base = f"/log/{origin}"
    head = wire.ask(f"GET {base}/checkpoint HTTP/1.1\r\nhost: {wire.host}\r\n\r\n".encode())
    assert (head.status, head.body.splitlines()[0].decode()) == (200, origin)
    size = int(head.body.splitlines()[1])
    tile = wire.ask(f"GET {base}/tile/0/000.p/{size} HTTP/1.1\r\nhost: {wire.host}\r\n\r\n".encode())
    assert size >= 256 or (tile.status, len(tile.body)) == (200, 32 * size)
    missing = wire.ask(wire.head("GET", f"{base}/tile/0/999"))
    assert (missing.status, missing.error["code"]) == (404, "no_such_tile")
    for name in ("tile/entries/000", f"tile/entries/000.p/{size}", "segment", "../../local.key", "tile/../checkpoint"):
        assert wire.ask(wire.head("GET", f"{base}/{name}")).status in (400, 404)


def test_metrics_hold_no_word_of_a_client(wire: Wire) -> None:
    """The exposition parses; paths in it are ours, whatever paths, methods, models and headers were sent."""
    secret = "xylophone"
    wire.ask(wire.head("GET", f"/v1/models/{secret}"))
    wire.ask(wire.head("GET", f"/{secret}", f"x-{secret}: {secret}", f"user-agent: {secret}"))
    wire.ask(wire.post(BODY.replace(b"echo", secret.encode())))
    wire.ask(wire.post(BODY.replace(b"Why?", secret.encode())))
    text = wire.ask(wire.head("GET", "/metrics")).body.decode()
    assert secret not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("allod_") for name in families)
    paths = {sample.labels["path"] for sample in families["allod_requests"].samples if "path" in sample.labels}
    assert paths <= {"other", *(line.split()[1] for line in NEEDS)}


def figures(wire: Wire) -> dict[tuple[str, str], float]:
    text = wire.ask(wire.head("GET", "/metrics")).body.decode()
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(wire: Wire) -> None:
    """One answer more, its tokens, one mistake more, and nobody inside."""
    before = figures(wire)
    assert wire.ask(wire.post()).status == 200
    assert wire.ask(wire.post(b"{")).status == 400
    after = figures(wire)

    def grown(name: str, labels: str) -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert grown("allod_requests_total", f"{CHAT}/200") == 1
    assert grown("allod_requests_total", f"{CHAT}/400") == 1
    assert grown("allod_tokens_total", "completion") == 1
    assert after["allod_requests_inside", ""] == 0


def test_the_seal_is_described_as_it_is(wire: Wire) -> None:
    """The echo engine has none, and that is what is said."""
    described = json.loads(wire.ask(wire.head("GET", "/v1/seal")).body)
    assert described["kind"] == "none"
    assert described["engine"]["name"] == "echo"


def test_the_trust_file_is_the_realms(wire: Wire, gateway: Gateway) -> None:
    """What a client fetches is what the operator can hand out."""
    assert wire.ask(wire.head("GET", "/v1/trust")).body == (gateway.home / "trust.policy").read_bytes()


def test_a_page_that_is_known_has_an_id_too(wire: Wire) -> None:
    """304 is an answer."""
    tag = wire.ask(wire.head("GET", "/")).headers["etag"]
    assert "x-request-id" in wire.ask(wire.head("GET", "/", f"if-none-match: {tag}")).headers


def test_who_closes_one_side_is_told_what_needs_both(gateway: Gateway) -> None:
    """That looks like leaving, which ends an engine's work; what takes none is answered."""
    for path, status in (("/v1/models", 200), ("/v1/nothing", 404)):
        with Wire(gateway) as wire:
            wire.socket.sendall(wire.head("GET", path))
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.read().status == status
            assert wire.file.read() == b""
    for body in (BODY, BODY.replace(b"{", b'{"stream": true, ', 1)):
        with Wire(gateway) as wire:
            wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # the end goes out with the last byte
            wire.socket.sendall(wire.post(body))
            wire.socket.shutdown(socket.SHUT_WR)
            reply = wire.read()
            assert (reply.status, reply.error["code"]) == (400, "client_left")
            assert wire.file.read() == b""
