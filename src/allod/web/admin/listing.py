"""Pages of lists: `first_id`, `last_id` and `has_more`, and the ids that say where a page begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from allod.core.errors import Invalid
from allod.web.admin.query import Query
from allod.web.admin.request import Json


def page(entries: Sequence[Json], limit: int) -> Json:
    """The first `limit` entries; what comes after them is only counted."""
    shown = list(entries[:limit])
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(entries) > limit,
    }


def page_of_all(entries: Sequence[Json], query: Query, *, limit: int) -> Json:
    """The page that `after` or `before` asks for, of a list that is at hand in whole."""
    ids = [entry["id"] for entry in entries]
    after, before = query.text("after"), query.text("before")
    refuse_both(query)
    for param, cursor in (("after", after), ("before", before)):
        if cursor is not None and cursor not in ids:
            raise _unknown(param)
    if before is not None:
        preceding = entries[: ids.index(before)]
        return {**page(preceding[-limit:], limit), "has_more": len(preceding) > limit}
    return page(entries[ids.index(after) + 1 :] if after is not None else entries, limit)


def refuse_both(query: Query) -> None:
    """A page has one edge that is given."""
    if query.text("after") is not None and query.text("before") is not None:
        raise Invalid("either after or before, not both", param="before")


@contextmanager
def a_cursor(param: str) -> Iterator[None]:
    """Whatever is not found inside is the request's own mistake: `param` names nothing in the list."""
    try:
        yield
    except Invalid as error:
        if error.code != "not_found":
            raise
        raise _unknown(param) from error


def _unknown(param: str) -> Invalid:
    return Invalid(f"{param} names nothing in this list", code="unknown_cursor", param=param)
