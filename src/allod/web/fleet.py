"""What an administrator sees of the replicas that answer, and what can be asked of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import msgspec

from allod.core.errors import Invalid
from allod.engine.engine import ReplicaStatus, SteeringAction
from allod.govern.tenancy.store import TenantStore
from allod.serve.router import Candidate, Router
from allod.web.admin.request import AdminRequest
from allod.web.http.asgi import Call
from allod.web.http.bodies import check_keys
from allod.web.http.exchange import NOT_KEPT, read_body

BODY_LIMIT_BYTES = 4 << 10
EVENTS: dict[SteeringAction, str] = {
    "drain": "replica.drained",
    "resume": "replica.resumed",
    "restart": "replica.restarted",
}
logger = logging.getLogger(__name__)
Json = dict[str, Any]


class SteerBody(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be done with which replica, by the name of the model that it answers for and its number there."""

    model: Annotated[str, msgspec.Meta(max_length=256)]
    replica: int
    action: SteeringAction


class Fleet:
    """Handlers over one gateway's engines. What is done to them stands in the store's audit log."""

    def __init__(self, router: Router, store: TenantStore) -> None:
        self._router = router
        self._store = store

    async def replicas(self, call: Call) -> None:
        """`GET /v1/governance/replicas`: every replica of every model, its state and why, and what it works on."""
        _request_of(call).search()
        answer = {
            "object": "list",
            "data": [
                _describe(candidate, status)
                for candidate in self._router.candidates
                for status in _statuses_of(candidate)
            ],
        }
        await call.respond(200, msgspec.json.encode(answer), NOT_KEPT)

    async def steer(self, call: Call) -> None:
        """`POST /v1/governance/replicas`: drain, resume or restart one, which is answered as it then is.

        Raises Invalid (`model_not_found`, `no_such_replica`, `last_replica`), and Unavailable where it cannot be
        written down who did it: nothing is done then.
        """
        body = await read_body(call.receive, call.headers, limit_bytes=BODY_LIMIT_BYTES)
        await check_keys(body)
        asked = AdminRequest(_request_of(call).actor, call.start_ms, call.query, body)
        asked.search()
        wanted = asked.read(SteerBody)
        if wanted.model not in self._router.models:
            raise Invalid(f"the model {wanted.model!r} is not served here", code="model_not_found", param="model")
        candidate = self._router.route(wanted.model)
        steering = candidate.engine.steering
        if steering is None:
            raise Invalid(f"{wanted.model!r} is not made of replicas", code="no_such_replica", param="model")
        steering.check(wanted.action, wanted.replica)
        event = asked.officer.event(EVENTS[wanted.action], None, id=f"{wanted.model}/{wanted.replica}")
        await asyncio.to_thread(self._store.put_event, event)
        getattr(steering, wanted.action)(wanted.replica)
        logger.warning("%s of replica %d of %s, by %s", wanted.action, wanted.replica, wanted.model, asked.actor)
        status = steering.statuses()[wanted.replica - 1]
        await call.respond(200, msgspec.json.encode(_describe(candidate, status)), NOT_KEPT)


def statuses_of(router: Router) -> Iterator[tuple[str, ReplicaStatus]]:
    """Every replica that there is, with the name of the model that it answers for."""
    for candidate in router.candidates:
        for status in _statuses_of(candidate):
            yield candidate.models[0].name, status


def _statuses_of(candidate: Candidate) -> tuple[ReplicaStatus, ...]:
    steering = candidate.engine.steering
    return steering.statuses() if steering is not None else ()


def _describe(candidate: Candidate, status: ReplicaStatus) -> Json:
    place = candidate.engine.info.place
    return {
        "model": candidate.models[0].name,
        "replica": status.number,
        "site": place.site,
        "jurisdiction": place.jurisdiction,
        **{name: value for name, value in asdict(status).items() if name != "number"},
    }


def _request_of(call: Call) -> AdminRequest:
    assert call.administrator is not None  # the routes need an admin key
    return AdminRequest(call.administrator.id, call.start_ms, call.query)
