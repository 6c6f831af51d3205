"""Data retention, which here is one word: no prompt and no answer is kept, so there is nothing to set it to."""

from __future__ import annotations

from allod.app.administration.tenants import find_active
from allod.core.errors import Invalid
from allod.govern.tenancy.store import TenantStore
from allod.web.admin import bodies
from allod.web.admin.request import AdminRequest, Json

ZERO, AS_THE_ORGANIZATION = "zero_data_retention", "organization_default"


class Retention:
    """Handlers of retention. A project's word is kept as it was set, so that a tool that sets one reads it again;
    both of them mean the same."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def organization(self, asked: AdminRequest) -> Json:
        """`GET data_retention`."""
        return {"object": "organization.data_retention", "type": ZERO}

    def update_organization(self, asked: AdminRequest) -> Json:
        """`POST data_retention`: what it already is."""
        _read(asked, ZERO)
        return self.organization(asked)

    def project(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET projects/{id}/data_retention`."""
        tenant = self._store.tenant(project_id)
        return {"object": "project.data_retention", "type": self._store.read_setting(_name(tenant.id)) or ZERO}

    def update_project(self, asked: AdminRequest, project_id: str) -> Json:
        """`POST projects/{id}/data_retention`."""
        wanted = _read(asked, ZERO, AS_THE_ORGANIZATION)
        tenant = find_active(self._store, project_id)
        changes = {"allod": {"data_retention": wanted}}
        event = asked.officer.event("project.updated", tenant.id, id=tenant.id, changes_requested=changes)
        self._store.put_setting(_name(tenant.id), wanted, event)
        return self.project(asked, project_id)


def _name(tenant_id: str) -> str:
    return f"data_retention/{tenant_id}"


def _read(asked: AdminRequest, *possible: str) -> str:
    wanted = asked.read(bodies.RetentionUpdate).retention_type
    if wanted not in possible:
        raise Invalid(
            f"retention_type can only be {' or '.join(possible)}",
            code="unsupported_parameter",
            param="retention_type",
            hint="no prompt and no answer is ever kept here; receipts hold commitments to them",
        )
    return wanted
