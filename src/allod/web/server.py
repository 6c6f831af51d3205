"""Serve one realm: put the routes together, listen, and stay until told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from allod.app.engine import ECHO_MODEL, Weights, run_engine
from allod.app.home import Home, now_ms
from allod.app.realm import Realm, run_realm
from allod.core.errors import Unavailable
from allod.core.whole_files import write_whole
from allod.settings import Settings
from allod.web.admin.handlers import METHODS, ORGANIZATION_PREFIX, Admin
from allod.web.asgi import Application, Route
from allod.web.explanations import Explanations
from allod.web.governance import Governance
from allod.web.metrics import Metrics
from allod.web.openai.handlers import MODELS_PREFIX, OpenAI
from allod.web.pages import Pages
from allod.web.receipts import LOG_PREFIX, RECEIPTS_PREFIX, Evidence, Health
from allod.web.static import Console

KEEP_ALIVE_S = 75
GRACE_S = 10
BACKLOG = 1024
MAX_HEAD_BYTES = 64 << 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def serve(settings: Settings, weights: Weights | None) -> None:
    """Start the engine, then answer until SIGINT or SIGTERM. Raises AllodError when it cannot start."""
    listener = listen(settings.server.host, settings.server.port)
    task = asyncio.current_task()
    assert task is not None  # a coroutine of the event loop runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # while it starts
    with closing(listener):
        port = listener.getsockname()[1]
        settings = replace(settings, server=replace(settings.server, port=port))
        model = weights.served if weights is not None else ECHO_MODEL
        async with run_engine(settings, weights) as engine, run_realm(settings, engine, model) as realm:
            await answer(realm, listener)


async def answer(realm: Realm, listener: socket.socket) -> None:
    """Answer on `listener` until told to stop."""
    config = uvicorn.Config(
        application(realm),
        loop="none",
        http=BoundedHeads,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    if not realm.settings.is_private:
        announce(realm)
    greet(realm)
    try:
        await server.serve(sockets=[listener])
        if unfinished := server.server_state.tasks:  # cut off: they have yet to note how far they came
            await asyncio.wait(unfinished, timeout=GRACE_S)
    finally:
        Home(realm.settings.home).gateway.unlink(missing_ok=True)


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's HTTP, but a request's line and headers have a limit: nobody needs a key to send them."""

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()


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


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket, bound before anything slow is done. Raises Unavailable when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host} port {port}: {error.strerror}",
            code="port_in_use",
            hint="another gateway may be running; choose another port with --port",
        ) from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def announce(realm: Realm) -> None:
    """Tell `allod ask`, by a file, where the gateway is."""
    announced = {"url": url_of(realm.settings), "pid": os.getpid()}
    write_whole(Home(realm.settings.home).gateway, json.dumps(announced) + "\n")


def greet(realm: Realm) -> None:
    """Tell whoever started the gateway what it serves and where."""
    model = realm.gateway.model
    lines = [
        f"model {model.name} ({model.licence}, {model.owner})",
        f"seal  {realm.gateway.engine.info.seal}",
        f"key   {Home(realm.settings.home).local_key}",
        f"admin {Home(realm.settings.home).admin_key}",
        f"ready {url_of(realm.settings)}",
    ]
    if not model.informative:
        lines.insert(1, "      too small to be right: its answers show that everything runs, they are not information")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def url_of(settings: Settings) -> str:
    """Where the gateway answers."""
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    return f"http://{host}:{settings.server.port}"


def application(realm: Realm) -> Application:
    """The routes of CONTRACTS §2 that exist so far."""
    settings, gateway = realm.settings, realm.gateway
    metrics = Metrics(requests_inside=lambda: gateway.admission.inside)
    openai = OpenAI(
        gateway, metrics=metrics, body_limit_bytes=settings.server.body_limit_bytes, started_s=now_ms() // 1000
    )
    evidence = Evidence(
        bundle=realm.bundle, trust=realm.trust, origin=settings.origin, log_file=realm.log_file, seal=realm.seal
    )
    health = Health(check_ready=realm.check_ready, metrics_text=metrics.text)
    pages = Pages(Console())
    admin = Admin(
        realm.store,
        nation=gateway.controls.nation,
        models=[gateway.model.name],
        embedding_models=[] if gateway.engine.info.can_chat else [gateway.model.name],
        currency=settings.prices.currency,
    )
    governance = Governance(
        controls=gateway.controls,
        store=realm.store,
        explanations=Explanations(gateway.controls, realm.store, realm.models),
        standings=gateway.admission.snapshot,
        shares=realm.shares.read,
        receipts=realm.receipts.read,
        versions=realm.policy_versions,
        num_slots=lambda: gateway.engine.info.slots,
        currency=settings.prices.currency,
    )
    return Application(
        routes={
            ("POST", "/v1/chat/completions"): Route(openai.chat_completions),
            ("POST", "/v1/embeddings"): Route(openai.embeddings),
            ("GET", "/v1/models"): Route(openai.models),
            ("GET", "/v1/trust"): Route(evidence.trust, needs="any"),
            ("GET", "/v1/seal"): Route(evidence.seal, needs="any"),
            ("GET", "/v1/governance/shares"): Route(governance.shares, needs="admin"),
            ("GET", "/v1/governance/policy"): Route(governance.policy, needs="admin"),
            ("POST", "/v1/governance/explain"): Route(governance.explain, needs="admin"),
            ("GET", "/v1/governance/receipts"): Route(governance.receipts, needs="admin"),
            ("GET", "/healthz"): Route(health.healthz, needs="nothing"),
            ("GET", "/readyz"): Route(health.readyz, needs="nothing"),
            ("GET", "/metrics"): Route(health.metrics, needs="nothing"),
            ("GET", "/"): Route(pages.page, needs="nothing"),
        },
        prefixes={
            ("GET", MODELS_PREFIX): Route(openai.models),
            ("GET", RECEIPTS_PREFIX): Route(evidence.receipt, needs="any"),
            **{(method, ORGANIZATION_PREFIX): Route(admin.answer, needs="admin") for method in METHODS},
            ("GET", f"{LOG_PREFIX}{settings.origin}/"): Route(evidence.log, needs="nothing"),
            ("GET", "/console/"): Route(pages.page, needs="nothing"),
        },
        keys=gateway.keys,
        hosts=_hosts(settings.server.port),
        metrics=metrics,
    )


def _hosts(port: int) -> frozenset[bytes]:
    names = ("127.0.0.1", "localhost", "[::1]")
    return frozenset(f"{name}:{port}".encode() for name in names)
