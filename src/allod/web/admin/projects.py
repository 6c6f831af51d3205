"""`/v1/organization/projects`: our tenants."""

from __future__ import annotations

from dataclasses import replace

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import LOCAL, Tenant, new_id
from allod.web.admin import bodies
from allod.web.admin.asked import Asked, Json, seconds, unsupported
from allod.web.admin.listing import a_cursor, page
from allod.web.admin.terms import terms_of, with_terms

_HINTS = {
    "external_key_id": "keys of other services are not used here",
    "geography": "say where requests may be processed in `allod.label.jurisdictions`",
    "residency": "say where requests may be processed in `allod.label.jurisdictions`",
}


class Projects:
    """Handlers of projects."""

    def __init__(self, store: TenantStore, nation: Nation) -> None:
        self._store = store
        self._nation = nation

    def listed(self, asked: Asked) -> Json:
        """`GET projects`, in the order of their ids."""
        query = asked.search("after", "limit", "include_archived")
        limit, after = query.limit(), query.text("after")
        with_archived = query.choice("include_archived", "false", "true") == "true"
        if after is not None:
            with a_cursor("after"):
                self._store.tenant(after)
        found = self._store.tenants(after=after or "", limit=limit + 1, include_archived=with_archived)
        return page([self._shown(tenant) for tenant in found], limit)

    def create(self, asked: Asked) -> Json:
        """`POST projects`."""
        body = asked.read(bodies.ProjectCreate)
        _refuse_unsupported(body)
        tenant = Tenant(id=new_id("proj_"), name=bodies.checked_name(body.name), created_ms=asked.now_ms)
        tenant = with_terms(tenant, body.allod, self._nation)
        data: Json = {"name": tenant.name, "title": tenant.name, "allod": terms_of(tenant, self._nation)}
        self._store.put_tenant(tenant, asked.event("project.created", tenant.id, id=tenant.id, data=data))
        return self._shown(tenant)

    def retrieve(self, asked: Asked, project_id: str) -> Json:
        """`GET projects/{id}`, archived or not."""
        return self._shown(self._store.tenant(project_id))

    def update(self, asked: Asked, project_id: str) -> Json:
        """`POST projects/{id}`."""
        body = asked.read(bodies.ProjectUpdate)
        _refuse_unsupported(body)
        tenant = with_terms(active(self._store, project_id), body.allod, self._nation)
        changes: dict[str, JsonValue] = {}
        if body.name is not None:
            tenant = replace(tenant, name=bodies.checked_name(body.name))
            changes["title"] = tenant.name
        if bodies.given(body.allod):
            changes["allod"] = terms_of(tenant, self._nation)
        put_changed(self._store, asked, tenant, changes)
        return self._shown(tenant)

    def archive(self, asked: Asked, project_id: str) -> Json:
        """`POST projects/{id}/archive`: its keys open nothing any more, its receipts and usage stay."""
        asked.read(bodies.Empty)
        tenant = active(self._store, project_id)
        if tenant.id == LOCAL:
            raise Invalid("this project stands for the machine itself and cannot be archived", code="project_is_needed")
        tenant = replace(tenant, archived_ms=asked.now_ms)
        self._store.put_tenant(tenant, asked.event("project.archived", tenant.id, id=tenant.id))
        return self._shown(tenant)

    def _shown(self, tenant: Tenant) -> Json:
        return {
            "id": tenant.id,
            "object": "organization.project",
            "name": tenant.name,
            "created_at": seconds(tenant.created_ms),
            "archived_at": seconds(tenant.archived_ms),
            "status": "active" if tenant.archived_ms is None else "archived",
            "external_key_id": None,
            "residency": None,
            "allod": terms_of(tenant, self._nation),
        }


def active(store: TenantStore, project_id: str) -> Tenant:
    """The tenant, to be changed. Raises Invalid for one that is archived."""
    tenant = store.tenant(project_id)
    if tenant.archived_ms is not None:
        raise Invalid("the project is archived and stays as it was", code="project_archived")
    return tenant


def put_changed(store: TenantStore, asked: Asked, tenant: Tenant, changes: dict[str, JsonValue]) -> None:
    """Keep the changed tenant, with `project.updated` in the audit log."""
    store.put_tenant(tenant, asked.event("project.updated", tenant.id, id=tenant.id, changes_requested=changes))


def _refuse_unsupported(body: bodies.ProjectCreate | bodies.ProjectUpdate) -> None:
    for param, hint in _HINTS.items():
        if getattr(body, param, None) is not None:
            raise unsupported(param, hint)
