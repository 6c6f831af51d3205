"""Where engines are: TLS that trusts one file and checks the name, nothing in the clear but on this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from tests.engine.certificates import Authority
from tests.engine.test_http import Answer, Exchange, Server, endless, say_hello, silent, streamed, talking

from allod.core.deadlines import Deadlines
from allod.core.errors import Invalid, Unavailable
from allod.core.urls import Url, read_url
from allod.engine.address import TcpAddress, trust_of
from allod.engine.http import EngineHttp, Response


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def trusts(authority: Authority) -> ssl.SSLContext:
    """The authority, and nobody else."""
    return trust_of(authority.file)


@pytest.fixture
def trusts_another(tmp_path: Path) -> ssl.SSLContext:
    return trust_of(Authority(tmp_path, "another").file)


@asynccontextmanager
async def by_tcp(
    answer: Answer,
    *,
    serves: ssl.SSLContext | None = None,
    trusts: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    key: str = "",
) -> AsyncGenerator[tuple[EngineHttp, Server], None]:
    server = Server(answer)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0, ssl=serves)
    address = TcpAddress(host, listener.sockets[0].getsockname()[1], trusts)
    async with talking(server, listener, address, key=key) as client:
        yield client, server


async def untrusted(client: EngineHttp) -> str:
    """Why the next request is not sent."""
    with pytest.raises(Unavailable) as caught:
        await client.request("GET", "/")
    assert caught.value.code == "engine_untrusted"
    return caught.value.message


async def test_over_tls_a_request_arrives_as_it_was_sent(authority: Authority, trusts: ssl.SSLContext) -> None:
    """And the connection is used again: a handshake costs more than an exchange."""
    body = bytes(range(256)) * 3000
    serves = authority.serve_as("127.0.0.1")

    async def back(exchange: Exchange) -> None:
        await exchange.chunked(exchange.body)

    async with by_tcp(back, serves=serves, trusts=trusts) as (client, server):
        for _ in range(3):
            assert await client.request("POST", "/", body) == Response(200, body)
        assert server.num_connections == 1


async def test_a_request_names_its_host_and_carries_its_key() -> None:
    """Each of them, the port too; to a socket no key goes unless there is one."""
    async with by_tcp(say_hello, key="sk-there") as (client, server):
        await client.request("GET", "/")
        head = server.heard[0].head.decode().split("\r\n")
        host, port = server.heard[0].writer.get_extra_info("sockname")
    assert f"host: {host}:{port}" in head
    assert "authorization: Bearer sk-there" in head


@pytest.mark.parametrize("status", [b"400 Bad Request", b"500 Internal Server Error"])
async def test_a_key_that_a_server_quotes_is_shown_to_nobody(status: bytes) -> None:
    """Whatever it refuses it for."""

    async def quote(exchange: Exchange) -> None:
        await exchange.whole(b'{"error": {"message": "not with sk-there"}}', status=status)

    async with by_tcp(quote, key="sk-there") as (client, _):
        assert (await client.request("POST", "/")).body == b'{"error": {"message": "not with ***"}}'


async def test_a_server_that_another_authority_vouches_for_is_none(
    authority: Authority, trusts_another: ssl.SSLContext
) -> None:
    """However well known: nobody is trusted but who is named. Nothing is sent."""
    serves = authority.serve_as("127.0.0.1")
    async with by_tcp(say_hello, serves=serves, trusts=trusts_another) as (client, server):
        assert "unable to get local issuer certificate" in await untrusted(client)
        assert server.heard == []


async def test_a_server_under_another_name_is_not_believed(authority: Authority, trusts: ssl.SSLContext) -> None:
    """A certificate of another host of the same authority's is another host."""
    serves = authority.serve_as("elsewhere.example", "127.0.0.2")
    for host, complaint in (("localhost", "Hostname mismatch"), ("127.0.0.1", "IP address mismatch")):
        async with by_tcp(say_hello, serves=serves, trusts=trusts, host=host) as (client, _):
            assert complaint in await untrusted(client)


async def test_a_certificate_that_has_run_out_is_not_believed(authority: Authority, trusts: ssl.SSLContext) -> None:
    """The error says that it is that."""
    serves = authority.serve_as("127.0.0.1", days=-1)
    async with by_tcp(say_hello, serves=serves, trusts=trusts) as (client, _):
        assert "expired" in await untrusted(client)


async def test_a_server_that_speaks_no_tls_is_not_believed(trusts: ssl.SSLContext) -> None:
    """It is sent nothing that it could read."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1 << 16))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    heard: list[bytes] = []
    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    address = TcpAddress("127.0.0.1", listener.sockets[0].getsockname()[1], trusts)
    client = EngineHttp(address, Deadlines(), key="sk-secret")
    await untrusted(client)
    await client.close()
    listener.close()
    assert len(heard) == 1
    assert b"sk-secret" not in heard[0]


async def test_a_handshake_has_a_deadline(trusts: ssl.SSLContext) -> None:
    """A server that takes the connection and says nothing takes none."""
    server = Server(silent)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    address = TcpAddress("127.0.0.1", listener.sockets[0].getsockname()[1], trusts)
    client = EngineHttp(address, Deadlines(connect_s=1))
    with pytest.raises(Unavailable) as caught:
        await client.request("GET", "/")
    assert caught.value.code == "engine_lost"
    await client.close()
    await server.ended.acquire()
    listener.close()


@pytest.mark.parametrize("answer", [endless, silent])
async def test_who_leaves_a_tls_server_is_seen_to_leave(
    authority: Authority, trusts: ssl.SSLContext, answer: Answer
) -> None:
    """Whether it says anything or not."""
    serves = authority.serve_as("127.0.0.1")
    async with by_tcp(answer, serves=serves, trusts=trusts) as (client, server):
        asking = asyncio.create_task(client.request("GET", "/"))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.ended.acquire()


async def test_hanging_up_on_a_tls_server_closes_the_connection(authority: Authority, trusts: ssl.SSLContext) -> None:
    """It cannot be closed on one side: the server learns it at once, and nothing more is heard."""
    serves = authority.serve_as("127.0.0.1")
    async with by_tcp(endless, serves=serves, trusts=trusts) as (client, server):
        exchange = await client.begin("GET", "/")
        assert await exchange.status() == 200
        exchange.hang_up(5)
        await server.ended.acquire()
        with pytest.raises(Unavailable) as caught:
            while await exchange.read():
                pass
        assert caught.value.code == "engine_lost"
        exchange.end()


async def test_a_tls_stream_that_is_left_is_not_used_again(authority: Authority, trusts: ssl.SSLContext) -> None:
    """The next request has a connection of its own."""
    serves = authority.serve_as("127.0.0.1")
    async with by_tcp(endless, serves=serves, trusts=trusts) as (client, server):
        for _ in range(2):
            async with aclosing(streamed(client)) as parts:
                assert await anext(parts) == 200
            await server.ended.acquire()
        assert server.num_connections == 2


async def test_a_machine_that_is_gone_is_noticed() -> None:
    """The kernel asks on a silent connection, and waits for its word on what was sent, for seconds and not a quarter of
    an hour."""
    server = Server(silent)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    address = TcpAddress("127.0.0.1", listener.sockets[0].getsockname()[1])
    made: list[asyncio.Transport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(cast(asyncio.Transport, transport))

    await address.connect(Protocol)
    kept = made[0].get_extra_info("socket")
    assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert 0 < kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 30
    made[0].abort()
    await server.ended.acquire()
    listener.close()


def test_nothing_is_sent_to_another_machine_in_the_clear() -> None:
    """Whatever is said of it."""
    for host in ("engine.example", "10.0.0.1", "127.0.0.2"):
        with pytest.raises(Invalid) as caught:
            TcpAddress(host, 80)
        assert caught.value.code == "plain_http"


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("https://engine.example", Url(True, "engine.example", 443, "")),
        ("https://ENGINE.example:8443/v1/", Url(True, "engine.example", 8443, "/v1")),
        ("http://127.0.0.1:8400/v1", Url(False, "127.0.0.1", 8400, "/v1")),
        ("https://[::1]:1/openai/v1", Url(True, "::1", 1, "/openai/v1")),
    ],
)
def test_a_url_is_read(url: str, read: Url) -> None:
    """Its host in small letters, its port by its kind, its path without a slash at the end."""
    assert read_url(url) == read


@pytest.mark.parametrize(
    "url",
    [
        "", "engine.example", "ftp://engine.example", "https://", "https://u:p@engine.example", "https://a..b",
        "https://engine.example:0", "https://engine.example:99999", "https://engine.example/?key=1",
        "https://engine.example/#a", "https://engine.example/a b", "https://engine.example/../v1\r\nx: y",
        "https://en\u0261ine.example", "https://-a", f"https://{'a' * 64}.example", "https:///v1",
    ],
)  # fmt: skip
def test_a_url_that_says_more_or_less_is_refused(url: str) -> None:
    """A password, a question, another protocol, a host that is none."""
    with pytest.raises(Invalid) as caught:
        read_url(url)
    assert caught.value.code == "bad_url"


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, text: str) -> None:
    """It is never as if everybody were trusted, or whoever the system trusts."""
    file = tmp_path / "ca.pem"
    file.write_text(text)
    with pytest.raises(Invalid) as caught:
        trust_of(file)
    assert caught.value.code == "no_certificates"
