"""The port to what is kept about tenants: themselves, their keys, the audit log, leased counters and the ledger.

Every method is synchronous, may be called from any thread, and either happens whole or not at all. Failures:
Unavailable (`tenants_unavailable`; `tenants_corrupt` for a broken file), Invalid (`not_found` for an unknown id).

The ledger is what receipts say, added up per minute, tenant, key and model. It can be forgotten and rebuilt from the
log; the log is the truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

from allod.govern.tenancy.tenants import Account, AuditEvent, Charge, Key, Tenant

MINUTE_MS = 60_000
GROUPS = frozenset({"tenant", "key", "model"})


class Changes(NamedTuple):
    """Tenants and keys put after some version, up to `version`. `is_everything`: what is not in it does not exist."""

    version: int
    tenants: tuple[Tenant, ...] = ()
    keys: tuple[Key, ...] = ()
    is_everything: bool = False


class Position(NamedTuple):
    """How much of a log has been charged: the first `num_entries` entries, up to byte `offset` of its segment."""

    num_entries: int
    offset: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over receipts. `requests` were permitted, `refused` forbidden; `unmetered` of the former lack their energy,
    so that `millijoules` is all of it only where `unmetered` is 0."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    engine_ms: int = 0
    millijoules: int = 0
    micros: int = 0
    unmetered: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(getattr(self, name) + getattr(other, name) for name in TOTALS))

    @staticmethod
    def of(charge: Charge) -> Totals:
        """The totals of one receipt."""
        permitted = charge.decision == "permit"
        return Totals(
            requests=int(permitted),
            refused=int(not permitted),
            prompt_tokens=charge.prompt_tokens,
            completion_tokens=charge.completion_tokens,
            cached_tokens=charge.cached_tokens,
            engine_ms=charge.engine_ms,
            millijoules=charge.millijoules or 0,
            micros=charge.micros,
            unmetered=int(permitted and charge.millijoules is None),
        )


TOTALS = tuple(item.name for item in fields(Totals))


class Bucket(NamedTuple):
    """What the ledger adds up by. `minute` counts from 1970."""

    minute: int
    tenant_id: str
    key_id: str
    model: str


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The totals of one period that starts at `start_ms`; what was not grouped by is None."""

    start_ms: int
    tenant_id: str | None
    key_id: str | None
    model: str | None
    totals: Totals


class TenantStore(Protocol):
    """Where tenants are kept. One contract suite holds every adapter to this."""

    def changes_since(self, version: int) -> Changes:
        """Tenants and keys put after `version`; all of them for 0, and for a version that the store has not reached
        (it was put back to an older state). Cheap when nothing changed."""
        ...

    def tenant(self, tenant_id: str) -> Tenant:
        """The tenant, archived or not."""
        ...

    def tenants(self, *, after: str = "", limit: int = 100, include_archived: bool = False) -> list[Tenant]:
        """At most `limit` tenants (1 to 1000) in the order of their ids, from the one that follows `after`."""
        ...

    def put_tenant(self, tenant: Tenant, event: AuditEvent) -> None:
        """Insert or replace it, with its audit event. What is archived stays archived: Invalid (`conflict`) for a
        tenant that is not, since it was read before. No two that are not archived have names that look the same, nor
        one the name that is another's id: Invalid (`tenant_exists`) for a name that is new to it."""
        ...

    def account(self, tenant_id: str, account_id: str) -> Account:
        """The tenant's service account; another tenant's is `not_found`."""
        ...

    def accounts(self, tenant_id: str, *, after: str = "", limit: int = 100) -> list[Account]:
        """The tenant's service accounts, in the order of their ids."""
        ...

    def put_account(self, account: Account, event: AuditEvent) -> None:
        """Insert or replace it. It stays with its tenant."""
        ...

    def delete_account(self, tenant_id: str, account_id: str, event: AuditEvent) -> None:
        """Remove it and revoke its keys as of the event's time."""
        ...

    def key(self, key_id: str) -> Key:
        """The key, revoked or not."""
        ...

    def keys(
        self, *, tenant_id: str | None, account_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[Key]:
        """The tenant's keys, revoked ones too, in the order of their ids; None for the realm's admin keys."""
        ...

    def put_key(self, key: Key, event: AuditEvent) -> None:
        """Insert or replace it. It stays with its tenant, and no two have one digest (Invalid `key_exists`). What is
        revoked stays revoked: Invalid (`conflict`) for a key that is not, unless its digest is a new one."""
        ...

    def put_event(self, event: AuditEvent) -> None:
        """An audit event of what is not kept here. Nobody's `changes_since` has more for it."""
        ...

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
        """Audit events, newest first: those that follow the event `after`, or precede the event `before`, in that
        order; at a time from `since_ms` up to but not including `until_ms`."""
        ...

    def read_setting(self, name: str) -> str | None:
        """A word of the realm's, such as its budget or how long data is retained."""
        ...

    def put_setting(self, name: str, value: str, event: AuditEvent) -> None:
        """Replace it, with its audit event."""
        ...

    def keep_setting(self, name: str, value: str) -> str:
        """What it is; `value` from now on where there was none. Whoever comes first decides for all, and no officer:
        there is no audit event."""
        ...

    def lease(self, *, gateway: str, tenant_id: str, meter: str, window: int, amount: int, limit: int) -> int:
        """What of `amount` is granted: no more than `limit` less what anybody was granted in this window of the meter,
        at least 0. The grant is remembered.

        Windows of a meter are numbered in the order of time; the last few are remembered.
        """
        ...

    def give_back(self, *, gateway: str, tenant_id: str, meter: str, window: int, amount: int) -> None:
        """Return what this gateway was granted and did not use; no more than it was granted."""
        ...

    def charge(self, origin: str, position: Position, charges: Sequence[Charge]) -> None:
        """Add to the ledger and move the position of the log `origin`, all or nothing: so each receipt counts once.

        Raises Invalid (`bad_position`) when the entries since its position are fewer than the charges.
        """
        ...

    def position(self, origin: str) -> Position | None:
        """Up to where receipts of this log have been charged; None where none has."""
        ...

    def used(self, *, tenant_id: str | None, since_ms: int, until_ms: int) -> Totals:
        """What the tenant, or everybody (None), used in minutes that begin from `since_ms` on and before `until_ms`."""
        ...

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
        """The same per period of `bucket_ms` (whole minutes, counted from 1970), by any of "tenant", "key" and
        "model", in the order of the rows' fields. Periods without use are left out."""
        ...

    def forget_ledger(self, origin: str) -> None:
        """Forget what was charged from this log, and its position, before a rebuild."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def sum_charges(charges: Iterable[Charge]) -> dict[Bucket, Totals]:
    """The charges added up as the ledger keeps them."""
    sums: dict[Bucket, Totals] = {}
    for charge in charges:
        bucket = Bucket(charge.start_ms // MINUTE_MS, charge.tenant_id, charge.key_id, charge.model)
        sums[bucket] = sums.get(bucket, Totals()) + Totals.of(charge)
    return sums
