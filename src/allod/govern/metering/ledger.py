"""The ledger's entries: what each receipt in the log costs, and whom. The log is the truth, and rebuilds the ledger.

A leaf that is no valid receipt is stepped over, counted and named: what it would have cost nobody can say, and the
receipts behind it are owed all the same. A receipt names its tenant and key by the day's pseudonyms. Where the day key
was destroyed nobody can say any more whose it was: it is charged to `ERASED`, so that totals still equal the sum of
all receipts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple, Protocol

from allod.core.errors import AllodError, Invalid
from allod.core.statements.receipt import ANSWER, REFUSAL
from allod.core.times import day_of
from allod.govern.tenancy.store import Position, TenantStore
from allod.govern.tenancy.tenants import Charge

ERASED = "erased"  # the tenant of receipts whose day key was destroyed
REFUSED = "refused"  # how a refusal finished
MAX_TOLD = 20  # unreadable entries in one batch

NameOf = Callable[[str, str], str | None]
logger = logging.getLogger(__name__)


class Names(Protocol):
    """What a day's pseudonyms stand for; None where that is not known any more. `day` is YYYY-MM-DD."""

    def tenant_of(self, day: str, pseudonym: str) -> str | None: ...

    def key_of(self, day: str, pseudonym: str) -> str | None: ...


class LedgerEntry(NamedTuple):
    """One entry of the log: its number from 0, the byte of the segment at which it ends, and its statement."""

    number: int
    end: int
    statement: bytes


def charge_of(predicate: Mapping[str, Any], kind: str, *, tenant_of: NameOf, key_of: NameOf) -> Charge | None:
    """What an answer or a refusal costs, from its statement's predicate; None for statements of other kinds.

    Receipts from before there was a meter cost no engine time. Raises Invalid for a predicate that lacks its fields.
    """
    if kind not in (ANSWER, REFUSAL):
        return None
    try:
        day = day_of(predicate["at"]["start_ms"])
        pseudonym, key_pseudonym = predicate["tenant"], (predicate.get("meter") or {}).get("key")
        if not (isinstance(pseudonym, str) and isinstance(key_pseudonym, (str, NoneType))):
            raise TypeError("a pseudonym is text")
    except _LACKING as error:
        raise _lack(error) from error
    tenant_id = tenant_of(day, pseudonym) or ERASED
    key_id = key_of(day, key_pseudonym) or "" if key_pseudonym is not None else ""
    try:
        return _charge(predicate, tenant_id, key_id)
    except _LACKING as error:
        raise _lack(error) from error


_LACKING = (KeyError, TypeError, AttributeError, ValueError, OverflowError, Invalid)


def _lack(error: Exception) -> Invalid:
    return Invalid(f"a receipt lacks what it must have: {error!r}", code="bad_statement")


def _charge(predicate: Mapping[str, Any], tenant_id: str, key_id: str) -> Charge:
    answer, model, meter = predicate["answer"], predicate["model"], predicate.get("meter") or {}
    return Charge(
        receipt_id=predicate["id"],
        tenant_id=tenant_id,
        key_id=key_id,
        model=model["name"] if model else "",
        start_ms=predicate["at"]["start_ms"],
        decision=predicate["policy"]["decision"],
        finish=answer["finish"] if answer else REFUSED,
        prompt_tokens=predicate["request"]["tokens"] or 0,
        completion_tokens=answer["tokens"] or 0 if answer else 0,
        cached_tokens=meter.get("cached_tokens", 0),
        engine_ms=meter.get("engine_ms", 0),
        millijoules=predicate["energy"]["millijoules"],
        micros=meter.get("micros", 0),
    )


class Ledger:
    """Charges the receipts of one log, `origin`, in the order of the log, each of them once."""

    def __init__(self, store: TenantStore, origin: str, names: Names) -> None:
        self._store = store
        self._origin = origin
        self._names = names
        self._position: Position | None = None
        self.num_unreadable = 0  # entries that were stepped over since the start

    def position(self) -> Position:
        """Up to where the log has been charged."""
        if self._position is None:
            self._position = self._store.position(self._origin) or Position(0, 0)
        return self._position

    def post(self, entries: Sequence[tuple[int, int, bytes]]) -> int:
        """Charge these entries, (number, end, statement), but for those charged already; how many were new.

        Blocks on the store. Raises Invalid (`ledger_gap`) and Unavailable; nothing is charged then.
        """
        position = self.position()
        fresh = [entry for entry in map(LedgerEntry._make, entries) if entry.number >= position.num_entries]
        if not fresh:
            return 0
        for expected, entry in enumerate(fresh, position.num_entries):
            if entry.number != expected:
                raise Invalid(
                    f"entry {entry.number} of {self._origin} comes where {expected} should",
                    code="ledger_gap",
                    hint="read the log from the ledger's position on",
                )
        after = Position(fresh[-1].number + 1, fresh[-1].end)
        unreadable: list[tuple[int, str]] = []
        try:
            self._store.charge(self._origin, after, list(self._charges(fresh, unreadable)))
        except AllodError:
            self._position = None  # it may have been charged all the same: ask again
            raise
        self._position = after
        self._report(unreadable)
        return len(fresh)

    def _charges(self, entries: Sequence[LedgerEntry], unreadable: list[tuple[int, str]]) -> Iterator[Charge]:
        """What they cost; those that are no receipts go into `unreadable`, by number, with the reason."""
        names = self._names
        for entry in entries:
            try:
                kind, predicate = _read(entry.statement)
                charge = charge_of(predicate, kind, tenant_of=names.tenant_of, key_of=names.key_of)
            except Invalid as error:
                if error.code != "bad_statement":  # no fault of the entry
                    raise
                unreadable.append((entry.number, error.message))
                continue
            if charge is not None:
                yield charge

    def _report(self, unreadable: Sequence[tuple[int, str]]) -> None:
        self.num_unreadable += len(unreadable)
        for number, reason in unreadable[:MAX_TOLD]:
            logger.error("entry %d of %s is no receipt and is charged to nobody: %s", number, self._origin, reason)
        if len(unreadable) > MAX_TOLD:
            logger.error("and %d more; `allod log fsck` names them all", len(unreadable) - MAX_TOLD)


def _read(leaf: bytes) -> tuple[str, Mapping[str, Any]]:
    """A leaf's kind and predicate. Raises Invalid (`bad_statement`)."""
    try:
        statement = json.loads(leaf)
        return statement["predicateType"], statement["predicate"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Invalid("it is no statement", code="bad_statement") from error
