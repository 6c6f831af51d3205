"""A store that forgets everything when the process ends: for tests, and for a realm that is to leave no trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from threading import Lock
from typing import TypeVar

from allod.core.shown_text import fold
from allod.govern.stores import rules
from allod.govern.tenancy.store import MINUTE_MS, Bucket, Changes, Position, Totals, UsageRow, sum_charges
from allod.govern.tenancy.tenants import Account, AuditEvent, Charge, Key, Tenant

_Row = TypeVar("_Row", Tenant, Account, Key)


class MemoryStore:
    """Dictionaries behind one lock."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._version = 0
        self._tenants: dict[str, Tenant] = {}
        self._tenant_named: dict[str, str] = {}  # the id by the name as `fold` reads it; of those not archived
        self._tenant_versions: dict[str, int] = {}  # the version that put each last, the latest last
        self._accounts: dict[str, Account] = {}
        self._keys: dict[str, Key] = {}
        self._key_versions: dict[str, int] = {}
        self._key_of_digest: dict[str, str] = {}
        self._events: dict[str, AuditEvent] = {}  # oldest first
        self._settings: dict[str, str] = {}
        self._leases: dict[tuple[str, str], dict[int, dict[str, int]]] = defaultdict(dict)
        self._ledger: dict[str, dict[Bucket, Totals]] = defaultdict(dict)
        self._positions: dict[str, Position] = {}
        self._last_used: dict[str, int] = {}

    def changes_since(self, version: int) -> Changes:
        with self._lock:
            is_everything = not 0 < version <= self._version
            since = 0 if is_everything else version
            tenants = tuple(self._tenants[name] for name in _later(self._tenant_versions, since))
            keys = tuple(self._keys[name] for name in _later(self._key_versions, since))
            return Changes(self._version, tenants, keys, is_everything)

    def tenant(self, tenant_id: str) -> Tenant:
        try:
            return self._tenants[tenant_id]
        except KeyError:
            raise rules.not_found_error("tenant", "tenant_id") from None

    def tenants(self, *, after: str = "", limit: int = 100, include_archived: bool = False) -> list[Tenant]:
        with self._lock:
            tenants = self._tenants.values()
            return _page((each for each in tenants if include_archived or each.archived_ms is None), after, limit)

    def put_tenant(self, tenant: Tenant, event: AuditEvent) -> None:
        with self._change(event) as number:
            old = self._tenants.get(tenant.id)
            if old is not None:
                rules.check_tenant_change(old, tenant)
            if rules.must_check_name(old, tenant):
                self._check_name(tenant)
            if old is not None and old.archived_ms is None:
                del self._tenant_named[fold(old.name)]
            if tenant.archived_ms is None:
                self._tenant_named[fold(tenant.name)] = tenant.id
            self._tenants[tenant.id] = tenant
            _note(self._tenant_versions, tenant.id, number)

    def _check_name(self, tenant: Tenant) -> None:
        name = fold(tenant.name)
        for holder in (self._tenant_named.get(name), name if name in self._tenants else None):
            if holder not in (None, tenant.id):
                raise rules.same_name_error(tenant.name)

    def account(self, tenant_id: str, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None or account.tenant_id != tenant_id:
            raise rules.not_found_error("account", "account_id")
        return account

    def accounts(self, tenant_id: str, *, after: str = "", limit: int = 100) -> list[Account]:
        with self._lock:
            return _page((each for each in self._accounts.values() if each.tenant_id == tenant_id), after, limit)

    def put_account(self, account: Account, event: AuditEvent) -> None:
        with self._change(event):
            self.tenant(account.tenant_id)
            if account.id in self._accounts:
                self.account(account.tenant_id, account.id)
            self._accounts[account.id] = account

    def delete_account(self, tenant_id: str, account_id: str, event: AuditEvent) -> None:
        with self._change(event) as number:
            self.account(tenant_id, account_id)
            del self._accounts[account_id]
            for key in self._keys.values():
                if key.account_id == account_id and key.revoked_ms is None:
                    self._keys[key.id] = replace(key, revoked_ms=event.at_ms)
                    _note(self._key_versions, key.id, number)

    def key(self, key_id: str) -> Key:
        key = self._keys.get(key_id)
        if key is None:
            raise rules.not_found_error("key", "key_id")
        return self._with_use(key)

    def keys(
        self, *, tenant_id: str | None, account_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[Key]:
        with self._lock:
            found = (
                key
                for key in self._keys.values()
                if key.tenant_id == tenant_id and (account_id is None or key.account_id == account_id)
            )
            return [self._with_use(key) for key in _page(found, after, limit)]

    def put_key(self, key: Key, event: AuditEvent) -> None:
        with self._change(event) as number:
            old = self._keys.get(key.id)
            if old is not None and old.tenant_id != key.tenant_id:
                raise rules.not_found_error("key", "key_id")
            if old is not None:
                rules.check_key_change(old, key)
            if key.tenant_id is not None:
                self.tenant(key.tenant_id)
                if key.account_id is not None and (old is None or old.account_id != key.account_id):
                    self.account(key.tenant_id, key.account_id)
            if self._key_of_digest.get(key.digest, key.id) != key.id:
                raise rules.exists_error("key", "digest")
            if old is not None:
                del self._key_of_digest[old.digest]
            self._key_of_digest[key.digest] = key.id
            self._keys[key.id] = replace(key, last_used_ms=None)
            _note(self._key_versions, key.id, number)

    def put_event(self, event: AuditEvent) -> None:
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
        rules.check_page(limit)
        rules.check_filters(kind=kinds, tenant_id=tenant_ids)
        with self._lock:
            order = list(self._events)
            first = order.index(self._event(before, "before")) + 1 if before is not None else 0
            last = order.index(self._event(after, "after")) if after is not None else len(order)
            found = [
                event
                for event in (self._events[name] for name in order[first:last])
                if (not kinds or event.kind in kinds)
                and (not tenant_ids or event.tenant_id in tenant_ids)
                and (since_ms is None or event.at_ms >= since_ms)
                and (until_ms is None or event.at_ms < until_ms)
            ]
        nearest = found[:limit] if before is not None and after is None else found[-limit:]
        return nearest[::-1]

    def read_setting(self, name: str) -> str | None:
        return self._settings.get(name)

    def put_setting(self, name: str, value: str, event: AuditEvent) -> None:
        rules.check_setting(name, value)
        with self._change(event):
            self._settings[name] = value

    def keep_setting(self, name: str, value: str) -> str:
        rules.check_setting(name, value)
        with self._lock:
            return self._settings.setdefault(name, value)

    def lease(self, *, gateway: str, tenant_id: str, meter: str, window: int, amount: int, limit: int) -> int:
        rules.check_lease(amount=amount, limit=limit, window=window)
        with self._lock:
            windows = self._leases[tenant_id, meter]
            for old in [number for number in windows if number < window - rules.NUM_WINDOWS_KEPT]:
                del windows[old]
            grants = windows.setdefault(window, defaultdict(int))
            grant = rules.grant(amount=amount, limit=limit, taken=sum(grants.values()))
            grants[gateway] += grant
            return grant

    def give_back(self, *, gateway: str, tenant_id: str, meter: str, window: int, amount: int) -> None:
        rules.check_lease(amount=amount, limit=0, window=window)
        with self._lock:
            grants = self._leases[tenant_id, meter].get(window, {})
            if gateway in grants:
                grants[gateway] -= min(amount, grants[gateway])

    def charge(self, origin: str, position: Position, charges: Sequence[Charge]) -> None:
        with self._lock:
            rules.check_position(self._positions.get(origin), position, len(charges))
            ledger = self._ledger[origin]
            for bucket, totals in sum_charges(charges).items():
                ledger[bucket] = ledger.get(bucket, Totals()) + totals
            for charge in charges:
                self._last_used[charge.key_id] = max(charge.start_ms, self._last_used.get(charge.key_id, 0))
            self._positions[origin] = position

    def position(self, origin: str) -> Position | None:
        return self._positions.get(origin)

    def used(self, *, tenant_id: str | None, since_ms: int, until_ms: int) -> Totals:
        since, until = rules.first_minute(since_ms), rules.first_minute(until_ms)
        with self._lock:
            found = (
                totals
                for ledger in self._ledger.values()
                for bucket, totals in ledger.items()
                if tenant_id in (None, bucket.tenant_id) and since <= bucket.minute < until
            )
            return sum(found, Totals())

    def usage(
        self,
        *,
        since_ms: int,
        until_ms: int,
        bucket_ms: int,
        group_by: Collection[str] = (),
        tenant_ids: Collection[str] = (),
        models: Collection[str] = (),
        key_ids: Collection[str] = (),
    ) -> list[UsageRow]:
        rules.check_usage(bucket_ms, group_by)
        rules.check_filters(tenant_id=tenant_ids, model=models, key_id=key_ids)
        since, until = rules.first_minute(since_ms), rules.first_minute(until_ms)
        sums: dict[tuple[int, str | None, str | None, str | None], Totals] = defaultdict(Totals)
        with self._lock:
            for bucket, totals in (item for ledger in self._ledger.values() for item in ledger.items()):
                if (
                    since <= bucket.minute < until
                    and (not tenant_ids or bucket.tenant_id in tenant_ids)
                    and (not models or bucket.model in models)
                    and (not key_ids or bucket.key_id in key_ids)
                ):
                    sums[
                        bucket.minute * MINUTE_MS // bucket_ms * bucket_ms,
                        bucket.tenant_id if "tenant" in group_by else None,
                        bucket.key_id if "key" in group_by else None,
                        bucket.model if "model" in group_by else None,
                    ] += totals
        return [UsageRow(*names, totals) for names, totals in sorted(sums.items(), key=lambda item: _order(item[0]))]

    def forget_ledger(self, origin: str) -> None:
        with self._lock:
            self._ledger.pop(origin, None)
            self._positions.pop(origin, None)

    def close(self) -> None:
        pass

    @contextmanager
    def _change(self, event: AuditEvent) -> Iterator[int]:
        """The number of a change; it and its event count if the block, which checks before it changes, ends well."""
        with self._lock:
            if event.id in self._events:
                raise rules.exists_error("event", "id")
            yield self._version + 1
            self._version += 1
            self._events[event.id] = event

    def _event(self, event_id: str, param: str) -> str:
        if event_id not in self._events:
            raise rules.not_found_error("event", param)
        return event_id

    def _with_use(self, key: Key) -> Key:
        return replace(key, last_used_ms=self._last_used.get(key.id))


def _note(versions: dict[str, int], name: str, version: int) -> None:
    versions.pop(name, None)
    versions[name] = version


def _later(versions: dict[str, int], since: int) -> Iterable[str]:
    return takewhile(lambda name: versions[name] > since, reversed(versions))


def _page(rows: Iterable[_Row], after: str, limit: int) -> list[_Row]:
    rules.check_page(limit)
    return sorted((row for row in rows if row.id > after), key=lambda row: row.id)[:limit]


def _order(names: tuple[int, str | None, str | None, str | None]) -> tuple[int, str, str, str]:
    start, *groups = names
    tenant, key, model = (group or "" for group in groups)
    return start, tenant, key, model
