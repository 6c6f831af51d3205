"""The routes of `/v1/organization/...`: which handler answers which method of which path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from allod.app.gateway.realm import Realm
from allod.core.errors import Denied, Invalid
from allod.web.admin.accounts import Accounts
from allod.web.admin.audit import Audit
from allod.web.admin.keys import AdminKeys, ProjectKeys
from allod.web.admin.limits import ModelPermissions, RateLimits
from allod.web.admin.listing import page
from allod.web.admin.projects import Projects
from allod.web.admin.request import AdminRequest, Json
from allod.web.admin.retention import Retention
from allod.web.admin.spending import Spending
from allod.web.admin.usage import UsageReports
from allod.web.http.asgi import Call, Handler, method_not_allowed
from allod.web.http.exchange import NOT_KEPT

PREFIX = "/v1/organization/"
METHODS = ("GET", "POST", "DELETE")
BODY_LIMIT_BYTES = 1 << 20
Action = Callable[..., Json]  # of what is asked, and of each id in the path
Actions = dict[tuple[str, str], Action]  # by method and path below the prefix; {} stands for an id

# What ends something goes on while the clock is wrong: it has ended, whenever that was.
ENDINGS = frozenset(
    {
        ("DELETE", "admin_api_keys/{}"),
        ("DELETE", "projects/{}/api_keys/{}"),
        ("DELETE", "projects/{}/service_accounts/{}"),
        ("POST", "projects/{}/archive"),
    }
)


class Admin:
    """OpenAI's administration interface over one realm.

    An action is a plain function, run in a thread; those that change something take turns, so that what one of them
    read is still so when it writes.
    """

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._changing = asyncio.Lock()
        self._taking_up = asyncio.Lock()
        store, nation, router = realm.store, realm.gateway.controls.nation, realm.gateway.router
        currency = realm.settings.prices.currency
        embedding_models = [name for name in router.models if not router.route(name).engine.info.can_chat]
        usage = UsageReports(store, embedding_models=embedding_models, currency=currency)
        self._actions: Actions = {
            **_of_the_organization(AdminKeys(store), Audit(store), usage),
            **_of_projects(Projects(store, nation), Accounts(store, nation), ProjectKeys(store, nation)),
            **_of_what_a_project_may(RateLimits(store, list(router.models)), ModelPermissions(store)),
            **_of_both(Retention(store), Spending(store, currency)),
            ("GET", "users"): _nobody,
            ("GET", "projects/{}/users"): self._nobody_of,
        }

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Every path under the prefix; for what is nowhere else there are the last."""
        return {
            **{
                (method, PREFIX + path): partial(self._answer, action, (method, path) in ENDINGS)
                for (method, path), action in self._actions.items()
            },
            **{(method, PREFIX + "{*}"): self._refuse for method in METHODS},
        }

    async def _answer(self, action: Action, is_ending: bool, call: Call, *ids: str) -> None:
        """Raises Denied for a key that is not an admin's. `is_ending`: the action only ends something."""
        if call.administrator is None:
            raise Denied("an admin key is needed here", code="wrong_kind_of_key")
        if not call.path.isprintable():  # no id holds what not every database can
            raise _no_such_part()
        body = await call.read_body(limit_bytes=BODY_LIMIT_BYTES)
        asked = AdminRequest(call.administrator.id, call.start_ms, call.query, body)
        if call.method == "GET":
            made = await asyncio.to_thread(action, asked, *ids)
        else:
            if not is_ending:
                self._realm.check_clock()
            async with self._changing:
                made = await asyncio.to_thread(self._change, action, asked, *ids)
        await call.respond(200, msgspec.json.encode(made), NOT_KEPT)

    async def news(self, call: Call) -> None:
        """`POST /v1/governance/news`: return once what others wrote to the store is in force in this gateway.

        One at a time in a thread: however many ask, no thread that others wait for is taken by a second.
        """
        await call.read_body(limit_bytes=0)
        async with self._taking_up:
            await asyncio.to_thread(self._realm.take_up_news)
        await call.respond(200, b"{}", NOT_KEPT)

    async def _refuse(self, call: Call, path: str) -> None:
        """What another method is for, and what there is not: to an administrator alone it is told which."""
        if path.isprintable() and call.method not in call.methods:
            raise method_not_allowed(call)
        raise _no_such_part()

    def _change(self, action: Action, *arguments: Any) -> Json:
        """A change has returned only when it is in force here: its key opens, what it ended is ended."""
        made = action(*arguments)
        self._realm.take_up_news()
        return made

    def _nobody_of(self, asked: AdminRequest, project_id: str) -> Json:
        self._realm.store.tenant(project_id)
        return _nobody(asked)


def _no_such_part() -> Invalid:
    return Invalid(
        "this part of the administration interface is not served here",
        code="not_found",
        hint="there are projects and all of theirs, admin_api_keys, usage, costs, spend_limit, audit_logs",
    )


def _of_the_organization(keys: AdminKeys, audit: Audit, usage: UsageReports) -> Actions:
    return {
        ("GET", "admin_api_keys"): keys.list_page,
        ("POST", "admin_api_keys"): keys.create,
        ("GET", "admin_api_keys/{}"): keys.retrieve,
        ("DELETE", "admin_api_keys/{}"): keys.delete,
        ("GET", "audit_logs"): audit.list_page,
        ("GET", "costs"): usage.costs,
        ("GET", "usage/completions"): usage.completions,
        ("GET", "usage/embeddings"): usage.embeddings,
    }


def _of_projects(projects: Projects, accounts: Accounts, keys: ProjectKeys) -> Actions:
    return {
        ("GET", "projects"): projects.list_page,
        ("POST", "projects"): projects.create,
        ("GET", "projects/{}"): projects.retrieve,
        ("POST", "projects/{}"): projects.update,
        ("POST", "projects/{}/archive"): projects.archive,
        ("GET", "projects/{}/service_accounts"): accounts.list_page,
        ("POST", "projects/{}/service_accounts"): accounts.create,
        ("GET", "projects/{}/service_accounts/{}"): accounts.retrieve,
        ("POST", "projects/{}/service_accounts/{}"): accounts.update,
        ("DELETE", "projects/{}/service_accounts/{}"): accounts.delete,
        ("POST", "projects/{}/service_accounts/{}/api_keys"): accounts.create_key,
        ("GET", "projects/{}/api_keys"): keys.list_page,
        ("GET", "projects/{}/api_keys/{}"): keys.retrieve,
        ("POST", "projects/{}/api_keys/{}"): keys.update,
        ("DELETE", "projects/{}/api_keys/{}"): keys.delete,
    }


def _of_what_a_project_may(limits: RateLimits, models: ModelPermissions) -> Actions:
    return {
        ("GET", "projects/{}/rate_limits"): limits.list_page,
        ("POST", "projects/{}/rate_limits/{}"): limits.update,
        ("GET", "projects/{}/model_permissions"): models.retrieve,
        ("POST", "projects/{}/model_permissions"): models.update,
        ("DELETE", "projects/{}/model_permissions"): models.delete,
    }


def _of_both(retention: Retention, spending: Spending) -> Actions:
    return {
        ("GET", "data_retention"): retention.organization,
        ("POST", "data_retention"): retention.update_organization,
        ("GET", "projects/{}/data_retention"): retention.project,
        ("POST", "projects/{}/data_retention"): retention.update_project,
        ("GET", "spend_limit"): spending.organization,
        ("POST", "spend_limit"): spending.update_organization,
        ("DELETE", "spend_limit"): spending.delete_organization,
        ("GET", "projects/{}/spend_limit"): spending.project,
        ("POST", "projects/{}/spend_limit"): spending.update_project,
        ("DELETE", "projects/{}/spend_limit"): spending.delete_project,
    }


def _nobody(asked: AdminRequest) -> Json:
    """`GET users`: people have no accounts here; keys and service accounts do."""
    query = asked.search("after", "limit", lists=("emails",))
    if query.text("after") is not None:
        raise Invalid("after names nothing in this list", code="unknown_cursor", param="after")
    return page([], query.limit())
