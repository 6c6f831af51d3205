"""Keys: `projects/{id}/api_keys` and `admin_api_keys`. A key is shown once, when it is made; a deleted one is gone.

The store keeps revoked keys, for the audit; here they are not found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from allod.app.administration.keys import add_key, describe_access, describe_keys, list_keys, revoke_key
from allod.app.administration.tenants import find_active
from allod.app.administration.terms import change_scope, describe_scope
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import Key, Scope
from allod.web.admin import bodies
from allod.web.admin.listing import a_cursor, page, page_of_all
from allod.web.admin.request import AdminRequest, Json, refusal


class ProjectKeys:
    """Handlers of a project's keys."""

    def __init__(self, store: TenantStore, nation: Nation) -> None:
        self._store = store
        self._nation = nation

    def list_page(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET projects/{id}/api_keys`, in the order of their ids."""
        query = asked.search("after", "limit", "owner_project_access")
        limit, after = query.limit(), query.text("after")
        access = query.choice("owner_project_access", "any", "active", "inactive")
        project = self._store.tenant(project_id)
        if after is not None:
            with a_cursor("after"):
                _key(self._store, after, project_id)
        if access not in ("any", describe_access(project)):
            return page([], limit)
        found = islice(_find_living(self._store, project_id, after=after or ""), limit + 1)
        return page(describe_keys(self._store, project, found), limit)

    def retrieve(self, asked: AdminRequest, project_id: str, key_id: str) -> Json:
        """`GET projects/{id}/api_keys/{key}`."""
        key = _find_living_key(self._store, key_id, project_id)
        return describe_keys(self._store, self._store.tenant(project_id), [key])[0]

    def update(self, asked: AdminRequest, project_id: str, key_id: str) -> Json:
        """`POST projects/{id}/api_keys/{key}`: another end of its life, another scope."""
        body = asked.read(bodies.KeyUpdate)
        refuse_scopes(body)
        project = find_active(self._store, project_id)
        key = _find_living_key(self._store, key_id, project_id)
        if key.expires_ms is not None and key.expires_ms <= asked.now_ms:
            raise Invalid("the key has expired", code="key_expired", hint="make another")
        changes = {name: value for name, value in bodies.fields_of(body).items() if name == "expires_in_seconds"}
        if changes:
            key = replace(key, expires_ms=asked.now_ms + changes["expires_in_seconds"] * 1000)
        scope = key_scope(key.scope, body, self._nation)
        if scope != key.scope:
            key = replace(key, scope=scope)
            changes["allod"] = {"scope": describe_scope(scope)}
        event = asked.officer.event("api_key.updated", project_id, id=key.id, changes_requested=changes)
        self._store.put_key(key, event)
        return describe_keys(self._store, project, [key])[0]

    def delete(self, asked: AdminRequest, project_id: str, key_id: str) -> Json:
        """`DELETE projects/{id}/api_keys/{key}`: gateways know within a second."""
        key = revoke_key(self._store, asked.officer, _find_living_key(self._store, key_id, project_id))
        return {"id": key.id, "object": "organization.project.api_key.deleted", "deleted": True}


class AdminKeys:
    """Handlers of the keys that open this interface, and nothing else."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def list_page(self, asked: AdminRequest) -> Json:
        """`GET admin_api_keys`, by their time."""
        query = asked.search("after", "limit", "order")
        keys = sorted(_find_living(self._store, None), key=lambda key: (key.created_ms, key.id))
        if query.choice("order", "asc", "desc") == "desc":
            keys.reverse()
        return page_of_all(describe_keys(self._store, None, keys), query, limit=query.limit())

    def create(self, asked: AdminRequest) -> Json:
        """`POST admin_api_keys`: the only answer that holds the key."""
        body = asked.read(bodies.AdminKeyCreate)
        life_ms = bodies.life_ms_of(body)
        key, secret = add_key(self._store, asked.officer, None, name=body.name, life_ms=life_ms)
        return {**describe_keys(self._store, None, [key])[0], "value": secret}

    def retrieve(self, asked: AdminRequest, key_id: str) -> Json:
        """`GET admin_api_keys/{key}`."""
        return describe_keys(self._store, None, [_find_living_key(self._store, key_id, None)])[0]

    def delete(self, asked: AdminRequest, key_id: str) -> Json:
        """`DELETE admin_api_keys/{key}`, unless none were left that lasts: nobody could make another."""
        key = revoke_key(self._store, asked.officer, _find_living_key(self._store, key_id, None))
        return {"id": key.id, "object": "organization.admin_api_key.deleted", "deleted": True}


def key_scope(scope: Scope, body: bodies.KeyCreate | bodies.KeyUpdate | bodies.AccountCreate, nation: Nation) -> Scope:
    """The scope with what the body's `allod` member asks for."""
    asked = bodies.fields_of(body.allod).get("scope")
    return scope if asked is None else change_scope(scope, asked, nation)


def refuse_scopes(body: bodies.KeyCreate | bodies.KeyUpdate) -> None:
    """The dialect's scopes name interfaces that this realm does not tell apart."""
    if "scopes" in bodies.fields_of(body):
        raise refusal("scopes", "say what the key may use in `allod.scope`: models, clearance, purposes")


def _find_living(store: TenantStore, tenant_id: str | None, *, after: str = "") -> Iterator[Key]:
    """The tenant's keys that were not revoked, in the order of their ids; None for admin keys."""
    return (key for key in list_keys(store, tenant_id, after=after) if key.revoked_ms is None)


def _key(store: TenantStore, key_id: str, tenant_id: str | None) -> Key:
    """The key, revoked or not, if it is this tenant's; None for an admin key."""
    key = store.key(key_id)
    if key.tenant_id != tenant_id:
        raise Invalid("there is no such key here", code="not_found")
    return key


def _find_living_key(store: TenantStore, key_id: str, tenant_id: str | None) -> Key:
    key = _key(store, key_id, tenant_id)
    if key.revoked_ms is not None:
        raise Invalid("the key was deleted", code="not_found")
    return key
