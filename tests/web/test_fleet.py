"""What is done to a replica by HTTP: it is written down who did it, first, and what is refused is neither."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contracts.tenants import key

from allod.core.errors import Invalid, Unavailable
from allod.engine.engine import ReplicaPace, ReplicaStatus
from allod.govern.stores.memory import MemoryStore
from allod.web.fleet import Fleet
from allod.web.http.asgi import Call

PATH = "/v1/governance/replicas"


class Steering:
    """Notes what it is asked for, and what the audit log had by then. Replica 2 is the last that answers."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.done: list[tuple[str, int, int]] = []  # and how many events there were

    def check(self, action: str, number: int) -> None:
        if action != "resume" and number == 2:
            raise Invalid("the last", code="last_replica")

    def drain(self, number: int) -> None:
        self.done.append(("drain", number, len(self.store.events())))

    def resume(self, number: int) -> None:
        self.done.append(("resume", number, len(self.store.events())))

    def restart(self, number: int) -> None:
        self.done.append(("restart", number, len(self.store.events())))

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        common: Any = {"state": "up", "why": "", "engine": "e", "slots": 1, "seal": "none", "seal_proof": None}
        counts: Any = {"num_running": 0, "num_answered": 0, "num_failed": 0, "num_starts": 1}
        pace = ReplicaPace(None, None, None, None)
        return tuple(
            ReplicaStatus(number=number, pace=pace, started_ms=None, pid=None, **common, **counts) for number in (1, 2)
        )


class Desk:
    """The handlers over one model `m` of two replicas."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.steering = Steering(self.store)
        info = SimpleNamespace(place=SimpleNamespace(site="here", jurisdiction="GB"))
        engine = SimpleNamespace(steering=self.steering, info=info)
        candidate = SimpleNamespace(engine=engine, models=[SimpleNamespace(name="m")])
        router: Any = SimpleNamespace(models={"m": None}, candidates=[candidate], route=lambda model: candidate)
        self.fleet = Fleet(router, self.store)

    async def steer(self, action: str, number: int) -> Any:
        """What is answered."""
        body = json.dumps({"model": "m", "replica": number, "action": action}).encode()
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        administrator = key("key_admin", None)
        await self.fleet.steer(Call("0", "POST", PATH, b"", {}, receive, send, 7, administrator=administrator))
        return json.loads(b"".join(message.get("body", b"") for message in sent))


async def test_who_steers_is_written_down_before_it_is_done() -> None:
    """Each with an event of its own, which names the key, the replica and the time."""
    desk = Desk()
    assert (await desk.steer("drain", 1))["replica"] == 1
    await desk.steer("resume", 2)
    await desk.steer("restart", 1)
    assert desk.steering.done == [("drain", 1, 1), ("resume", 2, 2), ("restart", 1, 3)]
    assert [(event.kind, event.details, event.actor, event.at_ms) for event in desk.store.events()] == [
        ("replica.restarted", {"id": "m/1"}, "key_admin", 7),
        ("replica.resumed", {"id": "m/2"}, "key_admin", 7),
        ("replica.drained", {"id": "m/1"}, "key_admin", 7),
    ]


async def test_what_is_refused_is_not_written_down() -> None:
    """Nor done."""
    desk = Desk()
    for action in ("drain", "restart"):
        with pytest.raises(Invalid, match="the last"):
            await desk.steer(action, 2)
    assert (desk.steering.done, desk.store.events()) == ([], [])


async def test_what_cannot_be_written_down_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's error is the answer."""
    desk = Desk()

    def fail(event: Any) -> None:
        raise Unavailable("the disk is full", code="tenants_unavailable")

    monkeypatch.setattr(desk.store, "put_event", fail)
    for action in ("drain", "resume", "restart"):
        with pytest.raises(Unavailable, match="the disk is full"):
            await desk.steer(action, 1)
    assert desk.steering.done == []
