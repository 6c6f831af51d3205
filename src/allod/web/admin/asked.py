"""One request of an administrator: what every handler is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.govern.tenancy.tenants import Event, new_id
from allod.web.admin.query import Query
from allod.web.http.bodies import decoded

Json = dict[str, Any]
_Body = TypeVar("_Body", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Asked:
    """`actor` is the id of the admin key that asks, `now_ms` the time by which everything in the request happens."""

    actor: str
    now_ms: int
    query: bytes = b""
    body: bytes = b""

    def read(self, body: type[_Body]) -> _Body:
        """The request's body; none at all stands for `{}`. Raises Invalid naming the place of what is wrong."""
        return decoded(msgspec.json.Decoder(body), self.body or b"{}")

    def search(self, *names: str, lists: tuple[str, ...] = ()) -> Query:
        """The query, which may say `names` once each and `lists` any number of times."""
        return Query(self.query, names=names, lists=lists)

    def event(self, kind: str, tenant_id: str | None, **details: JsonValue) -> Event:
        """What the audit log is to say about it. Raises Invalid for more than it takes."""
        try:
            return Event(new_id("audit_log-"), self.now_ms, kind, self.actor, tenant_id, details)
        except Invalid as error:
            raise Invalid(f"too much at once for the audit log: {error.message}", code="too_much") from error


def seconds(time_ms: int | None) -> int | None:
    """Milliseconds since 1970 as the dialect's seconds."""
    return None if time_ms is None else time_ms // 1000


def unsupported(param: str, hint: str) -> Invalid:
    """The error for what the dialect knows and this realm does not do."""
    return Invalid(f"{param} cannot be set here", code="unsupported_parameter", param=param, hint=hint)
