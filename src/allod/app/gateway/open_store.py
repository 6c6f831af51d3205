"""The realm's store of tenants, and who is in it from the first start."""

from __future__ import annotations

from dataclasses import replace

from allod.app.home import Home
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.times import now_ms
from allod.govern.stores.sqlite import sqlite_store
from allod.govern.tenancy.keys import read_or_make_key
from allod.govern.tenancy.officer import Officer
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import (
    ADMIN_PREFIX,
    LOCAL,
    USE_PREFIX,
    Key,
    api_key_digest,
    local_tenant,
)
from allod.settings.tree import Settings

STARTED = "allod:start"  # who made what is there from the first start


def open_store(settings: Settings) -> TenantStore:
    """The store that the settings name, with the first tenant in it.

    Raises Unavailable, and Invalid for an address that cannot be used, or (`origin_taken`).
    """
    store = _open(settings)
    try:
        if settings.tenants.database:
            _check_origin(store, settings)
        _make_first_tenant(store, settings)
    except BaseException:
        store.close()
        raise
    return store


def _open(settings: Settings) -> TenantStore:
    if not settings.tenants.database:
        return sqlite_store(Home(settings.home).tenants)
    try:
        from allod.govern.stores.postgres import postgres_store  # its driver is an extra that one realm alone lacks
    except ImportError as error:
        raise Invalid(
            "the driver for PostgreSQL is not installed",
            code="driver_missing",
            param="tenants.database",
            hint="pip install --require-hashes -r requirements/postgres.txt",
        ) from error
    return postgres_store(settings.tenants.database)


def _check_origin(store: TenantStore, settings: Settings) -> None:
    """Raise Invalid where another gateway of the store has a log of this name: it would take over its keys and share
    its part of the ledger."""
    ours = str(Home(settings.home).signing_key(settings.origin).verifier)
    if store.keep_setting(f"log_key/{_gateway_id(settings)}", ours) != ours:
        raise Invalid(
            f"another gateway that shares these tenants has the log {settings.origin}",
            code="origin_taken",
            param="realm.shard",
            hint="give each gateway a realm.shard of its own in its allod.toml",
        )


def _gateway_id(settings: Settings) -> str:
    return sha256_hex(settings.origin.encode())[:12]


def _make_first_tenant(store: TenantStore, settings: Settings) -> None:
    """The local tenant, this gateway's key for it in `local.key` and its admin key in `admin.key`, where missing.

    A key file that was made anew takes the place of the old: that one opens nothing any more. Gateways that share
    their tenants have a pair of keys each.
    """
    home, officer = Home(settings.home), Officer(STARTED, now_ms())
    gateway = _gateway_id(settings)
    try:
        store.tenant(LOCAL)
    except Invalid:
        store.put_tenant(local_tenant(officer.now_ms), officer.event("project.created", LOCAL, id=LOCAL))
    _keep(
        store,
        f"key_local_{gateway}",
        read_or_make_key(home.local_key, USE_PREFIX),
        f"local.key of {settings.shard}",
        officer,
    )
    _keep(
        store,
        f"key_admin_{gateway}",
        read_or_make_key(home.admin_key, ADMIN_PREFIX),
        f"admin.key of {settings.shard}",
        officer,
    )


def _keep(store: TenantStore, key_id: str, secret: str, name: str, officer: Officer) -> None:
    digest, at_ms = api_key_digest(secret), officer.now_ms
    is_admin = secret.startswith(ADMIN_PREFIX)
    try:
        kept = store.key(key_id)
    except Invalid:
        tenant_id = None if is_admin else LOCAL
        kept = Key(key_id, tenant_id, name, digest, secret[-4:], at_ms, is_admin=is_admin)
        store.put_key(kept, officer.event("api_key.created", tenant_id, id=key_id))
    if kept.digest != digest:
        changed = replace(kept, digest=digest, hint=secret[-4:], created_ms=at_ms, expires_ms=None, revoked_ms=None)
        store.put_key(changed, officer.event("api_key.updated", kept.tenant_id, id=key_id))
