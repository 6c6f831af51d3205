"""A store in SQL: every statement once, for SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from allod.core.shown_text import fold
from allod.govern.stores import rules
from allod.govern.stores.database import Database, Transaction, Transactions
from allod.govern.stores.rows import account_from, event_from, key_from, tenant_from, text_of
from allod.govern.stores.schema import keep_name, prepare
from allod.govern.stores.sql_ledger import SqlLedger, one_of
from allod.govern.tenancy.store import Changes
from allod.govern.tenancy.tenants import Account, AuditEvent, Key, Tenant

_KEYS = "SELECT body, last_ms FROM api_keys LEFT JOIN key_uses ON key_id = id"


class SqlStore(SqlLedger):
    """A TenantStore over a database. Raises Unavailable if the database cannot be reached, Invalid if it is unsafe."""

    def __init__(self, database: Database) -> None:
        super().__init__(Transactions(database))
        with self._transactions.writing() as transaction:
            prepare(transaction, database.dialect)
        self._transactions.checkpoint()

    def changes_since(self, version: int) -> Changes:
        """See `TenantStore.changes_since`. One row is read when nothing changed."""
        with self._transactions.reading() as transaction:
            [(newest,)] = transaction.execute("SELECT changes FROM realm")
            if version == newest and version > 0:
                return Changes(version)
            is_everything = not 0 < version < newest
            since = 0 if is_everything else version
            tenants = transaction.execute("SELECT body FROM tenants WHERE changed > :since", since=since)
            keys = transaction.execute("SELECT body FROM api_keys WHERE changed > :since", since=since)
        return Changes(
            newest,
            tuple(tenant_from(body) for (body,) in tenants),
            tuple(key_from(body) for (body,) in keys),
            is_everything,
        )

    def tenant(self, tenant_id: str) -> Tenant:
        """See `TenantStore.tenant`."""
        with self._transactions.reading() as transaction:
            return _tenant(transaction, tenant_id)

    def tenants(self, *, after: str = "", limit: int = 100, include_archived: bool = False) -> list[Tenant]:
        """See `TenantStore.tenants`."""
        rules.check_page(limit)
        with self._transactions.reading() as transaction:
            rows = transaction.execute(
                "SELECT body FROM tenants WHERE id > :after AND is_archived <= :is_archived ORDER BY id LIMIT :limit",
                after=after,
                is_archived=int(include_archived),
                limit=limit,
            )
        return [tenant_from(body) for (body,) in rows]

    def put_tenant(self, tenant: Tenant, event: AuditEvent) -> None:
        """See `TenantStore.put_tenant`."""
        with self._change(event) as (transaction, number):
            old = [
                tenant_from(body)
                for (body,) in transaction.execute("SELECT body FROM tenants WHERE id = :id", id=tenant.id)
            ]
            for before in old:
                rules.check_tenant_change(before, tenant)
            if rules.must_check_name(old[0] if old else None, tenant):
                _check_name(transaction, tenant)
            keep_name(transaction, tenant)
            transaction.execute(
                "INSERT INTO tenants (id, changed, is_archived, body) VALUES (:id, :changed, :is_archived, :body) "
                "ON CONFLICT (id) DO UPDATE "
                "SET changed = excluded.changed, is_archived = excluded.is_archived, body = excluded.body",
                id=tenant.id,
                changed=number,
                is_archived=int(tenant.archived_ms is not None),
                body=text_of(tenant),
            )

    def account(self, tenant_id: str, account_id: str) -> Account:
        """See `TenantStore.account`."""
        with self._transactions.reading() as transaction:
            return _account(transaction, tenant_id, account_id)

    def accounts(self, tenant_id: str, *, after: str = "", limit: int = 100) -> list[Account]:
        """See `TenantStore.accounts`."""
        rules.check_page(limit)
        with self._transactions.reading() as transaction:
            rows = transaction.execute(
                "SELECT body FROM accounts WHERE tenant_id = :tenant_id AND id > :after ORDER BY id LIMIT :limit",
                tenant_id=tenant_id,
                after=after,
                limit=limit,
            )
        return [account_from(body) for (body,) in rows]

    def put_account(self, account: Account, event: AuditEvent) -> None:
        """See `TenantStore.put_account`."""
        with self._change(event) as (transaction, _):
            _tenant(transaction, account.tenant_id)
            if transaction.execute("SELECT 1 FROM accounts WHERE id = :id", id=account.id):
                _account(transaction, account.tenant_id, account.id)
            transaction.execute(
                "INSERT INTO accounts (id, tenant_id, body) VALUES (:id, :tenant_id, :body) "
                "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                id=account.id,
                tenant_id=account.tenant_id,
                body=text_of(account),
            )

    def delete_account(self, tenant_id: str, account_id: str, event: AuditEvent) -> None:
        """See `TenantStore.delete_account`."""
        with self._change(event) as (transaction, number):
            _account(transaction, tenant_id, account_id)
            transaction.execute("DELETE FROM accounts WHERE id = :id", id=account_id)
            for (body,) in transaction.execute(
                "SELECT body FROM api_keys WHERE account_id = :account_id", account_id=account_id
            ):
                key = key_from(body)
                if key.revoked_ms is None:
                    _write_key(transaction, replace(key, revoked_ms=event.at_ms), number)

    def key(self, key_id: str) -> Key:
        """See `TenantStore.key`."""
        with self._transactions.reading() as transaction:
            rows = transaction.execute(f"{_KEYS} WHERE id = :id", id=key_id)
        if not rows:
            raise rules.not_found_error("key", "key_id")
        return key_from(*rows[0])

    def keys(
        self, *, tenant_id: str | None, account_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[Key]:
        """See `TenantStore.keys`."""
        rules.check_page(limit)
        values: dict[str, object] = {"tenant_id": tenant_id or "", "after": after, "limit": limit}
        wanted = one_of("account_id", () if account_id is None else (account_id,), values)
        with self._transactions.reading() as transaction:
            rows = transaction.execute(
                f"{_KEYS} WHERE tenant_id = :tenant_id AND id > :after{wanted} ORDER BY id LIMIT :limit", **values
            )
        return [key_from(*row) for row in rows]

    def put_key(self, key: Key, event: AuditEvent) -> None:
        """See `TenantStore.put_key`."""
        with self._change(event) as (transaction, number):
            old = [
                key_from(body) for (body,) in transaction.execute("SELECT body FROM api_keys WHERE id = :id", id=key.id)
            ]
            if any(before.tenant_id != key.tenant_id for before in old):
                raise rules.not_found_error("key", "key_id")
            for before in old:
                rules.check_key_change(before, key)
            if key.tenant_id is not None:
                _tenant(transaction, key.tenant_id)
                if key.account_id is not None and all(before.account_id != key.account_id for before in old):
                    _account(transaction, key.tenant_id, key.account_id)
            if transaction.execute(
                "SELECT 1 FROM api_keys WHERE digest = :digest AND id <> :id", digest=key.digest, id=key.id
            ):
                raise rules.exists_error("key", "digest")
            _write_key(transaction, key, number)

    def put_event(self, event: AuditEvent) -> None:
        """See `TenantStore.put_event`."""
        with self._change(event):
            pass

    def events(
        self,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 100,
        kinds: Collection[str] = (),
        tenant_ids: Collection[str] = (),
        since_ms: int | None = None,
        until_ms: int | None = None,
    ) -> list[AuditEvent]:
        """See `TenantStore.events`."""
        rules.check_page(limit)
        is_forwards = before is not None and after is None  # then those next to `before` are the oldest of them
        values: dict[str, object] = {"limit": limit}
        wanted = one_of("kind", kinds, values) + one_of("tenant_id", tenant_ids, values)
        with self._transactions.reading() as transaction:
            for name, compared, limit_of in (
                ("since", "at_ms >=", rules.storable(since_ms)),
                ("until", "at_ms <", rules.storable(until_ms)),
                ("older", "number <", _event_number(transaction, after, "after")),
                ("newer", "number >", _event_number(transaction, before, "before")),
            ):
                if limit_of is not None:
                    wanted += f" AND {compared} :{name}"
                    values[name] = limit_of
            order = "" if is_forwards else "DESC"
            rows = transaction.execute(
                f"SELECT body FROM events WHERE number > 0{wanted} ORDER BY number {order} LIMIT :limit",  # noqa: S608
                **values,
            )
        found = [event_from(body) for (body,) in rows]
        return found[::-1] if is_forwards else found

    def read_setting(self, name: str) -> str | None:
        """See `TenantStore.read_setting`."""
        with self._transactions.reading() as transaction:
            rows = transaction.execute("SELECT value FROM settings WHERE name = :name", name=name)
        return str(rows[0][0]) if rows else None

    def put_setting(self, name: str, value: str, event: AuditEvent) -> None:
        """See `TenantStore.put_setting`."""
        rules.check_setting(name, value)
        with self._change(event) as (transaction, _):
            transaction.execute(
                "INSERT INTO settings (name, value) VALUES (:name, :value) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                name=name,
                value=value,
            )

    def keep_setting(self, name: str, value: str) -> str:
        """See `TenantStore.keep_setting`."""
        rules.check_setting(name, value)
        with self._transactions.writing() as transaction:
            transaction.execute(
                "INSERT INTO settings (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING",
                name=name,
                value=value,
            )
            [(kept,)] = transaction.execute("SELECT value FROM settings WHERE name = :name", name=name)
        return str(kept)

    @contextmanager
    def _change(self, event: AuditEvent) -> Iterator[tuple[Transaction, int]]:
        """A transaction with the next number of a change, which no other has until this one ends, and its event."""
        with self._transactions.writing() as transaction:
            [(number,)] = transaction.execute("UPDATE realm SET changes = changes + 1 RETURNING changes")
            if transaction.execute("SELECT 1 FROM events WHERE id = :id", id=event.id):
                raise rules.exists_error("event", "id")
            transaction.execute(
                "INSERT INTO events (number, id, at_ms, kind, tenant_id, body) "
                "VALUES (:number, :id, :at_ms, :kind, :tenant_id, :body)",
                number=number,
                id=event.id,
                at_ms=event.at_ms,
                kind=event.kind,
                tenant_id=event.tenant_id or "",
                body=text_of(event),
            )
            yield transaction, number


def _check_name(transaction: Transaction, tenant: Tenant) -> None:
    if transaction.execute(
        "SELECT 1 FROM tenant_names WHERE folded = :name AND tenant_id <> :id "
        "UNION SELECT 1 FROM tenants WHERE id = :name AND id <> :id",
        name=fold(tenant.name),
        id=tenant.id,
    ):
        raise rules.same_name_error(tenant.name)


def _tenant(transaction: Transaction, tenant_id: str) -> Tenant:
    rows = transaction.execute("SELECT body FROM tenants WHERE id = :id", id=tenant_id)
    if not rows:
        raise rules.not_found_error("tenant", "tenant_id")
    return tenant_from(rows[0][0])


def _account(transaction: Transaction, tenant_id: str, account_id: str) -> Account:
    rows = transaction.execute(
        "SELECT body FROM accounts WHERE id = :id AND tenant_id = :tenant_id", id=account_id, tenant_id=tenant_id
    )
    if not rows:
        raise rules.not_found_error("account", "account_id")
    return account_from(rows[0][0])


def _write_key(transaction: Transaction, key: Key, number: int) -> None:
    transaction.execute(
        "INSERT INTO api_keys (id, changed, tenant_id, account_id, digest, body) "
        "VALUES (:id, :changed, :tenant_id, :account_id, :digest, :body) ON CONFLICT (id) DO UPDATE "
        "SET changed = excluded.changed, account_id = excluded.account_id, "
        "digest = excluded.digest, body = excluded.body",
        id=key.id,
        changed=number,
        tenant_id=key.tenant_id or "",
        account_id=key.account_id or "",
        digest=key.digest,
        body=text_of(replace(key, last_used_ms=None)),
    )


def _event_number(transaction: Transaction, event_id: str | None, param: str) -> int | None:
    if event_id is None:
        return None
    rows = transaction.execute("SELECT number FROM events WHERE id = :id", id=event_id)
    if not rows:
        raise rules.not_found_error("event", param)
    return int(rows[0][0])
