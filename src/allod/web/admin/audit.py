"""`audit_logs`: what administrators did, newest first, in the dialect's shapes."""

from __future__ import annotations

from dataclasses import dataclass

from allod.app.administration.tenants import seconds_of
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import AuditEvent
from allod.web.admin.listing import a_cursor, page, refuse_both
from allod.web.admin.query import MAX_TIME_S, Query
from allod.web.admin.request import AdminRequest, Json

_BATCH = 1000
_KEY_PREFIX = "key_"
_TIMES = ("gt", "gte", "lt", "lte")
_LISTS = ("event_types", "project_ids", "actor_ids", "actor_emails", "resource_ids")


class Audit:
    """The handler of the audit log. Filters that the store has no words for are applied to what it says."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def list_page(self, asked: AdminRequest) -> Json:
        """`GET audit_logs`."""
        times = (f"effective_at[{name}]" for name in _TIMES)
        query = asked.search("after", "before", "limit", "tenant_only", *times, lists=_LISTS)
        refuse_both(query)
        limit = query.limit()
        after, before = query.text("after"), query.text("before")
        if query.choice("tenant_only", "false", "true") == "true" or query.texts("actor_emails"):
            return page([], limit)  # there is no tenant above this realm, and nobody here has an address
        search = _EventSearch(self._store, query)
        if before is not None:
            with a_cursor("before"):
                found = search.events_before(before, limit + 1)
            return {**page(_events_json(found[-limit:]), limit), "has_more": len(found) > limit}
        with a_cursor("after"):
            found = search.events_after(after, limit + 1)
        return page(_events_json(found), limit)


@dataclass(frozen=True, slots=True)
class _EventSearch:
    """Events that the query asks for, read from the store in batches."""

    store: TenantStore
    query: Query

    def events_after(self, after: str | None, num: int) -> list[AuditEvent]:
        """The first `num` after that event, or of all."""
        found: list[AuditEvent] = []
        while len(found) < num:
            batch = self._batch(num, after=after)
            found += filter(self._is_meant, batch)
            if len(batch) < self._size(num):
                break
            after = batch[-1].id
        return found[:num]

    def events_before(self, before: str, num: int) -> list[AuditEvent]:
        """The last `num` before that event."""
        found: list[AuditEvent] = []
        while len(found) < num:
            batch = self._batch(num, before=before)
            found = [*filter(self._is_meant, batch), *found]
            if len(batch) < self._size(num):
                break
            before = batch[0].id
        return found[-num:]

    def _size(self, num: int) -> int:
        """How many to read at once: as many as are wanted, unless many of them may not be."""
        return _BATCH if self.query.texts("actor_ids") or self.query.texts("resource_ids") else num

    def _batch(self, num: int, *, after: str | None = None, before: str | None = None) -> list[AuditEvent]:
        since_s, until_s = _range(self.query)
        return self.store.events(
            after=after,
            before=before,
            limit=self._size(num),
            kinds=self.query.texts("event_types"),
            tenant_ids=self.query.texts("project_ids"),
            since_ms=since_s * 1000,
            until_ms=until_s * 1000,
        )

    def _is_meant(self, event: AuditEvent) -> bool:
        actors, resources = self.query.texts("actor_ids"), self.query.texts("resource_ids")
        return (not actors or event.actor in actors) and (not resources or event.details.get("id") in resources)


def _range(query: Query) -> tuple[int, int]:
    """The seconds from and up to which events are meant."""
    said = {name: query.integer(f"effective_at[{name}]") for name in _TIMES}
    gt, gte, lt, lte = (said[name] for name in _TIMES)
    since = max(-1 if gt is None else gt, -1 if gte is None else gte - 1) + 1
    until = min(MAX_TIME_S + 1 if lt is None else lt, MAX_TIME_S + 1 if lte is None else lte + 1)
    return since, until


def _events_json(events: list[AuditEvent]) -> list[Json]:
    return [
        {
            "id": event.id,
            "type": event.kind,
            "effective_at": seconds_of(event.at_ms),
            "actor": _actor(event.actor),
            **({"project": {"id": event.tenant_id}} if event.tenant_id is not None else {}),
            event.kind: dict(event.details),
        }
        for event in events
    ]


def _actor(actor: str) -> Json:
    """An admin key, or whoever sat at the machine itself."""
    if actor.startswith(_KEY_PREFIX):
        return {"type": "api_key", "api_key": {"id": actor}}
    return {"type": "session", "session": {"user": {"id": actor}}}
