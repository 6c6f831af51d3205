"""The same small answer from several HTTP servers, to compare what a server itself costs. Run by `http_libraries.py`.

python benchmarks/http_servers.py NAME --port N        in the peers' environment
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

BODY = b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Cardiff."}}]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def plain_asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """A plain ASGI callable that reads the body and answers."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def plain_rsgi(scope: Any, protocol: Any) -> None:
    """The same in granian's own interface."""
    await protocol()
    protocol.response_bytes(200, [(name.decode(), value.decode()) for name, value in HEADERS], BODY)


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def chat(request: Request) -> Response:
        await request.body()
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def run_uvicorn(app: Any, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", lifespan="off", access_log=False, log_level="error",
        server_header=False, date_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def run_granian(target: str, interface: str, port: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces

    Granian(target, port=port, interface=Interfaces(interface), workers=1, log_enabled=False, websockets=False).serve()


def run_aiohttp(listener: socket.socket) -> None:
    import uvloop
    from aiohttp import web

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=BODY, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await asyncio.Event().wait()

    uvloop.run(serve())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--port", type=int, required=True)
    words = parser.parse_args()
    if words.name.startswith("granian"):
        interface = words.name.removeprefix("granian ")
        run_granian(f"http_servers:plain_{interface}", interface, words.port)
        return
    listener = socket.create_server(("127.0.0.1", words.port), backlog=1024)
    if words.name == "aiohttp":
        run_aiohttp(listener)
    else:
        run_uvicorn(plain_asgi if words.name == "uvicorn" else starlette_app(), listener)


if __name__ == "__main__":
    main()
