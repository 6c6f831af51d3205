"""The same exchange by several HTTP clients over a Unix socket: CPU for each and exchanges a second.

    python benchmarks/http_clients.py NAME --socket PATH --together 16 --seconds 2     in the peers' environment

Run by `http_libraries.py`. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop

PATH = "/v1/chat/completions"
BODY = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "Where is Cardiff?"}]}).encode()
HEADERS = {"content-type": "application/json"}
Exchange = Callable[[], Awaitable[bytes]]


@asynccontextmanager
async def allod_client(socket_path: str) -> AsyncIterator[Exchange]:
    from allod.core.deadlines import Deadlines
    from allod.engine.address import UnixAddress
    from allod.engine.http import EngineHttp

    client = EngineHttp(UnixAddress(socket_path), Deadlines())

    async def exchange() -> bytes:
        return (await client.request("POST", PATH, BODY)).body

    yield exchange
    await client.close()


@asynccontextmanager
async def aiohttp_client(socket_path: str) -> AsyncIterator[Exchange]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket_path)) as session:

        async def exchange() -> bytes:
            async with session.post(f"http://engine{PATH}", data=BODY, headers=HEADERS) as response:
                body: bytes = await response.read()
                return body

        yield exchange


@asynccontextmanager
async def httpx_client(socket_path: str) -> AsyncIterator[Exchange]:
    import httpx

    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket_path)) as client:

        async def exchange() -> bytes:
            body: bytes = (await client.post(f"http://engine{PATH}", content=BODY, headers=HEADERS)).content
            return body

        yield exchange


@asynccontextmanager
async def httpcore_client(socket_path: str) -> AsyncIterator[Exchange]:
    import httpcore

    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    async with httpcore.AsyncConnectionPool(uds=socket_path) as pool:

        async def exchange() -> bytes:
            body: bytes = (await pool.request("POST", f"http://engine{PATH}", headers=headers, content=BODY)).content
            return body

        yield exchange


CLIENTS = {"allod": allod_client, "aiohttp": aiohttp_client, "httpcore": httpcore_client, "httpx": httpx_client}


async def load(name: str, socket_path: str, *, together: int, seconds: float) -> dict[str, float]:
    """Exchange for `seconds`, `together` at a time."""
    count = 0

    async with CLIENTS[name](socket_path) as exchange:
        assert b"choices" in await exchange()
        stop = time.perf_counter() + seconds

        async def repeat() -> None:
            nonlocal count
            while time.perf_counter() < stop:
                await exchange()
                count += 1

        wall_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(repeat() for _ in range(together)))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {"cpu_us": cpu_s / count * 1e6, "requests_s": count / wall_s}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CLIENTS)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--together", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    words = parser.parse_args()
    print(json.dumps(uvloop.run(load(words.name, words.socket, together=words.together, seconds=words.seconds))))
