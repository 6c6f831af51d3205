"""Tenants: what is done to them, each with its line in the audit log, and their one JSON form, OpenAI's project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

from allod.app.administration.terms import Changes, Json, change_terms, describe_terms
from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.tenancy.officer import Officer
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import LOCAL, Tenant, check_name, new_id


def describe_tenant(tenant: Tenant, nation: Nation) -> Json:
    """The tenant as every interface shows it. Times are in seconds since 1970."""
    return {
        "id": tenant.id,
        "object": "organization.project",
        "name": tenant.name,
        "created_at": seconds_of(tenant.created_ms),
        "archived_at": seconds_of(tenant.archived_ms),
        "status": "active" if tenant.archived_ms is None else "archived",
        "external_key_id": None,
        "residency": None,
        "allod": describe_terms(tenant, nation),
    }


def seconds_of(time_ms: int | None) -> int | None:
    """Milliseconds since 1970 as seconds, for the JSON forms."""
    return None if time_ms is None else time_ms // 1000


def add_tenant(store: TenantStore, officer: Officer, name: str, terms: Changes, nation: Nation) -> Tenant:
    """A new tenant under these terms, and for the rest unrestricted."""
    tenant = Tenant(id=new_id("proj_"), name=check_name(name), created_ms=officer.now_ms)
    tenant = change_terms(tenant, terms, nation)
    data: Json = {"name": tenant.name, "title": tenant.name, "allod": _describe_logged_terms(tenant, terms, nation)}
    store.put_tenant(tenant, officer.event("project.created", tenant.id, id=tenant.id, data=data))
    return tenant


def change_tenant(
    store: TenantStore, officer: Officer, old: Tenant, nation: Nation, *, name: str | None = None, terms: Changes
) -> Tenant:
    """The tenant with another name, or under other terms. Raises Invalid (`project_archived`)."""
    check_active(old)
    tenant = change_terms(old, terms, nation)
    changes: dict[str, JsonValue] = {}
    if name is not None:
        tenant = replace(tenant, name=check_name(name))
        changes["title"] = tenant.name
    if terms:
        changes["allod"] = _describe_logged_terms(tenant, terms, nation)
    put_changed(store, officer, tenant, changes)
    return tenant


def put_changed(store: TenantStore, officer: Officer, tenant: Tenant, changes: dict[str, JsonValue]) -> None:
    """Keep the changed tenant, with `project.updated` in the audit log."""
    store.put_tenant(tenant, officer.event("project.updated", tenant.id, id=tenant.id, changes_requested=changes))


def archive_tenant(store: TenantStore, officer: Officer, tenant: Tenant) -> Tenant:
    """The tenant, ended: its keys open nothing any more, its receipts and what it used stay."""
    check_active(tenant)
    if tenant.id == LOCAL:
        raise Invalid(
            "the local tenant stands for the machine itself and cannot be archived",
            code="project_is_needed",
            hint="limit it instead",
        )
    tenant = replace(tenant, archived_ms=officer.now_ms)
    store.put_tenant(tenant, officer.event("project.archived", tenant.id, id=tenant.id))
    return tenant


def find_active(store: TenantStore, tenant_id: str) -> Tenant:
    """The tenant of that id, to be changed. Raises Invalid (`project_archived`) for one that has ended."""
    tenant = store.tenant(tenant_id)
    check_active(tenant)
    return tenant


def check_active(tenant: Tenant) -> None:
    """Raise Invalid (`project_archived`) for a tenant that has ended."""
    if tenant.archived_ms is not None:
        raise Invalid("the tenant is archived and stays as it was", code="project_archived", hint="add a new one")


def find_tenant(store: TenantStore, word: str) -> Tenant:
    """The tenant of that id, or else of that name. Raises Invalid where there is none, or more than one."""
    every = list(list_tenants(store, include_archived=True))
    found = [tenant for tenant in every if tenant.id == word] or [tenant for tenant in every if tenant.name == word]
    current = [tenant for tenant in found if tenant.archived_ms is None] or found
    if len(current) == 1:
        return current[0]
    if current:
        ids = ", ".join(tenant.id for tenant in current)
        raise Invalid(f"{len(current)} tenants are called {word!r}", code="ambiguous", hint=f"say which: {ids}")
    raise Invalid(
        f"there is no tenant {word!r}", code="not_found", hint="`allod tenant list --all` shows all there are"
    )


def list_tenants(store: TenantStore, *, include_archived: bool = False) -> Iterator[Tenant]:
    """All tenants, page by page."""
    after = ""
    while page := store.tenants(after=after, limit=1000, include_archived=include_archived):
        yield from page
        after = page[-1].id


def _describe_logged_terms(tenant: Tenant, terms: Changes, nation: Nation) -> Json:
    """All terms, and the quotas per model where they were among what was said."""
    shown = describe_terms(tenant, nation)
    if "model_quotas" in terms:
        shown["model_quotas"] = {model: asdict(quota) for model, quota in sorted(tenant.model_quotas.items())}
    return shown
