"""An engine that costs nothing: OpenAI's chat completions from fixed bytes, over TCP and over a Unix socket.

    python benchmarks/mock_engine.py --port N --socket PATH

It answers what gateways ask of an engine at start (`/health`, `/v1/models`, `/version`), a chat at once, and a streamed
chat in `NUM_CHUNKS` events, each in a packet of its own; in `LONG_CHUNKS` where that many tokens are asked for.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

MODEL = "bench"
NUM_CHUNKS, LONG_CHUNKS = 32, 200
_CREATED = 1_700_000_000
_USAGE = b'"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d}'
_FRAME = b'"id":"chatcmpl-mock","created":%d,"model":"bench",' % _CREATED
_ANSWER = (
    b'{"object":"chat.completion",%s%s,"choices":[{"index":0,"finish_reason":"stop","message":'
    b'{"role":"assistant","content":"The capital of Wales is Cardiff, on the Bristol Channel."}}]}'
    % (_FRAME, _USAGE % (NUM_CHUNKS, 12 + NUM_CHUNKS))
)


def _event(delta: bytes, finish: bytes = b"null") -> bytes:
    choice = b'"choices":[{"index":0,"delta":%s,"finish_reason":%s}]' % (delta, finish)
    return b'data: {"object":"chat.completion.chunk",%s%s}\n\n' % (_FRAME, choice)


_END = b'data: {"object":"chat.completion.chunk",%s%s,"choices":[]}\n\ndata: [DONE]\n\n'


def _chunks(count: int) -> list[bytes]:
    end = _END % (_FRAME, _USAGE % (count, 12 + count))
    words = [_event(b'{"content":" word"}')] * count
    return [_event(b'{"role":"assistant","content":""}'), *words, _event(b"{}", b'"stop"') + end]


_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":%d,"owned_by":"mock"}]}' % _CREATED
_SMALL = {
    b"/health": b'{"status":"ok"}',
    b"/v1/models": _MODELS,
    b"/version": b'{"version":"0.0.0"}',
}


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_WHOLE = _response(_ANSWER)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_STREAM = [*map(_chunked, _chunks(NUM_CHUNKS)), b"0\r\n\r\n"]
_LONG_STREAM = [*map(_chunked, _chunks(LONG_CHUNKS)), b"0\r\n\r\n"]
_LONG = b'"max_tokens":%d' % LONG_CHUNKS


class Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._path, self._body = b"", b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._path == b"/v1/chat/completions":
            body = self._body.replace(b" ", b"")
            if b'"stream":true' in body:
                self._transport.write(_STREAM_HEAD)
                self._continue(_LONG_STREAM if _LONG in body else _STREAM, 0)
            else:
                self._transport.write(_WHOLE)
        else:
            found = _SMALL.get(self._path.partition(b"?")[0])
            self._transport.write(_response(found) if found else _response(b"{}", b"404 Not Found"))

    def _continue(self, stream: list[bytes], number: int) -> None:
        """Each chunk in a turn of the loop, as an engine makes them, and nothing for a client that left."""
        if self._transport.is_closing():
            return
        self._transport.write(stream[number])
        if number + 1 < len(stream):
            asyncio.get_running_loop().call_soon(self._continue, stream, number + 1)


async def serve(port: int, socket_path: str) -> None:
    """Until the process is ended."""
    loop = asyncio.get_running_loop()
    over_tcp = await loop.create_server(Connection, "127.0.0.1", port)
    over_unix = await loop.create_unix_server(Connection, socket_path)
    async with over_tcp, over_unix:  # a server that nobody holds is closed
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--socket", required=True)
    words = parser.parse_args()
    uvloop.run(serve(words.port, words.socket))
