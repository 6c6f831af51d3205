"""`projects/{id}/rate_limits` and `model_permissions`: how fast a tenant may go, per model, and with which models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from allod.app.administration.limits import ID_PREFIX, NAME_OF, NO_LIMIT, describe_rate_limit
from allod.app.administration.tenants import find_active, put_changed
from allod.app.administration.terms import change_model_quota
from allod.core.errors import Invalid
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import Tenant
from allod.web.admin import bodies
from allod.web.admin.listing import page_of_all
from allod.web.admin.query import MAX_LIMIT
from allod.web.admin.request import AdminRequest, Json, refusal


class RateLimits:
    """Handlers of a project's limits: one for each model that is served, or was when its limit was set."""

    def __init__(self, store: TenantStore, models: Sequence[str]) -> None:
        self._store = store
        self._models = models

    def list_page(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET projects/{id}/rate_limits`, by the models' names."""
        query = asked.search("after", "before", "limit")
        tenant = self._store.tenant(project_id)
        limits = [describe_rate_limit(tenant, model) for model in sorted({*self._models, *tenant.model_quotas})]
        return page_of_all(limits, query, limit=query.limit(usual=MAX_LIMIT))

    def update(self, asked: AdminRequest, project_id: str, limit_id: str) -> Json:
        """`POST projects/{id}/rate_limits/{id}`."""
        body = asked.read(bodies.RateLimitUpdate)
        changes = bodies.fields_of(body)
        for param in changes.keys() - {*NAME_OF, "allod"}:
            raise refusal(param, "requests and tokens per minute can be limited, and budgets per day and month")
        tenant = find_active(self._store, project_id)
        model = limit_id.removeprefix(ID_PREFIX)
        if not limit_id.startswith(ID_PREFIX) or model not in (*self._models, *tenant.model_quotas):
            raise Invalid("there is no such rate limit; each model has one", code="not_found")
        limits = {name: _limit(changes[field]) for field, name in NAME_OF.items() if field in changes}
        quotas = change_model_quota(tenant.model_quotas, model, {**limits, **changes.get("allod", {})})
        tenant = replace(tenant, model_quotas=quotas)
        event = asked.officer.event("rate_limit.updated", tenant.id, id=limit_id, changes_requested=changes)
        self._store.put_tenant(tenant, event)
        return describe_rate_limit(tenant, model)


class ModelPermissions:
    """Handlers of what a project may use. Only lists of what is permitted: a list of what is denied permits whatever
    comes later. No list at all is shown as one that denies nothing."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def retrieve(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET projects/{id}/model_permissions`."""
        return _permissions(self._store.tenant(project_id))

    def update(self, asked: AdminRequest, project_id: str) -> Json:
        """`POST projects/{id}/model_permissions`."""
        body = asked.read(bodies.ModelPermissionsUpdate)
        if body.mode == "deny_list" and body.model_ids:
            raise refusal("mode", "list what is allowed: models that come later would be allowed unseen")
        return _permissions(self._put(asked, project_id, None if body.mode == "deny_list" else body.model_ids))

    def delete(self, asked: AdminRequest, project_id: str) -> Json:
        """`DELETE projects/{id}/model_permissions`: every model again."""
        self._put(asked, project_id, None)
        return {"object": "project.model_permissions.deleted", "deleted": True}

    def _put(self, asked: AdminRequest, project_id: str, models: list[str] | None) -> Tenant:
        tenant = find_active(self._store, project_id)
        scope = replace(tenant.scope, models=None if models is None else frozenset(models))
        tenant = replace(tenant, scope=scope)
        put_changed(self._store, asked.officer, tenant, {"allod": {"scope": {"models": models}}})
        return tenant


def _limit(asked: int) -> int | None:
    return None if asked == NO_LIMIT else asked


def _permissions(tenant: Tenant) -> Json:
    models = tenant.scope.models
    return {
        "object": "project.model_permissions",
        "mode": "deny_list" if models is None else "allow_list",
        "model_ids": sorted(models or ()),
    }
