"""The meter: reads what the log has made durable, and charges it to the ledger. One way, whether live or after a crash.

What a tenant is charged is what its receipts say, and nothing else: there is no second count that could differ.
"""

from __future__ import annotations

from allod.app.home import Home
from allod.core.errors import Invalid, Unavailable
from allod.govern.metering.ledger import Ledger
from allod.govern.tenancy.store import Position, TenantStore
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.begun import check_not_gone
from allod.prove.tlog.log import Log, open_log
from allod.prove.tlog.segment import MAGIC, Batches
from allod.settings.tree import Settings

MAX_ENTRIES = 4096  # in one transaction


class DayNames:
    """Whose the pseudonyms in receipts are. A day that is not in memory is read once, from the keys that are left."""

    def __init__(self, day_keys: DayKeys, store: TenantStore) -> None:
        self._day_keys = day_keys
        self._store = store
        self._read: set[str] = set()

    def tenant_of(self, day: str, pseudonym: str) -> str | None:
        found = self._day_keys.tenant_named(day, pseudonym)
        if found is None and self._read_day(day):
            found = self._day_keys.tenant_named(day, pseudonym)
        return found

    def key_of(self, day: str, pseudonym: str) -> str | None:
        found = self._day_keys.key_named(day, pseudonym)
        if found is None and self._read_day(day):
            found = self._day_keys.key_named(day, pseudonym)
        return found

    def _read_day(self, day: str) -> bool:
        """Whether there was anything to read: names of today's new tenants and keys come in with their first use."""
        if day in self._read:
            return False
        everything = self._store.changes_since(0)
        keys_of: dict[str, list[str]] = {tenant.id: [] for tenant in everything.tenants}
        for key in everything.keys:
            if key.tenant_id is not None:
                keys_of.setdefault(key.tenant_id, []).append(key.id)
        self._day_keys.read_day(day, keys_of)
        self._read.add(day)  # not before: what failed is tried again
        return True


class Meter:
    """Charges one log's receipts. For one thread at a time."""

    def __init__(self, log: Log, ledger: Ledger) -> None:
        self._log = log
        self._ledger = ledger

    @property
    def num_unreadable(self) -> int:
        """Entries that are no receipts, and were stepped over since the start."""
        return self._ledger.num_unreadable

    def catch_up(self) -> int:
        """Charge everything durable that has not been charged; how many entries that was.

        An entry that is no valid receipt is stepped over: it is logged by its number, and counted.

        Raises Unavailable: the store's reason, `ledger_ahead` where the ledger has charged more than the log holds, or
        `log_short` and `log_unavailable` where the log's segment or the day keys cannot be read.
        """
        position, size = self._ledger.position(), self._log.head.size
        if position.num_entries > size:
            raise Unavailable(
                f"the ledger has charged {position.num_entries} receipts and the log holds {size}",
                code="ledger_ahead",
                hint="put the log back: `allod log fsck` says what it had; only where this one is meant, "
                "`allod tenant recount` makes the ledger anew from it",
            )
        if position.num_entries == size:
            return 0
        try:
            return self._charge(position, size)
        except OSError as error:
            raise Unavailable(f"the log cannot be charged ({error.strerror})", code="log_unavailable") from error

    def _charge(self, position: Position, size: int) -> int:
        num_charged = 0
        with self._log.segment_path.open("rb") as file:
            number = position.num_entries
            entries: list[tuple[int, int, bytes]] = []
            for batch in Batches(file, max(position.offset, len(MAGIC)), limit=self._log.end):
                entries += [(number + index, frame.end, frame.payload) for index, frame in enumerate(batch.entries)]
                number += len(batch.entries)
                if number >= size or len(entries) >= MAX_ENTRIES:
                    num_charged += self._post(entries[: size - entries[0][0]] if entries else [])
                    entries.clear()
                if number >= size:
                    break
        if number < size:
            raise Unavailable(
                "the log's segment ends before its last tree head", code="log_short", hint="allod log fsck"
            )
        return num_charged

    def _post(self, entries: list[tuple[int, int, bytes]]) -> int:
        try:
            return self._ledger.post(entries)
        except Invalid as error:  # a gap: the ledger must not go on
            raise Unavailable(error.message, code=error.code, hint=error.hint) from error


def check_log_is_there(settings: Settings, store: TenantStore) -> None:
    """Raise Unavailable (`log_gone`) where receipts were charged and their log is no more: no other is begun for it."""
    position = store.position(settings.origin)
    num = position.num_entries if position else 0
    kept = f"the ledger has charged {num}" if num else None
    check_not_gone(Home(settings.home).receipts, "the log of receipts", kept)


def recount(settings: Settings, store: TenantStore) -> int:
    """Make this gateway's part of the ledger anew from its log; how many receipts that was. No gateway may run.

    Raises Unavailable: (`log_locked`) while one does, (`log_gone`). Receipts whose day key was destroyed are nobody's
    from then on.
    """
    home = Home(settings.home)
    check_log_is_there(settings, store)
    log = open_log(home.receipts, home.signing_key(settings.origin))
    try:
        store.forget_ledger(settings.origin)
        ledger = Ledger(store, settings.origin, DayNames(DayKeys(home.day_keys), store))
        return Meter(log, ledger).catch_up()
    finally:
        log.close()
