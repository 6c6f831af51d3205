"""A closed-loop client: `connections` requests at a time, each after the last one's end, in a process of its own.

    python benchmarks/load.py --port N --key KEY --connections 16 --seconds 3 --stream

Prints one line of JSON: requests a second, and medians in microseconds to the first chunk of text and to the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from statistics import median
from typing import cast

import httptools
import uvloop

TIMEOUT_S = 30.0


def chat_request(port: int, key: str, model: str, *, stream: bool, max_tokens: int = 64) -> bytes:
    """The bytes of one request. The seed is given: nobody is to draw one."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is the capital of Wales, and where does it lie?"}],
        "max_tokens": max_tokens,
        "seed": 1,
        "stream": stream,
    }
    text = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


class Connection(asyncio.Protocol):
    """Asks again and again until `stop` (of `time.perf_counter`); notes (seconds to first text, to the end)."""

    def __init__(self, request: bytes, stop: float) -> None:
        self.times: list[tuple[float, float]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._stop = request, stop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._first_s = 0.0
        self._begin = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the server closed the connection"))

    def on_body(self, chunk: bytes) -> None:
        if not self._first_s and b'"content"' in chunk:
            self._first_s = time.perf_counter() - self._begin

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        status = self._parser.get_status_code()
        if status != 200 or not self._first_s:
            self.done.set_exception(ConnectionError(f"status {status}, or no text"))
            self._transport.abort()
            return
        self.times.append((self._first_s, now - self._begin))
        if now < self._stop:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()


async def load(request: bytes, port: int, *, connections: int, seconds: float) -> dict[str, float]:
    """Ask for `seconds`. Raises ConnectionError when any answer is not one."""
    loop, begin = asyncio.get_running_loop(), time.perf_counter()
    made = [
        (await loop.create_connection(lambda: Connection(request, begin + seconds), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + TIMEOUT_S):
        await asyncio.gather(*(one.done for one in made))
    took_s = time.perf_counter() - begin
    times = [pair for one in made for pair in one.times]
    return {
        "requests_s": len(times) / took_s,
        "num": len(times),
        "first_us": median(first for first, _ in times) * 1e6,
        "end_us": median(end for _, end in times) * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="bench")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--max-tokens", type=int, default=64)
    words = parser.parse_args()
    request = chat_request(words.port, words.key, words.model, stream=words.stream, max_tokens=words.max_tokens)
    try:
        found = uvloop.run(load(request, words.port, connections=words.connections, seconds=words.seconds))
    except ConnectionError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
