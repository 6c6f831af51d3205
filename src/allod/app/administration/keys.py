"""Keys: what is done to them, each with its line in the audit log, and their one JSON form, OpenAI's. A key itself is
shown once, when it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from allod.app.administration.tenants import check_active, seconds_of
from allod.app.administration.terms import Json, describe_scope
from allod.app.home import Home
from allod.core.errors import Invalid
from allod.govern.tenancy.keys import check_not_last_admin, read_or_make_key, rotate
from allod.govern.tenancy.officer import Officer
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import (
    ADMIN_PREFIX,
    USE_PREFIX,
    Account,
    Key,
    Scope,
    Tenant,
    api_key_digest,
    check_name,
    new_api_key,
    new_id,
)
from allod.settings.tree import Settings

_BATCH = 1000


def describe_keys(store: TenantStore, owner: Tenant | None, keys: Iterable[Key]) -> list[Json]:
    """One tenant's keys, or the realm's admin keys, as every interface shows them. Times are in seconds since 1970."""
    if owner is None:
        return [_describe_admin_key(key) for key in keys]
    account = cache(partial(store.account, owner.id))

    def find_holder(key: Key) -> Account | None:
        """None for a revoked key, too: its account may be gone."""
        return None if key.account_id is None or key.revoked_ms is not None else account(key.account_id)

    return [_describe_key(key, owner, find_holder(key)) for key in keys]


def add_key(
    store: TenantStore,
    officer: Officer,
    tenant_id: str | None,
    *,
    name: str,
    life_ms: int | None = None,
    scope: Scope | None = None,
    account_id: str | None = None,
) -> tuple[Key, str]:
    """A new key as it is kept, and as it is shown once; without a tenant an admin key."""
    secret, digest, hint = new_api_key(ADMIN_PREFIX if tenant_id is None else USE_PREFIX)
    key = Key(
        id=new_id("key_"),
        tenant_id=tenant_id,
        account_id=account_id,
        name=check_name(name),
        digest=digest,
        hint=hint,
        scope=scope or Scope(),
        is_admin=tenant_id is None,
        created_ms=officer.now_ms,
        expires_ms=None if life_ms is None else officer.now_ms + life_ms,
    )
    store.put_key(key, officer.event("api_key.created", tenant_id, id=key.id, data=_describe_logged(key)))
    return key, secret


def rotate_key(store: TenantStore, officer: Officer, old: Key, overlap_s: float) -> tuple[Key, str]:
    """A key that opens what the old one does, for as long again; the old one ends after the overlap."""
    if old.tenant_id is not None:
        check_active(store.tenant(old.tenant_id))
    rotation = rotate(old, officer.now_ms, overlap_s)
    new, ending = rotation.successor, rotation.key
    data = _describe_logged(new)
    store.put_key(new, officer.event("api_key.created", new.tenant_id, id=new.id, data=data, in_place_of=old.id))
    left_s = ((ending.expires_ms or officer.now_ms) - officer.now_ms) // 1000
    changes = {"expires_in_seconds": left_s}
    store.put_key(ending, officer.event("api_key.updated", old.tenant_id, id=old.id, changes_requested=changes))
    return new, rotation.secret


def revoke_key(store: TenantStore, officer: Officer, key: Key) -> Key:
    """The key, ended now. Raises Invalid (`last_admin_key`) where nobody could make another."""
    if key.is_admin:
        check_not_last_admin(key, list_keys(store, None))
    key = replace(key, revoked_ms=officer.now_ms)
    store.put_key(key, officer.event("api_key.deleted", key.tenant_id, id=key.id))
    return key


def find_key(store: TenantStore, key_id: str) -> Key:
    """The key of that id. Raises Invalid (`not_found`)."""
    try:
        return store.key(key_id)
    except Invalid as error:
        raise error.restate(hint="`allod key list` shows their ids") from error


def list_keys(store: TenantStore, tenant_id: str | None, *, after: str = "") -> Iterator[Key]:
    """The tenant's keys, revoked ones too, in the order of their ids; None for the realm's admin keys."""
    while batch := store.keys(tenant_id=tenant_id, after=after, limit=_BATCH):
        yield from batch
        after = batch[-1].id


def find_file(key: Key, settings: Settings) -> Path | None:
    """The file of this realm that holds the key: `local.key`, `admin.key`, or none."""
    home = Home(settings.home)
    file, prefix = (home.admin_key, ADMIN_PREFIX) if key.is_admin else (home.local_key, USE_PREFIX)
    return file if api_key_digest(read_or_make_key(file, prefix)) == key.digest else None


def describe_access(owner: Tenant) -> str:
    """Whether the tenant's keys open anything."""
    return "active" if owner.archived_ms is None else "inactive"


def _describe_key(key: Key, owner: Tenant, account: Account | None) -> Json:
    return {
        "id": key.id,
        "object": "organization.project.api_key",
        "name": key.name,
        "redacted_value": f"{USE_PREFIX}...{key.hint}",
        "created_at": seconds_of(key.created_ms),
        "expires_at": seconds_of(key.expires_ms),
        "last_used_at": seconds_of(key.last_used_ms),
        "owner": _describe_owner(account),
        "owner_project_access": describe_access(owner),
        "allod": {"scope": describe_scope(key.scope)},
    }


def _describe_admin_key(key: Key) -> Json:
    return {
        "id": key.id,
        "object": "organization.admin_api_key",
        "name": key.name,
        "redacted_value": f"{ADMIN_PREFIX}...{key.hint}",
        "created_at": seconds_of(key.created_ms),
        "expires_at": seconds_of(key.expires_ms),
        "last_used_at": seconds_of(key.last_used_ms),
        "owner": {"object": "organization.user", "type": "user", "role": "owner", "id": key.id, "name": key.name},
    }


def _describe_owner(account: Account | None) -> Json:
    """Who holds a key; one that no service account has is nobody's."""
    if account is None:
        return {"type": None, "service_account": None, "user": None}
    shown = {
        "id": account.id,
        "name": account.name,
        "created_at": seconds_of(account.created_ms),
        "role": account.role,
    }
    return {"type": "service_account", "service_account": shown, "user": None}


def _describe_logged(key: Key) -> Json:
    """What the audit log says of a new key."""
    if key.is_admin:
        return {"allod": {"admin": True}}
    holder = {} if key.account_id is None else {"service_account": key.account_id}
    return {"allod": {**holder, "scope": describe_scope(key.scope)}}
