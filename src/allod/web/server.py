"""Serve one realm: answer within limits, and stay until told to stop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from allod.app.gateway.engine import StartingEngine
from allod.app.gateway.realm import Realm, ServedEngine, run_realm
from allod.app.home import Home
from allod.core.deadlines import Deadlines
from allod.core.files.whole import write_whole
from allod.serve.router import Candidate, say_whose
from allod.settings.tree import Settings
from allod.web.http.exchange import WATCH, Watch
from allod.web.routes import application

GRACE_S = 10
MAX_HEAD_BYTES = 64 << 10
FREE_PARTS, LEAST_PART_BYTES = 20_000, 32  # a body in more parts has so many bytes in each, on average
MAX_QUEUED = 64  # requests of one connection that have come before the one that is answered was
COLLECT_AFTER = (10_000, 20, 20)  # objects more than were given up, and so many collections of the younger
NO_REQUEST = "Invalid HTTP request received."
CONTINUE = b"HTTP/1.1 100 "  # how what is no response begins
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def serve(settings: Settings, listener: socket.socket, engines: Sequence[StartingEngine]) -> None:
    """Open the realm while the engines start, then answer until SIGINT or SIGTERM. Raises AllodError when it cannot."""
    async with run_realm(settings, *(ServedEngine(each.engine, each.served) for each in engines)) as realm:
        gc.collect()  # while the engines still read their weights
        for each in engines:
            with say_whose(each.served[0].name, len(engines)):
                await each.started
        await answer(realm, listener)


async def answer(realm: Realm, listener: socket.socket) -> None:
    """Answer on `listener` until told to stop."""
    deadlines = realm.settings.deadlines
    config = uvicorn.Config(
        application(realm),
        loop="none",
        http=partial(BoundedHeads, deadlines),  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=deadlines.keep_alive_s,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    if not realm.settings.is_private:
        announce(realm)
    greet(realm)
    gc.freeze()  # what is there by now stays: looking through all of it again would hold everybody up
    gc.set_threshold(*COLLECT_AFTER)
    try:
        await server.serve(sockets=[listener])
        if unfinished := server.server_state.tasks:  # cut off: they have yet to note how far they came
            await asyncio.wait(unfinished, timeout=GRACE_S)
    finally:
        Home(realm.settings.home).gateway.unlink(missing_ok=True)


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's HTTP with limits, because nobody needs a key to connect: on the size of whatever is no body (a head,
    trailers, the words around chunks), and on how long a client may take to send a request or to read an answer."""

    _awaited: Literal["head", "body"] | None = "head"  # None: a whole request is here, and none has begun after it
    _num_parts = _body_bytes = 0  # of the body
    _num_bytes = 0  # since the request began, or since the last of its body
    _deadline: asyncio.TimerHandle | None = None
    _reader_deadline: asyncio.TimerHandle | None = None
    _is_last = False  # whatever else comes is not heard: the connection ends with the answers that are under way
    _joined: _JoinedHeads
    _watch: dict[str, Watch]  # as the scopes of its requests carry it

    def __init__(self, deadlines: Deadlines, config: uvicorn.Config, **server: Any) -> None:
        super().__init__(config, **server)
        self._deadlines = deadlines

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.transport = self._joined = _JoinedHeads(transport)  # type: ignore[assignment]  # what is called of one
        self._watch = {WATCH: Watch(self.flow.resume_reading)}
        transport.set_write_buffer_limits(high=0)  # whatever the kernel does not take is paused for, and so has an end
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        self._stop_reader_deadline()
        super().connection_lost(exc)
        self._watch[WATCH].client_left()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's closes at once
        """Who says no more may have left; only a write could tell. Work for it ends; what needs none is answered."""
        if not self._ends_after_answers():
            return False
        self._watch[WATCH].client_left()
        return True

    def send_400_response(self, msg: str) -> None:
        """At once, but not into an answer that is under way."""
        if not self._ends_after_answers():
            super().send_400_response(msg)

    def _ends_after_answers(self) -> bool:
        """Whether requests that came whole are being answered, or wait for that: then nothing else is heard."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self.cycle.more_body and not self._is_last:
            if not self.pipeline:
                return False
            self.pipeline.popleft()  # it never came whole
        self._is_last = True
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        last.keep_alive = False  # which its head says, unless it is written
        return True

    def data_received(self, data: bytes) -> None:
        self._awaited = self._awaited or "head"
        self._num_bytes += len(data)
        if not self._is_last:
            self._unset_keepalive_if_required()
            self._parse(data)
        if self._num_bytes > MAX_HEAD_BYTES:
            self.transport.abort()
        elif self._awaited and self._deadline is None:
            self._start_deadline()

    def _parse(self, data: bytes) -> None:
        """A server may ignore `Upgrade` (RFC 9110, 7.8), and this one does. The parser cannot: it takes what follows
        such a head for another protocol's. So another one reads the head again, without, and then what follows."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self._renew_parser()
            except httptools.HttpParserError:
                self.logger.warning(NO_REQUEST)
                self.send_400_response(NO_REQUEST)
                return

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        rest = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([line, *rest, b"", b""])

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it: nothing of it is heard

    def on_headers_complete(self) -> None:
        """Raises ValueError, which ends the parser, where a tunnel is asked for, or more requests have come than one
        client may have wait."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("no tunnels here")
            return  # the head is read again
        self._stop_deadline()
        if len(self.pipeline) >= MAX_QUEUED:
            self.transport.abort()  # an answer is under way: there is no place for another that says why
            raise ValueError("too many requests at once")
        self._awaited, self._num_bytes = "body", 0
        self._num_parts = self._body_bytes = 0
        self.scope["extensions"] = self._watch  # type: ignore[typeddict-item]  # more than uvicorn knows of
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Raises ValueError, which ends the parser, where chunks cost more than they say."""
        self._num_bytes = 0
        self._num_parts += 1
        self._body_bytes += len(body)
        if self._num_parts > FREE_PARTS and self._body_bytes < self._num_parts * LEAST_PART_BYTES:
            raise ValueError("a body in too many parts")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # only its head was read
        self._stop_deadline()
        self._awaited, self._num_bytes = None, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._joined.end_response()
        if self._is_last and not self.pipeline:
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = self._deadlines.reading_s(self.transport.get_write_buffer_size())
        self._reader_deadline = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_reader_deadline()
        super().resume_writing()

    def _start_deadline(self) -> None:
        seconds = self._deadlines.body_s if self._awaited == "body" else self._deadlines.head_s
        self._deadline = self.loop.call_later(seconds, self._miss_deadline)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _miss_deadline(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (is_answering and self._awaited == "head"):
            self._start_deadline()  # it waits for us: the next request is read once this one is answered
        else:
            self.transport.abort()

    def _stop_reader_deadline(self) -> None:
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None


class _JoinedHeads:
    """A transport that sends the head of a response with what follows it: one write less, and one packet."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._is_begun = False  # the response whose turn it is
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self.is_closing():  # nobody is there
            return
        if not self._is_begun and not data.startswith(CONTINUE):
            self._is_begun, self._head = True, data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def end_response(self) -> None:
        """What is written next is another response's head."""
        if self._head:  # it has no body
            self.write(b"")
        self._is_begun = False

    def close(self) -> None:
        self.end_response()
        self._transport.close()


class _Server(uvicorn.Server):
    """uvicorn's, but a signal only ends the serving: its own raises it again, and nothing after it would be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def announce(realm: Realm) -> None:
    """Tell the command line, by a file, where the gateway is and what it was started with."""
    announced = {"url": url_of(realm.settings), "pid": os.getpid(), "model": realm.settings.model.name}
    write_whole(Home(realm.settings.home).gateway, json.dumps(announced) + "\n")


def greet(realm: Realm) -> None:
    """Tell whoever started the gateway what it serves and where."""
    priced = realm.settings.prices.models.keys() - realm.gateway.router.models.keys()
    lines = [
        *(line for candidate in realm.gateway.router.candidates for line in _lines_of(candidate)),
        *(f"price {name!r} is named in [prices.models] and is not served" for name in sorted(priced)),
        f"key   {Home(realm.settings.home).local_key}",
        f"admin {Home(realm.settings.home).admin_key}",
        f"ready {url_of(realm.settings)}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _lines_of(candidate: Candidate) -> Iterator[str]:
    model, *adapters = candidate.models
    yield f"model {model.name} ({model.licence}, {model.owner})"
    if not model.informative:
        yield "      too small to be right: its answers show that everything runs, they are not information"
    for adapter in adapters:
        yield f"      {adapter.name}, an adapter over it ({adapter.licence}, {adapter.owner})"
    yield f"seal  {candidate.engine.info.seal}"


def url_of(settings: Settings) -> str:
    """Where the gateway answers."""
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    return f"http://{host}:{settings.server.port}"
