"""OpenAI's administration interface over a store in memory: its shapes, and what no administrator can do by mistake.

Every answer is read by the types of OpenAI's own client, strictly; what they do not know may only be called `allod`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.admin import organization as shapes
from openai.types.admin.organization import projects as project_shapes
from openai.types.admin.organization.projects import service_accounts as account_shapes
from pydantic import BaseModel, TypeAdapter

from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.realm import Realm
from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.labels import Tier
from allod.core.nations.nation import Marking, Nation
from allod.engine.adapters.echo import EchoEngine
from allod.govern.metering.prices import Prices
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.keys import KeyRing
from allod.govern.tenancy.store import Position, Totals
from allod.govern.tenancy.tenants import AuditEvent, Charge, Key, Quota, Tenant, api_key_digest, local_tenant
from allod.serve.admission import Admission
from allod.serve.router import Candidate, Router
from allod.web.admin.handlers import ENDINGS, PREFIX, Admin
from allod.web.http.asgi import Application, Call, Handler, Route
from allod.web.http.metrics import Metrics
from allod.web.openai.write import ERRORS

NOW_MS = 1_760_000_000_000  # 9 October 2025
DAY_S = 86_400
DAY = NOW_MS // 1000 // DAY_S * DAY_S
NATION = Nation(
    code="xx",
    name="Nowhere",
    source="invented",
    tiers=(Tier("OPEN", 0, "xx"), Tier("CLOSED", 1, "xx")),
    markings={"HOME": Marking("HOME", "only at home", frozenset({"GB"})), "CARE": Marking("CARE", "with care")},
    places=frozenset({"GB", "FR"}),
    purposes={"care": "caring", "study": "studying"},
)
SECRET = "allod-admin-" + "x" * 43
FIRST_KEY = Key("key_admin", None, "the first", api_key_digest(SECRET), SECRET[-4:], NOW_MS - 1000, is_admin=True)


def realm_over(store: MemoryStore, **actions: Callable[[], object]) -> Realm:
    """As much of a realm as administration has to do with: it serves a model for chats, and one for embeddings."""
    engines = {"chatty": EchoEngine(), "vectors": EchoEngine()}
    engines["vectors"].info = replace(engines["vectors"].info, can_chat=False)
    candidates = [
        Candidate(engine, (replace(ECHO_MODEL, name=name),), Admission(num_running=1, num_waiting=1))
        for name, engine in engines.items()
    ]
    gateway = SimpleNamespace(controls=SimpleNamespace(nation=NATION), router=Router(candidates))
    nothing = {"take_up_news": lambda: None, "check_clock": lambda: None}
    settings = SimpleNamespace(prices=Prices())
    return cast(Realm, SimpleNamespace(store=store, settings=settings, gateway=gateway, **nothing | actions))


@dataclass
class Office:
    """An administrator at the interface."""

    store: MemoryStore
    secret: str = SECRET
    now_ms: int = NOW_MS
    num_projects: int = 0
    check_clock: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        admin = Admin(realm_over(self.store, check_clock=lambda: self.check_clock()))
        self.routes = admin._actions

        async def at_that_time(handler: Handler, call: Call, *ids: str) -> None:
            call.start_ms = self.now_ms
            await handler(call, *ids)

        self.keys = KeyRing(NATION)
        self.door = Application(
            routes={
                place: Route(partial(at_that_time, handler), ERRORS, needs="admin")
                for place, handler in admin.routes().items()
            },
            keys=self.keys,
            hosts=frozenset({b"here"}),
            metrics=Metrics(requests_inside=lambda: 0, num_unreadable=lambda: 0),
            dialect=ERRORS,
        )

    async def ask(self, method: str, path: str, body: object = None, **query: Any) -> tuple[int, Any]:
        """The status and the JSON that come back through the front door; of an error, what is in it."""
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": f"{PREFIX}{path}",
            "query_string": urlencode(query, doseq=True, quote_via=quote).encode(),
            "headers": [(b"host", b"here"), (b"authorization", f"Bearer {self.secret}".encode())],
        }
        self.keys.refresh(self.store)
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": raw}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.door(scope, receive, send)
        start, end = sent
        said = json.loads(end["body"])
        if start["status"] == 200:
            assert (b"cache-control", b"no-store") in start["headers"]
        return start["status"], said if start["status"] == 200 else said["error"]

    def project_name(self) -> str:
        """Library, and then others: no two projects have one name."""
        self.num_projects += 1
        return "Library" if self.num_projects == 1 else f"Library {self.num_projects}"

    async def get(self, shape: Any, path: str, **query: Any) -> Any:
        return read(shape, await self.ask("GET", path, **query))

    async def post(self, shape: Any, path: str, body: object = None) -> Any:
        return read(shape, await self.ask("POST", path, body))

    async def delete(self, shape: Any, path: str) -> Any:
        return read(shape, await self.ask("DELETE", path))

    async def listed(self, shape: Any, path: str, **query: Any) -> list[Any]:
        """One page."""
        return [read(shape, (200, entry)) for entry in (await self.page(path, **query))["data"]]

    async def page(self, path: str, **query: Any) -> Any:
        status, body = await self.ask("GET", path, **query)
        assert status == 200, body
        assert body.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        assert body["object"] == "list"
        ids = [entry["id"] for entry in body["data"]] or [None]
        assert (body["first_id"], body["last_id"]) == (ids[0], ids[-1])
        return body

    async def pages(self, path: str, **query: Any) -> AsyncIterator[list[str]]:
        """The ids of each page, as a client follows them."""
        while True:
            page = await self.page(path, **query)
            yield [entry["id"] for entry in page["data"]]
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    async def project(self, **body: Any) -> str:
        made = await self.post(shapes.Project, "projects", {"name": self.project_name(), **body})
        return str(made.id)

    async def account(self, project: str, **body: Any) -> Any:
        path = f"projects/{project}/service_accounts"
        return await self.post(project_shapes.ServiceAccountCreateResponse, path, {"name": "desk", **body})

    async def terms(self, project: str) -> Any:
        """The project's `allod` member."""
        return (await self.get(shapes.Project, f"projects/{project}")).allod

    def charge(self, *charges: Charge) -> None:
        before = self.store.position("o") or Position(0, 0)
        self.store.charge("o", Position(before.num_entries + len(charges), before.offset + 1), charges)


def read(shape: Any, reply: tuple[int, Any]) -> Any:
    """The answer as OpenAI's client types it, every field of its published type."""
    status, body = reply
    assert status == 200, body
    made = TypeAdapter(shape).validate_python(body, strict=True)
    assert unknown_fields(made) <= {"allod"}
    return made


def unknown_fields(made: object) -> set[str]:
    if isinstance(made, list):
        return set().union(*map(unknown_fields, made))
    if not isinstance(made, BaseModel):
        return set()
    return set(made.model_extra or ()).union(*(unknown_fields(value) for _, value in made if value is not made))


class SlowStore(MemoryStore):
    """Takes its time to read, so that what happens at the same time does."""

    def tenant(self, tenant_id: str) -> Tenant:
        tenant = super().tenant(tenant_id)
        time.sleep(0.02)
        return tenant

    def keys(self, **which: Any) -> list[Key]:
        keys = super().keys(**which)
        time.sleep(0.02)
        return keys


def new_office(store: MemoryStore | None = None) -> Office:
    store = store or MemoryStore()
    store.put_tenant(
        local_tenant(NOW_MS - 1000), AuditEvent("e-local", NOW_MS - 1000, "project.created", "start", "local")
    )
    store.put_key(FIRST_KEY, AuditEvent("e-admin", NOW_MS - 1000, "api_key.created", "start"))
    return Office(store)


@pytest.fixture
def office() -> Office:
    return new_office()


def charge(**fields: Any) -> Charge:
    usual = {
        "receipt_id": "r",
        "tenant_id": "local",
        "key_id": "k",
        "model": "chatty",
        "start_ms": NOW_MS,
        "decision": "permit",
        "finish": "stop",
    }
    return Charge(**{**usual, **fields})


# Projects


async def test_a_project_from_its_creation_to_its_archive(office: Office) -> None:
    """Created, found, listed, renamed, archived: and then only found by who asks for archived ones."""
    made = await office.post(shapes.Project, "projects", {"name": "Library"})
    assert made.id.startswith("proj_")
    assert (made.name, made.status, made.created_at, made.archived_at) == ("Library", "active", NOW_MS // 1000, None)
    assert await office.get(shapes.Project, f"projects/{made.id}") == made
    renamed = await office.post(shapes.Project, f"projects/{made.id}", {"name": "Archive"})
    assert (await office.listed(shapes.Project, "projects"))[1] == renamed
    archived = await office.post(shapes.Project, f"projects/{made.id}/archive")
    assert (archived.status, archived.archived_at) == ("archived", NOW_MS // 1000)
    assert [one.id for one in await office.listed(shapes.Project, "projects")] == ["local"]
    with_archived = await office.listed(shapes.Project, "projects", include_archived="true")
    assert {one.id for one in with_archived} == {"local", made.id}


async def test_an_archived_project_stays_as_it_was(office: Office) -> None:
    """Nothing in it can be changed or added, whichever way one comes to it."""
    project = await office.project()
    account = await office.account(project)
    at = f"projects/{project}"
    await office.post(shapes.Project, f"{at}/archive")
    before = office.store.tenant(project)
    limit = {"currency": "GBP", "interval": "month", "threshold_amount": 1}
    for path, body in [
        (at, {"name": "again"}),
        (f"{at}/archive", None),
        (f"{at}/service_accounts", {"name": "late"}),
        (f"{at}/service_accounts/{account.id}", {"name": "late"}),
        (f"{at}/service_accounts/{account.id}/api_keys", {}),
        (f"{at}/api_keys/{account.api_key.id}", {"expires_in_seconds": 60}),
        (f"{at}/rate_limits/rl-chatty", {"max_requests_per_1_minute": 1}),
        (f"{at}/spend_limit", limit),
        (f"{at}/data_retention", {"retention_type": "zero_data_retention"}),
        (f"{at}/model_permissions", {"mode": "allow_list", "model_ids": []}),
    ]:
        status, error = await office.ask("POST", path, body)
        assert (status, error["code"]) == (400, "project_archived"), path
    assert office.store.tenant(project) == before
    keys = await office.listed(project_shapes.ProjectAPIKey, f"{at}/api_keys")
    assert [key.owner_project_access for key in keys] == ["inactive"]
    assert await office.listed(project_shapes.ProjectAPIKey, f"{at}/api_keys", owner_project_access="active") == []


async def test_the_machines_own_project_cannot_be_archived(office: Office) -> None:
    """`local` is where the machine's own key belongs."""
    status, error = await office.ask("POST", "projects/local/archive")
    assert (status, error["code"]) == (400, "project_is_needed")
    assert office.store.tenant("local").archived_ms is None


async def test_our_terms_are_written_and_read_in_one_member(office: Office) -> None:
    """What is created with terms shows them, whole, and null where nothing restricts."""
    terms = {
        "weight": 7,
        "priority": 1,
        "label": {"tier": "CLOSED", "markings": ["CARE"], "jurisdictions": ["GB"], "purposes": ["care", "study"]},
        "scope": {"models": ["chatty"], "clearance": "CLOSED", "purposes": ["care"]},
        "quota": {"requests_per_minute": 5, "tokens_per_minute": None, "concurrent": 2},
        "budgets": {
            "day": {"tokens": 10, "engine_ms": 20, "millijoules": 30, "micros": 40},
            "month": {"tokens": None, "engine_ms": None, "millijoules": None, "micros": 50},
        },
    }
    project = await office.project(allod=terms)
    assert await office.terms(project) == terms
    tenant = office.store.tenant(project)
    assert (tenant.weight, tenant.tier, tenant.markings, tenant.scope.clearance) == (
        7,
        "CLOSED",
        frozenset({"CARE"}),
        "CLOSED",
    )
    assert await office.terms("local") == {
        "weight": 1,
        "priority": 0,
        "label": {"tier": "OPEN", "markings": [], "jurisdictions": None, "purposes": None},
        "scope": {"models": None, "clearance": None, "purposes": None},
        "quota": {"requests_per_minute": None, "tokens_per_minute": None, "concurrent": None},
        "budgets": {"day": None, "month": None},
    }


async def test_what_an_update_does_not_mention_is_never_widened(office: Office) -> None:
    """To set one limit leaves every other as it is, next to it or around it; null lifts one."""
    project = await office.project(
        allod={
            "weight": 3,
            "label": {"tier": "CLOSED", "markings": ["CARE"]},
            "scope": {"models": ["chatty"], "clearance": "OPEN"},
            "quota": {"requests_per_minute": 5, "concurrent": 2},
            "budgets": {"day": {"tokens": 10}, "month": {"tokens": 20, "micros": 30}},
        }
    )
    before = await office.terms(project)
    changes = {
        "label": {"markings": []},
        "scope": {"purposes": ["care"]},
        "quota": {"concurrent": None},
        "budgets": {"month": {"tokens": None}},
    }
    for name, change in changes.items():
        await office.post(shapes.Project, f"projects/{project}", {"allod": {name: change}})
    after = await office.terms(project)
    assert after["weight"] == 3
    assert after["label"] == {**before["label"], "markings": []}
    assert after["scope"] == {**before["scope"], "purposes": ["care"]}
    assert after["quota"] == {**before["quota"], "concurrent": None}
    assert after["budgets"]["day"] == before["budgets"]["day"]
    assert after["budgets"]["month"] == {**before["budgets"]["month"], "tokens": None}
    await office.post(shapes.Project, f"projects/{project}", {"allod": {"budgets": {"day": None}}})
    assert (await office.terms(project))["budgets"]["day"] is None


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"weight": 0}, "allod.weight"),
        ({"weight": 1001}, "allod.weight"),
        ({"weight": True}, "allod.weight"),
        ({"priority": 2}, "allod.priority"),
        ({"wieght": 1}, "allod.wieght"),
        ({"scope": {"model": ["x"]}}, "allod.scope.model"),
        ({"scope": {"clearance": "ALIEN"}}, "tier"),
        ({"scope": {"purposes": ["war"]}}, "purposes"),
        ({"label": {"tier": "ALIEN"}}, "tier"),
        ({"label": {"markings": ["SHINY"]}}, "markings"),
        ({"label": {"jurisdictions": ["Mars"]}}, "jurisdictions"),
        ({"label": {"jurisdictions": []}}, "allod.label"),
        ({"label": {"markings": ["HOME"], "jurisdictions": ["FR"]}}, "allod.label"),
        ({"quota": {"requests_per_minute": 0}}, "allod.quota.requests_per_minute"),
        ({"quota": {"tokens_per_minute": -1}}, "allod.quota.tokens_per_minute"),
        ({"quota": {"tokens_per_minute": 2**53}}, "allod.quota.tokens_per_minute"),
        ({"budgets": {"day": {"tokens": 1.5}}}, "allod.budgets.day.tokens"),
        ({"budgets": {"year": {"tokens": 1}}}, "allod.budgets.year"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_terms_that_cannot_be_are_refused(office: Office, terms: object, param: str) -> None:
    """By the place of what is wrong; and no half-made project stays behind."""
    for path in ("projects", "projects/local"):
        status, error = await office.ask("POST", path, {"name": "n", "allod": terms})
        assert (status, error["param"]) == (400, param)
    assert [one.id for one in office.store.tenants()] == ["local"]
    assert office.store.tenant("local") == local_tenant(NOW_MS - 1000)


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "a\x00", "\x1b[31m", "a\x85b", "a\u2028b", "\u202egnp.exe", "x" * 257, None, 7], ids=ascii
)
async def test_a_name_can_be_seen_whole(office: Office, name: object) -> None:
    """Whatever bears a name: no control characters, nothing that turns the text round, nothing empty or endless."""
    account = await office.account("local")
    for path in (
        "projects",
        "projects/local",
        "projects/local/service_accounts",
        f"projects/local/service_accounts/{account.id}",
        f"projects/local/service_accounts/{account.id}/api_keys",
        "admin_api_keys",
    ):
        if name is None and path == "projects/local":
            continue  # the published type: null leaves the name
        status, error = await office.ask("POST", path, {"name": name})
        assert (status, error["param"]) == (400, "name"), path


# Service accounts and keys


async def test_a_key_is_shown_once(office: Office) -> None:
    """In the answer to its creation, and nowhere else: not in the store, in no list and not in the audit log."""
    made = await office.account("local")
    secret = made.api_key.value
    assert secret.startswith("allod-")
    assert len(secret) == len("allod-") + 43
    kept = office.store.key(made.api_key.id)
    assert (kept.digest, kept.hint) == (api_key_digest(secret), secret[-4:])
    assert (kept.tenant_id, kept.account_id, kept.is_admin) == ("local", made.id, False)
    [shown] = await office.listed(project_shapes.ProjectAPIKey, "projects/local/api_keys")
    assert shown.redacted_value.endswith(secret[-4:])
    assert shown.owner.service_account.id == made.id
    said = [await office.ask("GET", path) for path in ("projects/local/api_keys", "audit_logs", "projects")]
    assert secret not in json.dumps(said)
    assert kept.digest not in json.dumps(said)


async def test_keys_change_without_a_gap(office: Office) -> None:
    """A second key of the same account works beside the first, which is deleted later."""
    account = await office.account("local", expires_in_seconds=3600)
    assert account.api_key.expires_at == NOW_MS // 1000 + 3600
    path = f"projects/local/service_accounts/{account.id}/api_keys"
    second = await office.post(account_shapes.APIKeyCreateResponse, path, {"name": "next", "expires_in_seconds": 60})
    assert (second.name, second.expires_at) == ("next", NOW_MS // 1000 + 60)
    assert {key.account_id for key in office.store.keys(tenant_id="local")} == {account.id}
    await office.delete(project_shapes.APIKeyDeleteResponse, f"projects/local/api_keys/{account.api_key.id}")
    assert office.store.key(account.api_key.id).revoked_ms == NOW_MS
    [left] = await office.listed(project_shapes.ProjectAPIKey, "projects/local/api_keys")
    assert left.id == second.id
    for method in ("GET", "POST", "DELETE"):
        assert (await office.ask(method, f"projects/local/api_keys/{account.api_key.id}"))[0] == 404


async def test_a_keys_end_and_scope_can_be_moved(office: Office) -> None:
    """Counted from the request; an expired key stays expired."""
    account = await office.account("local", allod={"scope": {"models": ["chatty"]}})
    path = f"projects/local/api_keys/{account.api_key.id}"
    changes = {"expires_in_seconds": 60, "allod": {"scope": {"clearance": "OPEN"}}}
    changed = await office.post(project_shapes.ProjectAPIKey, path, changes)
    assert changed.expires_at == NOW_MS // 1000 + 60
    assert changed.allod == {"scope": {"models": ["chatty"], "clearance": "OPEN", "purposes": None}}
    office.now_ms += 60_000
    status, error = await office.ask("POST", path, {"expires_in_seconds": 60})
    assert (status, error["code"]) == (400, "key_expired")


async def test_a_service_account_from_its_creation_to_its_deletion(office: Office) -> None:
    """Its keys end with it."""
    made = await office.account("local", create_service_account_only=True)
    assert made.api_key is None
    at = f"projects/local/service_accounts/{made.id}"
    await office.post(account_shapes.APIKeyCreateResponse, f"{at}/api_keys", {})
    renamed = await office.post(project_shapes.ProjectServiceAccount, at, {"name": "counter", "role": "member"})
    assert (await office.get(project_shapes.ProjectServiceAccount, at)).name == renamed.name == "counter"
    assert await office.listed(project_shapes.ProjectServiceAccount, "projects/local/service_accounts") == [renamed]
    await office.delete(project_shapes.ServiceAccountDeleteResponse, at)
    assert await office.listed(project_shapes.ProjectServiceAccount, "projects/local/service_accounts") == []
    assert await office.listed(project_shapes.ProjectAPIKey, "projects/local/api_keys") == []
    assert (await office.ask("DELETE", at))[0] == 404


async def test_admin_keys(office: Office) -> None:
    """Made, shown once, listed both ways round, deleted; and they belong to no project."""
    office.now_ms += 1000
    made = await office.post(shapes.AdminAPIKeyCreateResponse, "admin_api_keys", {"name": "second"})
    assert made.value.startswith("allod-admin-")
    kept = office.store.key(made.id)
    assert (kept.is_admin, kept.tenant_id, kept.digest) == (True, None, api_key_digest(made.value))
    ids = [key.id for key in await office.listed(shapes.AdminAPIKey, "admin_api_keys")]
    assert ids == [FIRST_KEY.id, made.id]
    newest_first = await office.listed(shapes.AdminAPIKey, "admin_api_keys", order="desc", limit=1)
    assert [key.id for key in newest_first] == [made.id]
    assert await office.listed(project_shapes.ProjectAPIKey, "projects/local/api_keys") == []
    office.secret = made.value
    await office.delete(shapes.AdminAPIKeyDeleteResponse, f"admin_api_keys/{FIRST_KEY.id}")
    assert (await office.ask("GET", f"admin_api_keys/{FIRST_KEY.id}"))[0] == 404


async def test_the_last_admin_key_that_lasts_cannot_be_deleted(office: Office) -> None:
    """One that expires does not count: it would lock everybody out, only later."""
    body = {"name": "for a minute", "expires_in_seconds": 60}
    await office.post(shapes.AdminAPIKeyCreateResponse, "admin_api_keys", body)
    status, error = await office.ask("DELETE", f"admin_api_keys/{FIRST_KEY.id}")
    assert (status, error["code"]) == (400, "last_admin_key")
    assert office.store.key(FIRST_KEY.id).revoked_ms is None


async def test_two_admins_cannot_delete_each_others_last_key() -> None:
    """At the same time: one of them wins, and a key is left."""
    office = new_office(SlowStore())
    made = await office.post(shapes.AdminAPIKeyCreateResponse, "admin_api_keys", {"name": "second"})
    asked = (office.ask("DELETE", f"admin_api_keys/{key}") for key in (FIRST_KEY.id, made.id))
    assert sorted([status for status, _ in await asyncio.gather(*asked)]) == [200, 400]


async def test_changes_at_the_same_time_are_all_kept() -> None:
    """One that reads while another writes would undo it."""
    office = new_office(SlowStore())
    project = await office.project()
    periods = [(period, unit) for period in ("day", "month") for unit in ("tokens", "engine_ms", "millijoules")]
    asked = [
        office.ask("POST", f"projects/{project}", {"allod": {"budgets": {period: {unit: 5}}}})
        for period, unit in periods
    ]
    await asyncio.gather(*asked)
    budgets = (await office.terms(project))["budgets"]
    assert [budgets[period][unit] for period, unit in periods] == [5] * len(periods)


async def test_an_id_of_another_kind_is_not_found(office: Office) -> None:
    """Nor is one of another project: no path leads to what lies elsewhere."""
    project, other = await office.project(), await office.project()
    account = await office.account(project)
    key = account.api_key.id
    nowhere = [
        f"projects/{key}",
        f"projects/{account.id}",
        f"projects/{FIRST_KEY.id}",
        f"projects/{project}/api_keys/{FIRST_KEY.id}",
        f"projects/{project}/api_keys/{account.id}",
        f"projects/{other}/api_keys/{key}",
        f"projects/nobody/api_keys/{key}",
        f"projects/{project}/service_accounts/{key}",
        f"projects/{other}/service_accounts/{account.id}",
        f"admin_api_keys/{key}",
        f"admin_api_keys/{project}",
        "projects/\x00",
        "projects/" + "x" * 5000,
    ]
    for path in nowhere:
        for method in ("GET", "POST", "DELETE"):
            status, error = await office.ask(method, path)
            assert (status, error["code"]) in ((404, "not_found"), (405, "method_not_allowed")), (method, path)
        assert (await office.ask("GET", path))[0] == 404
    for path in ("api_keys", "service_accounts", "rate_limits", "users", "spend_limit", "model_permissions"):
        assert (await office.ask("GET", f"projects/nobody/{path}"))[0] == 404
    assert office.store.key(key).revoked_ms is None
    assert office.store.key(FIRST_KEY.id).revoked_ms is None
    assert office.store.account(project, account.id)


async def test_a_key_that_is_no_admins_administers_nothing(office: Office) -> None:
    """Not even in its own project."""
    office.secret = (await office.account("local")).api_key.value
    status, error = await office.ask("GET", "projects")
    assert (status, error["code"]) == (403, "wrong_kind_of_key")


async def test_the_handlers_themselves_ask_for_an_admin_key() -> None:
    """Should a route ever forget to."""
    unused: Any = None
    call = Call("0", "GET", f"{PREFIX}projects", b"", {}, unused, unused, NOW_MS)
    with pytest.raises(Denied):
        await Admin(realm_over(MemoryStore())).routes()["GET", f"{PREFIX}projects"](call)


# Limits


async def test_rate_limits_are_per_model(office: Office) -> None:
    """One for each model that is served; the largest number stands for none."""
    project = await office.project()
    path = f"projects/{project}/rate_limits"
    limits = await office.listed(project_shapes.ProjectRateLimit, path)
    assert [(one.id, one.model, one.max_requests_per_1_minute) for one in limits] == [
        ("rl-chatty", "chatty", MAX_SAFE_INTEGER),
        ("rl-vectors", "vectors", MAX_SAFE_INTEGER),
    ]
    body = {"max_requests_per_1_minute": 3, "allod": {"concurrent": 2}}
    await office.post(project_shapes.ProjectRateLimit, f"{path}/rl-chatty", body)
    changed = await office.post(project_shapes.ProjectRateLimit, f"{path}/rl-chatty", {"max_tokens_per_1_minute": 1000})
    assert (changed.max_requests_per_1_minute, changed.max_tokens_per_1_minute) == (3, 1000)
    quota = office.store.tenant(project).model_quotas
    assert [(name, one.requests_per_minute, one.concurrent) for name, one in quota.items()] == [("chatty", 3, 2)]
    lifted = {name: MAX_SAFE_INTEGER for name in ("max_requests_per_1_minute", "max_tokens_per_1_minute")}
    body = {**lifted, "allod": {"concurrent": None}}
    await office.post(project_shapes.ProjectRateLimit, f"{path}/rl-chatty", body)
    assert office.store.tenant(project).model_quotas == {}


async def test_a_spend_limit_is_a_monthly_budget(office: Office) -> None:
    """In cents, beside what else the month's budget limits; it says when it is reached."""
    project = await office.project(allod={"budgets": {"month": {"tokens": 9}}})
    path = f"projects/{project}/spend_limit"
    assert (await office.ask("GET", path))[0] == 404
    body = {"currency": "GBP", "interval": "month", "threshold_amount": 250}
    made = await office.post(project_shapes.ProjectSpendLimit, path, body)
    assert (made.threshold_amount, made.currency, made.enforcement.status) == (250, "GBP", "inactive")
    assert (await office.terms(project))["budgets"]["month"]["micros"] == 2_500_000
    last_month = NOW_MS - 10 * DAY_S * 1000
    office.charge(charge(tenant_id=project, micros=2_499_999), charge(tenant_id=project, micros=9, start_ms=last_month))
    assert (await office.get(project_shapes.ProjectSpendLimit, path)).enforcement.status == "inactive"
    office.charge(charge(tenant_id=project, micros=1))
    assert (await office.get(project_shapes.ProjectSpendLimit, path)).enforcement.status == "enforcing"
    await office.delete(project_shapes.ProjectSpendLimitDeleted, path)
    assert (await office.terms(project))["budgets"]["month"] == {
        "tokens": 9,
        "engine_ms": None,
        "millijoules": None,
        "micros": None,
    }
    assert (await office.ask("DELETE", path))[0] == 404


async def test_the_organizations_spend_limit(office: Office) -> None:
    """Over all projects together."""
    assert (await office.ask("GET", "spend_limit"))[0] == 404
    body = {"currency": "GBP", "interval": "month", "threshold_amount": 1}
    made = await office.post(shapes.OrganizationSpendLimit, "spend_limit", body)
    assert made.enforcement.status == "inactive"
    office.charge(charge(micros=6000), charge(tenant_id="other", micros=4000))
    assert (await office.get(shapes.OrganizationSpendLimit, "spend_limit")).enforcement.status == "enforcing"
    await office.delete(shapes.OrganizationSpendLimitDeleted, "spend_limit")
    assert (await office.ask("GET", "spend_limit"))[0] == 404


async def test_model_permissions_are_a_scope(office: Office) -> None:
    """A list of what is allowed; none is shown as a list that denies nothing. What else the scope says stays."""
    project = await office.project(allod={"scope": {"clearance": "OPEN"}})
    path, shape = f"projects/{project}/model_permissions", project_shapes.ProjectModelPermissions
    none = await office.get(shape, path)
    assert (none.mode, none.api_model_ids) == ("deny_list", [])
    made = await office.post(shape, path, {"mode": "allow_list", "model_ids": ["chatty"]})
    assert (made.mode, made.api_model_ids) == ("allow_list", ["chatty"])
    assert (await office.terms(project))["scope"] == {"models": ["chatty"], "clearance": "OPEN", "purposes": None}
    await office.delete(project_shapes.ProjectModelPermissionsDeleted, path)
    assert await office.get(shape, path) == none


async def test_retention_is_what_it_is(office: Office) -> None:
    """Nothing is kept; it can be told so, and nothing else."""
    body = {"retention_type": "zero_data_retention"}
    assert (await office.post(shapes.OrganizationDataRetention, "data_retention", body)).type == body["retention_type"]
    path = "projects/local/data_retention"
    assert (await office.get(project_shapes.ProjectDataRetention, path)).type == "zero_data_retention"
    await office.post(project_shapes.ProjectDataRetention, path, {"retention_type": "organization_default"})
    assert (await office.get(project_shapes.ProjectDataRetention, path)).type == "organization_default"
    for where in ("data_retention", path):
        status, error = await office.ask("POST", where, {"retention_type": "modified_abuse_monitoring"})
        assert (status, error["param"]) == (400, "retention_type")


async def test_there_are_no_users(office: Office) -> None:
    """Neither here nor in a project, and that is said in the published shape."""
    for path in ("users", "projects/local/users"):
        assert (await office.page(path))["data"] == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("projects", {"name": "n", "colour": "red"}, "colour"),
        ("projects", {}, None),
        ("projects", {"name": "n", "residency": "GB_STORAGE"}, "residency"),
        ("projects", {"name": "n", "geography": "EU"}, "geography"),
        ("projects/local", {"external_key_id": "x"}, "external_key_id"),
        ("projects/local/archive", {"now": True}, "now"),
        ("projects/local/service_accounts", {"name": "n", "role": "owner"}, "role"),
        ("projects/local/service_accounts", {"name": "n", "expires_in_seconds": 0}, "expires_in_seconds"),
        ("projects/local/service_accounts", {"name": "n", "expires_in_seconds": 2**53}, "expires_in_seconds"),
        (
            "projects/local/service_accounts",
            {"name": "n", "create_service_account_only": True, "expires_in_seconds": 9},
            "create_service_account_only",
        ),
        ("projects/local/service_accounts/{account}", {"role": "owner"}, "role"),
        ("projects/local/service_accounts/{account}/api_keys", {"scopes": ["api.all"]}, "scopes"),
        ("projects/local/api_keys/{key}", {"scopes": []}, "scopes"),
        ("projects/local/api_keys/{key}", {"name": "n"}, "name"),
        ("projects/local/rate_limits/rl-chatty", {"max_requests_per_1_minute": 0}, "max_requests_per_1_minute"),
        ("projects/local/rate_limits/rl-chatty", {"max_tokens_per_1_minute": 2**53}, "max_tokens_per_1_minute"),
        ("projects/local/rate_limits/rl-chatty", {"max_requests_per_1_day": 5}, "max_requests_per_1_day"),
        ("projects/local/rate_limits/rl-chatty", {"max_images_per_1_minute": 5}, "max_images_per_1_minute"),
        (
            "projects/local/spend_limit",
            {"currency": "USD", "interval": "month", "threshold_amount": 1},
            "currency",
        ),
        ("spend_limit", {"currency": "GBP", "interval": "day", "threshold_amount": 1}, "interval"),
        ("spend_limit", {"currency": "GBP", "interval": "month", "threshold_amount": 0}, "threshold_amount"),
        ("spend_limit", {"currency": "GBP", "interval": "month", "threshold_amount": 2**52}, "threshold_amount"),
        ("projects/local/model_permissions", {"mode": "deny_list", "model_ids": ["chatty"]}, "mode"),
        ("projects/local/model_permissions", {"mode": "allow_list", "model_ids": [""]}, "model_ids[0]"),
        ("admin_api_keys", {"name": "n", "scopes": []}, "scopes"),
        ("admin_api_keys", b"{", None),
        ("admin_api_keys", b"\xff", None),
        ("admin_api_keys", b'{"name":"\\ud800"}', None),
        ("admin_api_keys", b"[" * 100_000, None),
        ("admin_api_keys", b"[]", None),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_body_that_cannot_be_meant_is_refused(
    office: Office, path: str, body: object, param: str | None
) -> None:
    """400 with its place, and nothing is changed by it."""
    account = await office.account("local")
    before = list(office.store._events)
    path = path.format(account=account.id, key=account.api_key.id)
    status, error = await office.ask("POST", path, body)
    assert (status, error["param"]) == (400, param), error
    assert list(office.store._events) == before


@pytest.mark.parametrize("shape", ['{"name":"n",%s}', '{"name":"n","allod":{%s}}'], ids=["above", "within"])
async def test_a_long_key_is_not_said_back(office: Office, shape: str) -> None:
    """An unknown one, or one that is repeated: its ends are."""
    key = f'"{"k" * 400_000}"'
    for wrong in (f"{key}:1", f"{key}:1,{key}:2"):
        status, error = await office.ask("POST", "projects", (shape % wrong).encode())
        assert (status, r"kkk \u2026 kkk" in error["param"]) == (400, True)
        assert len(json.dumps(error)) < 1024


async def test_a_body_has_a_bound(office: Office) -> None:
    """An administrator's mistake does not fill the memory either."""
    status, error = await office.ask("POST", "projects", b" " * (2 << 20))
    assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("projects", {"limit": 0}, "limit"),
        ("projects", {"limit": 101}, "limit"),
        ("projects", {"limit": "1e9"}, "limit"),
        ("projects", {"limit": "9" * 5000}, "limit"),
        ("projects", {"limit": "٣"}, "limit"),
        ("projects", {"limit": [1, 2]}, "limit"),
        ("projects", {"after": "proj_none"}, "after"),
        ("projects", {"before": "local"}, "before"),
        ("projects", {"include_archived": "yes"}, "include_archived"),
        ("projects/local/service_accounts", {"after": "local"}, "after"),
        ("projects/local/api_keys", {"after": FIRST_KEY.id}, "after"),
        ("projects/local/rate_limits", {"after": "rl-none"}, "after"),
        ("projects/local/rate_limits", {"after": "rl-chatty", "before": "rl-chatty"}, "before"),
        ("admin_api_keys", {"after": "key_none"}, "after"),
        ("admin_api_keys", {"order": "up"}, "order"),
        ("users", {"after": "user_none"}, "after"),
        ("audit_logs", {"after": "audit_log-none"}, "after"),
        ("audit_logs", {"before": "audit_log-none"}, "before"),
        ("audit_logs", {"after": "e-admin", "before": "e-local"}, "before"),
        ("audit_logs", {"event_type": "project.created"}, "event_type"),
        ("audit_logs", {"effective_at[gte]": -1}, "effective_at[gte]"),
        ("audit_logs", {"effective_at[gte]": 10**15}, "effective_at[gte]"),
        ("audit_logs", {"effective_at[eq]": 1}, "effective_at[eq]"),
        ("audit_logs", {"project_ids": ["x"] * 1001}, None),
        ("usage/completions", {}, "start_time"),
        ("usage/completions", {"start_time": "yesterday"}, "start_time"),
        ("usage/completions", {"start_time": NOW_MS}, "start_time"),
        ("usage/completions", {"start_time": 10, "end_time": 10}, "end_time"),
        ("usage/completions", {"start_time": DAY, "bucket_width": "1s"}, "bucket_width"),
        ("usage/completions", {"start_time": DAY, "limit": 32}, "limit"),
        ("usage/completions", {"start_time": DAY, "bucket_width": "1m", "limit": 1441}, "limit"),
        ("usage/completions", {"start_time": DAY, "group_by": ["user_id"]}, "group_by"),
        ("usage/completions", {"start_time": DAY, "user_ids": ["user_1"]}, "user_ids"),
        ("usage/completions", {"start_time": DAY, "batch": "true"}, "batch"),
        ("usage/completions", {"start_time": DAY, "page": "1"}, "page"),
        ("usage/completions", {"start_time": DAY, "page": DAY + 7 * DAY_S}, "page"),
        ("usage/completions", {"start_time": DAY, "projects": "x"}, "projects"),
        ("costs", {"start_time": DAY, "bucket_width": "1h"}, "bucket_width"),
        ("costs", {"start_time": DAY, "group_by": ["model"]}, "group_by"),
        ("costs", {"start_time": DAY, "limit": 181}, "limit"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_query_that_cannot_be_meant_is_refused(
    office: Office, path: str, query: dict[str, Any], param: str | None
) -> None:
    """400 by name: a filter that were dropped would answer with everything."""
    status, error = await office.ask("GET", path, **query)
    assert (status, error["param"]) == (400, param), error


@pytest.mark.parametrize(
    "path",
    ["", "groups", "invites", "certificates", "roles", "usage/images", "projects/", "projects/local/", "projects//",
     "projects/local/spend_alerts", "projects/local/certificates", "projects/{}", "users/user_1", "../models"],
)  # fmt: skip
async def test_what_is_not_served_is_not_found(office: Office, path: str) -> None:
    """404, not an empty answer that looks like one."""
    status, error = await office.ask("GET", path)
    assert (status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "projects/local"), ("PUT", "projects/local"), ("POST", "users"), ("POST", "audit_logs")],
)
async def test_a_method_that_is_not_served_is_not_allowed(office: Office, method: str, path: str) -> None:
    """405: the path is not said to be missing."""
    status, error = await office.ask(method, path, {})
    assert (status, error["code"]) == (405, "method_not_allowed")


# Lists


async def test_every_list_is_read_to_its_end_page_by_page(office: Office) -> None:
    """Following `after` as clients do, everything once and in one order."""
    for _ in range(4):
        account = await office.account(await office.project())
        await office.account("local")
        await office.post(shapes.AdminAPIKeyCreateResponse, "admin_api_keys", {"name": "n"})
    deleted = (await office.account("local")).api_key.id
    await office.delete(project_shapes.APIKeyDeleteResponse, f"projects/local/api_keys/{deleted}")
    assert account.object == "organization.project.service_account"
    for path, num in [
        ("projects", 5),
        ("projects/local/service_accounts", 5),
        ("projects/local/api_keys", 4),
        ("projects/local/rate_limits", 2),
        ("admin_api_keys", 5),
        ("audit_logs", len(office.store._events)),
    ]:
        whole = [entry["id"] for entry in (await office.page(path, limit=100))["data"]]
        assert len(whole) == len(set(whole)) == num, path
        for limit in (1, 2, 3):
            pages = [page async for page in office.pages(path, limit=limit)]
            assert [name for page in pages for name in page] == whole
            assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_a_list_is_read_backwards(office: Office, limit: int) -> None:
    """`before` gives the page that comes just before, in the same order; and says whether there is more."""
    for _ in range(5):
        await office.project()
    whole = [entry["id"] for entry in (await office.page("audit_logs", limit=100))["data"]]
    for index, cursor in enumerate(whole):
        page = await office.page("audit_logs", limit=limit, before=cursor)
        assert [entry["id"] for entry in page["data"]] == whole[max(0, index - limit) : index]
        assert page["has_more"] == (index > limit)
    tenant = replace(local_tenant(NOW_MS), model_quotas={"gone": Quota(concurrent=1)})
    office.store.put_tenant(tenant, AuditEvent("e", NOW_MS, "project.updated", "start", "local"))
    page = await office.page("projects/local/rate_limits", limit=limit, before="rl-vectors")
    assert [entry["id"] for entry in page["data"]] == ["rl-chatty", "rl-gone"][-limit:]
    assert page["has_more"] == (limit == 1)


# The audit log


async def test_whatever_is_changed_is_in_the_audit_log(office: Office) -> None:
    """Newest first, in the published shapes: who, when, what, in which project."""
    project = await office.project()
    account = await office.account(project)
    at = f"projects/{project}"
    await office.ask("POST", f"{at}/rate_limits/rl-chatty", {"max_requests_per_1_minute": 4})
    await office.ask("POST", f"{at}/spend_limit", {"currency": "GBP", "interval": "month", "threshold_amount": 5})
    await office.ask("POST", f"{at}/api_keys/{account.api_key.id}", {"expires_in_seconds": 9})
    await office.ask("DELETE", f"{at}/api_keys/{account.api_key.id}")
    await office.ask("POST", f"{at}/service_accounts/{account.id}", {"name": "x"})
    await office.ask("DELETE", f"{at}/service_accounts/{account.id}")
    await office.ask("POST", f"{at}/archive")
    await office.ask("POST", "spend_limit", {"currency": "GBP", "interval": "month", "threshold_amount": 5})
    events = await office.listed(shapes.AuditLogListResponse, "audit_logs")
    assert [event.type for event in reversed(events)][2:] == [
        "project.created",
        "service_account.created",
        "api_key.created",
        "rate_limit.updated",
        "project.updated",
        "api_key.updated",
        "api_key.deleted",
        "service_account.updated",
        "service_account.deleted",
        "project.archived",
        "organization.updated",
    ]
    assert {event.actor.api_key.id for event in events[:-2]} == {FIRST_KEY.id}
    assert {event.actor.session.user.id for event in events[-2:]} == {"start"}
    assert {event.project.id for event in events[1:-2]} == {project}
    created, _, _, limited, spending = list(reversed(events))[2:7]
    assert (created.project_created.id, created.project_created.data.name) == (project, "Library")
    assert limited.rate_limit_updated.changes_requested.max_requests_per_1_minute == 4
    assert spending.project_updated.changes_requested.allod == {"budgets": {"month": {"micros": 50_000}}}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"event_types[]": ["project.created"]}, [2, 1, 0]),
        ({"event_types": ["project.created", "api_key.created"]}, [4, 2, 1, 0]),
        ({"project_ids[]": ["b"]}, [3, 2]),
        ({"actor_ids[]": ["key_2"]}, [3, 1]),
        ({"actor_ids[]": ["key_2"], "event_types[]": ["project.updated"]}, [3]),
        ({"resource_ids[]": ["b"]}, [3, 2]),
        ({"actor_emails[]": ["someone@example.org"]}, []),
        ({"tenant_only": "true"}, []),
        ({"effective_at[gte]": 12, "effective_at[lt]": 14}, [3, 2]),
        ({"effective_at[gt]": 12, "effective_at[lte]": 14}, [4, 3]),
        ({"actor_ids": ["key_2"], "limit": 1}, [3]),
        ({"actor_ids": ["key_2"], "limit": 1, "after": "e3"}, [1]),
        ({"actor_ids": ["key_2"], "limit": 1, "before": "e1"}, [3]),
        ({"actor_ids": ["key_2"], "limit": 1, "before": "e0"}, [1]),
        ({"actor_ids": ["key_1", "key_2"], "limit": 1, "before": "e0"}, [1]),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("batch", [1, 1000])
async def test_filters_of_the_audit_log(
    monkeypatch: pytest.MonkeyPatch, query: dict[str, Any], wanted: list[int], batch: int
) -> None:
    """Each filter by itself and together, however the store's answer is cut; times are whole seconds."""
    monkeypatch.setattr("allod.web.admin.audit._BATCH", batch)
    store = MemoryStore()
    store.put_key(FIRST_KEY, AuditEvent("e-first", 1000, "login.succeeded", "start"))
    rows = [("a", 1, "project.created"), ("c", 2, "project.created"), ("b", 1, "project.created")]
    for number, (project, actor, kind) in enumerate([*rows, ("b", 2, "project.updated"), (None, 1, "api_key.created")]):
        at_ms = (10 + number) * 1000 + 999
        details = {"id": project or "k"}
        event = AuditEvent(f"e{number}", at_ms, kind, f"key_{actor}", project, details)
        store.put_setting("x", "y", event)
    office = Office(store)
    found = await office.listed(shapes.AuditLogListResponse, "audit_logs", **query)
    assert [event.id for event in found] == [f"e{number}" for number in wanted]


# Usage and costs


async def test_usage_is_counted_by_what_it_is_grouped_by(office: Office) -> None:
    """Periods without use are there and empty; embeddings and answers are told apart by their model."""
    office.charge(
        charge(prompt_tokens=10, completion_tokens=5, cached_tokens=3, key_id="k1"),
        charge(prompt_tokens=1, completion_tokens=1, tenant_id="p", key_id="k2"),
        charge(decision="forbid", tenant_id="p", key_id="k2"),
        charge(prompt_tokens=100, model="vectors", key_id="k1"),
        charge(prompt_tokens=7, start_ms=NOW_MS - DAY_S * 1000, key_id="k1"),
    )
    start = DAY - 2 * DAY_S
    usage = await read_usage(office, "usage/completions", start_time=start, **{"group_by[]": ["project_id", "model"]})
    assert [(one.start_time, len(one.results)) for one in usage] == [(start, 0), (DAY - DAY_S, 1), (DAY, 2)]
    ours, theirs = usage[2].results
    assert (ours.project_id, ours.model, ours.api_key_id) == ("local", "chatty", None)
    assert (ours.input_tokens, ours.output_tokens, ours.input_cached_tokens, ours.num_model_requests) == (10, 5, 3, 1)
    assert (theirs.project_id, theirs.num_model_requests, theirs.allod["refused"]) == ("p", 1, 1)
    [embedded] = (await read_usage(office, "usage/embeddings", start_time=DAY))[0].results
    assert (embedded.input_tokens, embedded.project_id) == (100, None)
    of_key = await read_usage(office, "usage/completions", start_time=start, **{"api_key_ids[]": ["k1"]})
    assert [sum(one.input_tokens for one in period.results) for period in of_key] == [0, 7, 10]


async def test_the_minute_that_is_asked_for_is_counted_whole(office: Office) -> None:
    """Who asks for usage since the second before a request sees it; and up to now is up to now."""
    office.now_ms = NOW_MS + 30_000
    office.charge(charge(prompt_tokens=4, start_ms=office.now_ms))
    [period] = await read_usage(office, "usage/completions", start_time=office.now_ms // 1000)
    assert (period.end_time - period.start_time) % 60 == 0
    assert [one.input_tokens for one in period.results] == [4]


async def test_costs_are_in_the_realms_money(office: Office) -> None:
    """By days; a line item is a model, its quantity tokens."""
    office.charge(
        charge(micros=1_250_000, prompt_tokens=3, completion_tokens=4),
        charge(micros=1, model="vectors", prompt_tokens=9),
    )
    [whole] = (await read_usage(office, "costs", start_time=DAY))[0].results
    assert (whole.amount.currency, whole.amount.value, whole.line_item) == ("gbp", 1.250001, None)
    items = (await read_usage(office, "costs", start_time=DAY, group_by=["line_item"]))[0].results
    assert [(one.line_item, one.quantity, one.quantity_unit, one.amount.value) for one in items] == [
        ("chatty", 7, "tokens", 1.25),
        ("vectors", 9, "tokens", 0.000001),
    ]
    [chatty] = (await read_usage(office, "costs", start_time=DAY, line_items=["chatty"]))[0].results
    assert chatty.amount.value == 1.25


async def test_energy_that_was_not_metered_is_not_claimed(office: Office) -> None:
    """Null as soon as one answer lacks its figure."""
    office.charge(charge(millijoules=5))
    [one] = (await read_usage(office, "usage/completions", start_time=DAY))[0].results
    assert one.allod["millijoules"] == 5
    office.charge(charge(millijoules=None))
    [one] = (await read_usage(office, "usage/completions", start_time=DAY))[0].results
    assert one.allod["millijoules"] is None


charges = st.lists(
    st.builds(
        charge,
        tenant_id=st.sampled_from(["local", "p", ""]),
        key_id=st.sampled_from(["k1", "k2"]),
        model=st.sampled_from(["chatty", "vectors", "gone"]),
        start_ms=st.integers(NOW_MS - 3 * DAY_S * 1000, NOW_MS),
        decision=st.sampled_from(["permit", "forbid"]),
        prompt_tokens=st.integers(0, 1000),
        completion_tokens=st.integers(0, 1000),
        micros=st.integers(0, 1000),
    ),
    max_size=30,
)
GROUPS = ["project_id", "api_key_id", "model"]


@settings(max_examples=60)
@given(
    charges,
    st.sampled_from(["1m", "1h", "1d"]),
    st.sets(st.sampled_from(GROUPS)),
    st.integers(1, 31),
    st.integers(0, DAY_S),
)
def test_pages_of_usage_add_up_to_the_ledger(
    made: list[Charge], width: str, groups: set[str], limit: int, shift_s: int
) -> None:
    """To the token, whatever the width, the groups, the page and the second at which the asked time begins."""
    office = new_office()
    office.charge(*made)
    start = NOW_MS // 1000 - 3 * DAY_S - shift_s if width != "1m" else NOW_MS // 1000 - shift_s // 8

    async def whole() -> Iterator[Any]:
        query = {"start_time": start, "bucket_width": width, "limit": limit * (40 if width == "1m" else 1)}
        parts = [
            await read_usage(office, f"usage/{kind}", **query, group_by=sorted(groups))
            for kind in ("completions", "embeddings")
        ]
        for periods in parts:
            assert all(one.end_time == other.start_time for one, other in pairwise(periods))
        return (one for periods in parts for period in periods for one in period.results)

    totals = sum((Totals.of(one) for one in made if one.start_ms // 60_000 >= start // 60), Totals())
    results = list(asyncio.run(whole()))
    assert sum(one.input_tokens for one in results) == totals.prompt_tokens
    assert sum(one.num_model_requests for one in results) == totals.requests
    chats = [one for one in results if one.object == "organization.usage.completions.result"]
    chatted = [one for one in made if one.model != "vectors" and one.start_ms // 60_000 >= start // 60]
    assert sum(one.output_tokens for one in chats) == sum(one.completion_tokens for one in chatted)
    assert sum(one.allod["micros"] for one in chats) == sum(one.micros for one in chatted)


async def read_usage(office: Office, path: str, **query: Any) -> list[Any]:
    """Every period, over all pages."""
    shape = {
        "usage/completions": shapes.UsageCompletionsResponse,
        "usage/embeddings": shapes.UsageEmbeddingsResponse,
        "costs": shapes.UsageCostsResponse,
    }[path]
    periods: list[Any] = []
    while True:
        status, body = await office.ask("GET", path, **query)
        assert body["object"] == "page"
        page = read(shape, (status, body))
        periods += page.data
        assert page.has_more == (page.next_page is not None)
        if not page.has_more:
            return periods
        query["page"] = page.next_page


async def test_news_are_taken_up_by_one_thread_at_a_time() -> None:
    """However many ask: threads are what others wait for. A body says nothing here, and is refused."""
    inside, most = 0, 0
    counting = threading.Lock()

    def take_up_news() -> None:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        time.sleep(0.002)
        with counting:
            inside -= 1

    admin = Admin(realm_over(MemoryStore(), take_up_news=take_up_news))
    answered: list[int] = []

    def call(body: bytes) -> Call:
        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            answered.extend([message["status"]] if "status" in message else [])

        return Call("0", "POST", "/v1/governance/news", b"", {}, receive, send, NOW_MS)

    await asyncio.gather(*(admin.news(call(b"")) for _ in range(50)))
    assert (most, answered) == (1, [200] * 50)
    with pytest.raises(Invalid) as refused:
        await admin.news(call(b"{}"))
    assert refused.value.code == "body_too_large"


async def test_while_the_clock_is_wrong_nothing_is_changed_but_what_ends() -> None:
    """A change would be dated by it; a key that is revoked has ended, whenever that was. Reading goes on."""
    office = new_office()
    project = await office.project()
    status, account = await office.ask("POST", f"projects/{project}/service_accounts", {"name": "desk"})
    assert status == 200

    def wrong() -> None:
        raise Unavailable("the clock says 1960", code="clock_wrong", retry_after_s=2)

    office.check_clock = wrong
    held = set()
    for method, path in office.routes:
        status, told = await office.ask(method, path.replace("{}", "none"), {} if method == "POST" else None)
        if (status, told.get("code")) == (503, "clock_wrong"):
            held.add((method, path))
    assert held == {route for route in office.routes if route[0] != "GET"} - ENDINGS
    key = account["api_key"]["id"]
    assert (await office.ask("DELETE", f"projects/{project}/api_keys/{key}"))[0] == 200
    assert office.store.key(key).revoked_ms is not None
    assert (await office.ask("POST", f"projects/{project}/archive"))[0] == 200
    assert len([event for event in office.store.events(limit=100) if event.kind == "api_key.deleted"]) == 1
