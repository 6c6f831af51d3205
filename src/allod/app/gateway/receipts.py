"""The latest receipts, read back through the log from its end, in steps that are bounded however long the log is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from allod.core.errors import Unavailable
from allod.core.statements.receipt import ANSWER, REFUSAL
from allod.core.times import day_of
from allod.prove.tlog.log import Log

STEP = 128  # entries read at once
MAX_LOOKED_AT = 4096  # entries in one reading
MAX_DAYS = 8  # in one reading: the names of each may have to be fetched first

TenantOf = Callable[[str, str], str | None]
"""(day, pseudonym) → whose it is, if that is still known."""


class DayName(Protocol):
    """A tenant's name in one day's receipts."""

    @property
    def pseudonym(self) -> str: ...


FindDayName = Callable[[str, str], DayName | None]
"""(tenant, day) → its name in that day's receipts; None where it has none, or none any more."""


@dataclass(frozen=True, slots=True)
class ReceiptQuery:
    """Which receipts, newest first: those before entry number `before`, of a tenant, decided so. None: any."""

    limit: int
    before: int | None = None
    tenant_id: str | None = None
    decision: str | None = None


class FoundReceipt(NamedTuple):
    """A receipt by the number of its entry, its predicate, and whose it is if that is still known."""

    entry: int
    kind: str
    predicate: Mapping[str, Any]
    tenant_id: str | None


class ReceiptPage(NamedTuple):
    """What was found, and the `before` with which to read on; None at the log's beginning."""

    found: list[FoundReceipt]
    before: int | None


class ReceiptReader:
    """Reads back through one log. For one thread at a time; blocks."""

    def __init__(self, log: Log, *, find: FindDayName, tenant_of: TenantOf) -> None:
        self._log = log
        self._find = find
        self._tenant_of = tenant_of

    def read(self, query: ReceiptQuery) -> ReceiptPage:
        """Fewer than the limit only where the reading reached one of its bounds; then `before` says where it stopped.

        Raises Unavailable where the log cannot be read.
        """
        size = self._log.head.size
        end = size if query.before is None else min(query.before, size)
        lowest = max(0, end - MAX_LOOKED_AT)
        search = _Search(query, self._find)
        while end > lowest:
            start = max(lowest, end - STEP)
            entries = reversed(self._entries(start, end - start))
            for number, entry in zip(reversed(range(start, end)), entries, strict=True):
                if not search.see(number, entry):
                    return self._with_names(search.found, number + 1)
            end = start
        return self._with_names(search.found, end or None)

    def _entries(self, first: int, count: int) -> list[bytes]:
        try:
            return self._log.entries(first, count)
        except OSError as error:
            raise Unavailable(f"the log cannot be read ({error.strerror})", code="log_unavailable") from error

    def _with_names(self, found: list[FoundReceipt], before: int | None) -> ReceiptPage:
        named = [
            item
            if item.tenant_id
            else item._replace(tenant_id=self._tenant_of(_day(item.predicate), _name(item.predicate)))
            for item in found
        ]
        return ReceiptPage(named, before)


class _Search:
    def __init__(self, query: ReceiptQuery, find: FindDayName) -> None:
        self.found: list[FoundReceipt] = []
        self._query = query
        self._find = find
        self._days: dict[str, str | None] = {}  # → the name that the wanted tenant has in its receipts

    def see(self, number: int, entry: bytes) -> bool:
        """Keep it if it is wanted; False for one that is for the next reading, and so are all before it."""
        if len(self.found) == self._query.limit:
            return False
        try:
            statement = json.loads(entry)
            kind, predicate = statement["predicateType"], statement["predicate"]
            if kind not in (ANSWER, REFUSAL):
                return True
            day = _day(predicate)
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return True  # no receipt, and nobody's: `allod log fsck` names it
        if day not in self._days:
            if len(self._days) == MAX_DAYS:
                return False
            self._days[day] = self._name_of_the_tenant(day)
        with suppress(LookupError, TypeError):
            if self._is_wanted(predicate, self._days[day]):
                self.found.append(FoundReceipt(number, kind, predicate, self._query.tenant_id))
        return True

    def _name_of_the_tenant(self, day: str) -> str | None:
        found = self._find(self._query.tenant_id, day) if self._query.tenant_id is not None else None
        return found.pseudonym if found is not None else None

    def _is_wanted(self, predicate: Mapping[str, Any], name: str | None) -> bool:
        query = self._query
        if query.decision is not None and predicate["policy"]["decision"] != query.decision:
            return False
        return query.tenant_id is None or (name is not None and _name(predicate) == name)


def _day(predicate: Mapping[str, Any]) -> str:
    return day_of(predicate["at"]["start_ms"])


def _name(predicate: Mapping[str, Any]) -> str:
    return str(predicate["tenant"])
