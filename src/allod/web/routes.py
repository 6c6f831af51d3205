"""The table of routes over one realm."""

from __future__ import annotations

from functools import partial

from allod.app.gateway.realm import Realm
from allod.core.times import now_ms
from allod.web.admin.handlers import Admin
from allod.web.evidence import Evidence, HealthPages
from allod.web.fleet import Fleet, statuses_of
from allod.web.governance import Governance
from allod.web.http.asgi import Application, Route
from allod.web.http.metrics import Metrics
from allod.web.openai.handlers import OpenAI
from allod.web.openai.write import ERRORS
from allod.web.pages import Pages
from allod.web.static import Console


def application(realm: Realm) -> Application:
    """Every route; docs/api.md has a sentence for each."""
    settings, gateway = realm.settings, realm.gateway
    metrics = Metrics(
        requests_inside=lambda: gateway.router.num_inside,
        num_unreadable=lambda: realm.meter.num_unreadable,
        replicas=lambda: statuses_of(gateway.router),
    )
    openai = OpenAI(
        gateway,
        metrics=metrics,
        body_limit_bytes=settings.server.body_limit_bytes,
        answer_s=settings.deadlines.answer_s,
        started_s=now_ms() // 1000,
    )
    evidence = Evidence(realm)
    health = HealthPages(realm, metrics)
    pages = Pages(Console())
    admin = Admin(realm)
    governance = Governance(realm)
    fleet = Fleet(gateway.router, realm.store)
    route = partial(Route, dialect=ERRORS)
    return Application(
        routes={
            ("POST", "/v1/chat/completions"): route(openai.chat_completions),
            ("POST", "/v1/embeddings"): route(openai.embeddings),
            ("GET", "/v1/models"): route(openai.models),
            ("GET", "/v1/models/{*}"): route(openai.model),
            ("GET", "/v1/receipts/{*}"): route(evidence.receipt, needs="any"),
            ("GET", "/v1/trust"): route(evidence.trust, needs="any"),
            ("GET", "/v1/seal"): route(evidence.seal, needs="any"),
            ("GET", "/v1/governance/shares"): route(governance.shares, needs="admin"),
            ("GET", "/v1/governance/policy"): route(governance.policy, needs="admin"),
            ("POST", "/v1/governance/explain"): route(governance.explain, needs="admin"),
            ("POST", "/v1/governance/news"): route(admin.news, needs="admin"),
            ("GET", "/v1/governance/replicas"): route(fleet.replicas, needs="admin"),
            ("POST", "/v1/governance/replicas"): route(fleet.steer, needs="admin"),
            ("GET", "/v1/governance/receipts"): route(governance.receipts, needs="admin"),
            ("GET", "/healthz"): route(health.healthz, needs="nothing"),
            ("GET", "/readyz"): route(health.readyz, needs="nothing"),
            ("GET", "/metrics"): route(health.metrics, needs="nothing"),
            ("GET", f"/log/{settings.origin}/{{*}}"): route(evidence.log, needs="nothing"),
            ("GET", "/"): route(pages.page, needs="nothing"),
            ("GET", "/console/{*}"): route(pages.file, needs="nothing"),
            **{target: route(handler, needs="admin", is_counted=False) for target, handler in admin.routes().items()},
        },
        keys=gateway.keys,
        hosts=_hosts(settings.server.port),
        metrics=metrics,
        dialect=ERRORS,
    )


def _hosts(port: int) -> frozenset[bytes]:
    names = ("127.0.0.1", "localhost", "[::1]")
    return frozenset(f"{name}:{port}".encode() for name in names)
