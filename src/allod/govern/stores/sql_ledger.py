"""Leases, the ledger and its positions in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from allod.govern.stores import rules
from allod.govern.stores.database import Transaction, Transactions
from allod.govern.tenancy.store import MINUTE_MS, TOTALS, Position, Totals, UsageRow, sum_charges
from allod.govern.tenancy.tenants import Charge

_ADD_TO_LEDGER = (  # names of our own columns, nobody's input
    f"INSERT INTO ledger (tenant_id, minute, key_id, model, origin, {', '.join(TOTALS)}) "  # noqa: S608
    f"VALUES (:tenant_id, :minute, :key_id, :model, :origin, :{', :'.join(TOTALS)}) "
    "ON CONFLICT (tenant_id, minute, key_id, model, origin) DO UPDATE SET "
    + ", ".join(f"{name} = ledger.{name} + excluded.{name}" for name in TOTALS)
)
_REMEMBER_USE = (
    "INSERT INTO key_uses (key_id, last_ms) VALUES (:key_id, :last_ms) ON CONFLICT (key_id) DO UPDATE "
    "SET last_ms = CASE WHEN excluded.last_ms > key_uses.last_ms THEN excluded.last_ms ELSE key_uses.last_ms END"
)
_SUMS = ", ".join(f"COALESCE(SUM({name}), 0)" for name in TOTALS)
_COLUMNS = {"tenant": "tenant_id", "key": "key_id", "model": "model"}


class SqlLedger:
    """The half of a store that counts."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def lease(self, *, gateway: str, tenant_id: str, meter: str, window: int, amount: int, limit: int) -> int:
        """See `TenantStore.lease`. The window's row is locked from its reading to the end, whoever else asks."""
        rules.check_lease(amount=amount, limit=limit, window=window)
        which: dict[str, object] = {"tenant_id": tenant_id, "meter": meter, "number": window}
        with self._transactions.writing() as transaction:
            is_new = transaction.execute(
                "INSERT INTO windows (tenant_id, meter, number, granted) VALUES (:tenant_id, :meter, :number, 0) "
                "ON CONFLICT DO NOTHING RETURNING 1",
                **which,
            )
            if is_new:
                _forget_windows(transaction, tenant_id, meter, before=window - rules.NUM_WINDOWS_KEPT)
            [(taken,)] = transaction.execute(
                "SELECT granted FROM windows "
                "WHERE tenant_id = :tenant_id AND meter = :meter AND number = :number {for_update}",
                **which,
            )
            grant = rules.grant(amount=amount, limit=limit, taken=taken)
            if grant:
                _add_to_window(transaction, which, gateway, grant)
        return grant

    def give_back(self, *, gateway: str, tenant_id: str, meter: str, window: int, amount: int) -> None:
        """See `TenantStore.give_back`."""
        rules.check_lease(amount=amount, limit=0, window=window)
        which: dict[str, object] = {"tenant_id": tenant_id, "meter": meter, "number": window}
        with self._transactions.writing() as transaction:
            transaction.execute(  # in the order in which `lease` locks
                "SELECT granted FROM windows "
                "WHERE tenant_id = :tenant_id AND meter = :meter AND number = :number {for_update}",
                **which,
            )
            had = transaction.execute(
                "SELECT granted FROM leases WHERE tenant_id = :tenant_id AND meter = :meter AND number = :number "
                "AND gateway = :gateway",
                gateway=gateway,
                **which,
            )
            for (granted,) in had:
                _add_to_window(transaction, which, gateway, -min(amount, granted))

    def charge(self, origin: str, position: Position, charges: Sequence[Charge]) -> None:
        """See `TenantStore.charge`."""
        sums, uses = sum_charges(charges), _last_uses(charges)
        with self._transactions.writing() as transaction:
            transaction.execute(
                "INSERT INTO positions (origin, num_entries, segment_offset) VALUES (:origin, 0, 0) "
                "ON CONFLICT DO NOTHING",
                origin=origin,
            )
            [was] = transaction.execute(
                "SELECT num_entries, segment_offset FROM positions WHERE origin = :origin {for_update}", origin=origin
            )
            rules.check_position(Position(*was), position, len(charges))
            rows = [
                {"origin": origin, **bucket._asdict(), **{name: getattr(totals, name) for name in TOTALS}}
                for bucket, totals in sums.items()
            ]
            transaction.execute_many(_ADD_TO_LEDGER, rows)
            transaction.execute_many(
                _REMEMBER_USE, [{"key_id": key_id, "last_ms": last_ms} for key_id, last_ms in uses]
            )
            transaction.execute(
                "UPDATE positions SET num_entries = :num_entries, segment_offset = :segment_offset "
                "WHERE origin = :origin",
                origin=origin,
                num_entries=position.num_entries,
                segment_offset=position.offset,
            )

    def position(self, origin: str) -> Position | None:
        """See `TenantStore.position`."""
        with self._transactions.reading() as transaction:
            found = transaction.execute(
                "SELECT num_entries, segment_offset FROM positions WHERE origin = :origin", origin=origin
            )
        return Position(*found[0]) if found else None

    def used(self, *, tenant_id: str | None, since_ms: int, until_ms: int) -> Totals:
        """See `TenantStore.used`."""
        whose = "" if tenant_id is None else "tenant_id = :tenant_id AND "
        with self._transactions.reading() as transaction:
            [sums] = transaction.execute(
                f"SELECT {_SUMS} FROM ledger "  # noqa: S608  (names of our own columns)
                f"WHERE {whose}minute >= :since AND minute < :until",
                tenant_id=tenant_id or "",
                since=rules.first_minute(since_ms),
                until=rules.first_minute(until_ms),
            )
        return _totals(sums)

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
        """See `TenantStore.usage`."""
        rules.check_usage(bucket_ms, group_by)
        groups = [column if name in group_by else "''" for name, column in _COLUMNS.items()]
        values: dict[str, object] = {
            "since": rules.first_minute(since_ms),
            "until": rules.first_minute(until_ms),
            "minutes": bucket_ms // MINUTE_MS,
        }
        wanted = "".join(
            one_of(column, choices, values)
            for column, choices in (("tenant_id", tenant_ids), ("model", models), ("key_id", key_ids))
        )
        with self._transactions.reading() as transaction:
            rows = transaction.execute(
                f"SELECT minute / :minutes, {', '.join(groups)}, {_SUMS} FROM ledger "  # noqa: S608  (our own columns)
                f"WHERE minute >= :since AND minute < :until{wanted} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
                **values,
            )
        return [_usage_row(row, bucket_ms, group_by) for row in rows]

    def forget_ledger(self, origin: str) -> None:
        """See `TenantStore.forget_ledger`."""
        with self._transactions.writing() as transaction:
            transaction.execute("DELETE FROM ledger WHERE origin = :origin", origin=origin)
            transaction.execute("DELETE FROM positions WHERE origin = :origin", origin=origin)

    def close(self) -> None:
        """See `TenantStore.close`."""
        self._transactions.close()


def one_of(column: str, choices: Collection[str], values: dict[str, object]) -> str:
    """` AND column IN (...)` with its `choices` among the `values`; nothing where there are none."""
    if not choices:
        return ""
    rules.check_filters(**{column: choices})
    names = {f"{column}_{number}": value for number, value in enumerate(choices)}
    values |= names
    return f" AND {column} IN ({', '.join(f':{name}' for name in names)})"


def _add_to_window(transaction: Transaction, which: dict[str, object], gateway: str, amount: int) -> None:
    transaction.execute(
        "UPDATE windows SET granted = granted + :amount "
        "WHERE tenant_id = :tenant_id AND meter = :meter AND number = :number",
        amount=amount,
        **which,
    )
    transaction.execute(
        "INSERT INTO leases (tenant_id, meter, number, gateway, granted) "
        "VALUES (:tenant_id, :meter, :number, :gateway, :amount) "
        "ON CONFLICT (tenant_id, meter, number, gateway) DO UPDATE SET granted = leases.granted + excluded.granted",
        gateway=gateway,
        amount=amount,
        **which,
    )


def _forget_windows(transaction: Transaction, tenant_id: str, meter: str, *, before: int) -> None:
    for table in ("windows", "leases"):
        transaction.execute(
            f"DELETE FROM {table} "  # noqa: S608  (one of the two names above)
            "WHERE tenant_id = :tenant_id AND meter = :meter AND number < :before",
            tenant_id=tenant_id,
            meter=meter,
            before=before,
        )


def _last_uses(charges: Sequence[Charge]) -> list[tuple[str, int]]:
    """Each key and when it was used last, in one order for all, so that two ledgers never wait for each other."""
    last: dict[str, int] = {}
    for charge in charges:
        if charge.key_id:
            last[charge.key_id] = max(charge.start_ms, last.get(charge.key_id, 0))
    return sorted(last.items())


def _totals(sums: Sequence[object]) -> Totals:
    return Totals(*(int(str(number)) for number in sums))  # PostgreSQL sums whole numbers as decimals


def _usage_row(row: Sequence[object], bucket_ms: int, group_by: Collection[str]) -> UsageRow:
    start, *groups = row[:4]
    tenant_id, key_id, model = (
        str(value) if name in group_by else None for name, value in zip(_COLUMNS, groups, strict=True)
    )
    return UsageRow(int(str(start)) * bucket_ms, tenant_id, key_id, model, _totals(row[4:]))
