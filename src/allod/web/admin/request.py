"""One request of an administrator: what every handler is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from allod.core.errors import Invalid
from allod.govern.tenancy.officer import Officer
from allod.web.admin.query import Query
from allod.web.http.bodies import decode

Json = dict[str, Any]
_Body = TypeVar("_Body", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """`actor` is the id of the admin key that asks, `now_ms` the time by which everything in the request happens."""

    actor: str
    now_ms: int
    query: bytes = b""
    body: bytes = b""

    def read(self, body: type[_Body]) -> _Body:
        """The request's body; none at all stands for `{}`. Raises Invalid that says where the mistake is."""
        return decode(msgspec.json.Decoder(body), self.body or b"{}")

    def search(self, *names: str, lists: tuple[str, ...] = ()) -> Query:
        """The query, which may say `names` once each and `lists` any number of times."""
        return Query(self.query, names=names, lists=lists)

    @property
    def officer(self) -> Officer:
        """Who asks, as the audit log names them."""
        return Officer(self.actor, self.now_ms)


def refusal(param: str, hint: str) -> Invalid:
    """The error for what the dialect knows and this realm does not do."""
    return Invalid(f"{param} cannot be set here", code="unsupported_parameter", param=param, hint=hint)
