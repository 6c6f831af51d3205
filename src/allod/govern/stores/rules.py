"""What every store refuses and grants, in one place: pure, so that adapters differ only in how they keep things."""

from __future__ import annotations

from collections.abc import Collection

from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.errors import Invalid
from allod.core.shown_text import fold
from allod.govern.tenancy.store import GROUPS, MINUTE_MS, Position
from allod.govern.tenancy.tenants import Key, Tenant

MAX_PAGE = 1000
MAX_SETTING = 16384  # characters
NUM_WINDOWS_KEPT = 5  # of each meter: enough for gateways whose clocks differ by less than that


def not_found_error(what: str, param: str) -> Invalid:
    """The one answer for what does not exist and for what is another tenant's."""
    return Invalid(f"no such {what}", code="not_found", param=param)


def exists_error(what: str, param: str) -> Invalid:
    """The answer to a second one where there can be one only."""
    return Invalid(f"there is such a {what} already", code=f"{what}_exists", param=param)


def check_tenant_change(old: Tenant, new: Tenant) -> None:
    """Raise Invalid for a change made from what was read before the tenant was archived."""
    if old.archived_ms is not None and new.archived_ms is None:
        raise _conflict("the tenant was archived", "archived_ms")


def must_check_name(old: Tenant | None, new: Tenant) -> bool:
    """Whether the name is to be compared with the others': what was named before the rule can still be changed."""
    return new.archived_ms is None and (old is None or fold(old.name) != fold(new.name))


def same_name_error(name: str) -> Invalid:
    """The answer to a name that a reader could take for another tenant's."""
    return Invalid(
        f"there is a tenant already whose name or id looks like {name!r}",
        code="tenant_exists",
        param="name",
        hint="choose a name that nobody mistakes for it",
    )


def check_key_change(old: Key, new: Key) -> None:
    """Raise Invalid for a change made from what was read before the key was revoked. A new digest is a new secret."""
    if old.revoked_ms is not None and new.revoked_ms is None and new.digest == old.digest:
        raise _conflict("the key was revoked", "revoked_ms")


def check_page(limit: int) -> None:
    """Raise Invalid unless it is a page's length."""
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"limit must be from 1 to {MAX_PAGE}", param="limit")


def check_lease(*, amount: int, limit: int, window: int = 0) -> None:
    """Raise Invalid for a negative amount, and for numbers that no store can hold."""
    if amount < 0:
        raise Invalid("amount must not be negative", param="amount")
    for param, number in (("amount", amount), ("limit", limit), ("window", window)):
        if abs(number) > MAX_SAFE_INTEGER:
            raise Invalid(f"{param} is beyond 2^53 - 1", param=param)


def grant(*, amount: int, limit: int, taken: int) -> int:
    """How much of `amount` fits under `limit` when `taken` is granted already."""
    return max(0, min(amount, limit - taken))


def check_position(was: Position | None, position: Position, num_charges: int) -> None:
    """Raise Invalid unless the log grew from `was` to `position` by at least as many entries as are charged.

    So a batch that was charged before, in whole or in part, is refused rather than counted twice.
    """
    before = was or Position(0, 0)
    num_entries = position.num_entries - before.num_entries
    if num_entries < num_charges or position.offset < before.offset or max(position) > MAX_SAFE_INTEGER:
        raise Invalid(
            f"{num_charges} receipts cannot lie between {before} and {position} of the log",
            code="bad_position",
            param="position",
            hint="read the ledger's position again: another process may have charged this log",
        )


def check_usage(bucket_ms: int, group_by: Collection[str]) -> None:
    """Raise Invalid unless the ledger can answer with these groups."""
    if bucket_ms < MINUTE_MS or bucket_ms % MINUTE_MS:
        raise Invalid("bucket_ms must be whole minutes", param="bucket_ms")
    if not GROUPS.issuperset(group_by):
        raise Invalid("group_by knows tenant, key and model", param="group_by")


def check_filters(**filters: Collection[str]) -> None:
    """Raise Invalid for more values than a statement takes."""
    for param, values in filters.items():
        if len(values) > MAX_PAGE:
            raise Invalid(f"at most {MAX_PAGE} of {param} at once", param=param)


def check_setting(name: str, value: str) -> None:
    """Raise Invalid for a setting that not every database can hold."""
    for param, text, at_most in (("name", name, 64), ("value", value, MAX_SETTING)):
        if len(text) > at_most or "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise Invalid(f"{param} must be at most {at_most} characters of text", param=param)


def storable(number: int | None) -> int | None:
    """The number, or the nearest that a database can compare with."""
    return number if number is None else max(-MAX_SAFE_INTEGER, min(number, MAX_SAFE_INTEGER))


def first_minute(at_ms: int) -> int:
    """The first minute that begins at that time or later; the nearest that a database can compare with."""
    return max(-MAX_SAFE_INTEGER, min(-(-at_ms // MINUTE_MS), MAX_SAFE_INTEGER))


def _conflict(what: str, param: str) -> Invalid:
    return Invalid(
        f"{what}, and this change would undo it",
        code="conflict",
        param=param,
        hint="read it again: somebody ended it in the meantime, and what was ended stays so",
    )
