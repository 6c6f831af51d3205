"""The tables, once for both databases. A new version is one more entry of `VERSIONS`; entries never change.

What is looked up by has a column; the rest of a value is the JSON text of `rows`. The realm's one row counts the
changes: every change takes the next number under that row's lock, so that who has seen number n has missed none below.
"""

from __future__ import annotations

from allod.core.errors import Unavailable
from allod.core.shown_text import fold
from allod.govern.stores.database import Transaction
from allod.govern.stores.dialect import SqlDialect
from allod.govern.stores.rows import tenant_from
from allod.govern.tenancy.store import TOTALS
from allod.govern.tenancy.tenants import Tenant

_SUMS = ", ".join(f"{name} {{number}} NOT NULL" for name in TOTALS)

VERSIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE tenants (id {text} PRIMARY KEY, changed {number} NOT NULL, is_archived {number} NOT NULL, "
        "body {text} NOT NULL){table_end}",
        "CREATE INDEX tenants_changed ON tenants (changed)",
        "CREATE TABLE accounts (id {text} PRIMARY KEY, tenant_id {text} NOT NULL, body {text} NOT NULL){table_end}",
        "CREATE INDEX accounts_tenant ON accounts (tenant_id, id)",
        "CREATE TABLE api_keys (id {text} PRIMARY KEY, changed {number} NOT NULL, tenant_id {text} NOT NULL, "
        "account_id {text} NOT NULL, digest {text} NOT NULL UNIQUE, body {text} NOT NULL){table_end}",
        "CREATE INDEX api_keys_changed ON api_keys (changed)",
        "CREATE INDEX api_keys_tenant ON api_keys (tenant_id, id)",
        "CREATE TABLE events (number {number} PRIMARY KEY, id {text} NOT NULL UNIQUE, at_ms {number} NOT NULL, "
        "kind {text} NOT NULL, tenant_id {text} NOT NULL, body {text} NOT NULL){table_end}",
        "CREATE TABLE settings (name {text} PRIMARY KEY, value {text} NOT NULL){table_end}",
        "CREATE TABLE windows (tenant_id {text}, meter {text}, number {number}, granted {number} NOT NULL, "
        "PRIMARY KEY (tenant_id, meter, number)){table_end}",
        "CREATE TABLE leases (tenant_id {text}, meter {text}, number {number}, gateway {text}, "
        "granted {number} NOT NULL, PRIMARY KEY (tenant_id, meter, number, gateway)){table_end}",
        "CREATE TABLE positions (origin {text} PRIMARY KEY, num_entries {number} NOT NULL, "
        "segment_offset {number} NOT NULL){table_end}",
        "CREATE TABLE ledger (tenant_id {text}, minute {number}, key_id {text}, model {text}, origin {text}, "
        f"{_SUMS}, PRIMARY KEY (tenant_id, minute, key_id, model, origin)){{table_end}}",
        "CREATE INDEX ledger_minute ON ledger (minute)",
        "CREATE TABLE key_uses (key_id {text} PRIMARY KEY, last_ms {number} NOT NULL){table_end}",
    ),
    (
        "CREATE TABLE tenant_names (tenant_id {text} PRIMARY KEY, folded {text} NOT NULL){table_end}",
        "CREATE INDEX tenant_names_folded ON tenant_names (folded)",
    ),
)
_WITH_NAMES = 2  # the version that has them


def prepare(transaction: Transaction, dialect: SqlDialect) -> None:
    """Make the tables, or bring them up to date. Raises Unavailable if a newer Allod made them."""
    if dialect.lock_schema:
        transaction.execute(dialect.lock_schema)
    transaction.execute(
        "CREATE TABLE IF NOT EXISTS realm (one {number} PRIMARY KEY CHECK (one = 1), "
        "version {number} NOT NULL, changes {number} NOT NULL){table_end}"
    )
    transaction.execute("INSERT INTO realm (one, version, changes) VALUES (1, 0, 0) ON CONFLICT (one) DO NOTHING")
    [(version,)] = transaction.execute("SELECT version FROM realm")
    if version > len(VERSIONS):
        raise Unavailable(
            f"the tenants' database has version {version}; this Allod knows {len(VERSIONS)}",
            code="tenants_unavailable",
            hint="start the newer Allod that wrote it, or restore the database from before",
        )
    for statements in VERSIONS[version:]:
        for statement in statements:
            transaction.execute(statement)
    if version < _WITH_NAMES:
        for (body,) in transaction.execute("SELECT body FROM tenants"):
            keep_name(transaction, tenant_from(body))
    transaction.execute("UPDATE realm SET version = :version", version=len(VERSIONS))


def keep_name(transaction: Transaction, tenant: Tenant) -> None:
    """Note how the tenant's name looks, while it is not archived: what ended leaves its name to others."""
    transaction.execute("DELETE FROM tenant_names WHERE tenant_id = :id", id=tenant.id)
    if tenant.archived_ms is None:
        transaction.execute(
            "INSERT INTO tenant_names (tenant_id, folded) VALUES (:id, :folded)",
            id=tenant.id,
            folded=fold(tenant.name),
        )
