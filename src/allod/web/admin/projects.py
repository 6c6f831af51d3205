"""`/v1/organization/projects`: our tenants."""

from __future__ import annotations

from allod.app.administration.tenants import add_tenant, archive_tenant, change_tenant, describe_tenant, find_active
from allod.core.nations.nation import Nation
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import Tenant
from allod.web.admin import bodies
from allod.web.admin.listing import a_cursor, page
from allod.web.admin.request import AdminRequest, Json, refusal

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

    def list_page(self, asked: AdminRequest) -> Json:
        """`GET projects`, in the order of their ids."""
        query = asked.search("after", "limit", "include_archived")
        limit, after = query.limit(), query.text("after")
        with_archived = query.choice("include_archived", "false", "true") == "true"
        if after is not None:
            with a_cursor("after"):
                self._store.tenant(after)
        found = self._store.tenants(after=after or "", limit=limit + 1, include_archived=with_archived)
        return page([self._project_json(tenant) for tenant in found], limit)

    def create(self, asked: AdminRequest) -> Json:
        """`POST projects`."""
        body = asked.read(bodies.ProjectCreate)
        _refuse_unsupported(body)
        terms = bodies.fields_of(body.allod)
        return self._project_json(add_tenant(self._store, asked.officer, body.name, terms, self._nation))

    def retrieve(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET projects/{id}`, archived or not."""
        return self._project_json(self._store.tenant(project_id))

    def update(self, asked: AdminRequest, project_id: str) -> Json:
        """`POST projects/{id}`."""
        body = asked.read(bodies.ProjectUpdate)
        _refuse_unsupported(body)
        tenant, terms = find_active(self._store, project_id), bodies.fields_of(body.allod)
        tenant = change_tenant(self._store, asked.officer, tenant, self._nation, name=body.name, terms=terms)
        return self._project_json(tenant)

    def archive(self, asked: AdminRequest, project_id: str) -> Json:
        """`POST projects/{id}/archive`: its keys open nothing any more, its receipts and usage stay."""
        asked.read(bodies.Empty)
        return self._project_json(archive_tenant(self._store, asked.officer, self._store.tenant(project_id)))

    def _project_json(self, tenant: Tenant) -> Json:
        return describe_tenant(tenant, self._nation)


def _refuse_unsupported(body: bodies.ProjectCreate | bodies.ProjectUpdate) -> None:
    for param, hint in _HINTS.items():
        if getattr(body, param, None) is not None:
            raise refusal(param, hint)
