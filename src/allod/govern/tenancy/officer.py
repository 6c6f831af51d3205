"""Who changes something in the store, and the line that the audit log has about it."""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.govern.tenancy.tenants import AuditEvent, new_id


@dataclass(frozen=True, slots=True)
class Officer:
    """`actor` is an admin key's id, `cli:` and an account, or `allod:start`; `now_ms` is the time by which everything
    happens that is done at once."""

    actor: str
    now_ms: int

    def event(self, kind: str, tenant_id: str | None, **details: JsonValue) -> AuditEvent:
        """What the audit log is to say; `id` is what it is about. Raises Invalid (`too_much`) for more than fits."""
        try:
            return AuditEvent(new_id("audit_log-"), self.now_ms, kind, self.actor, tenant_id, details)
        except Invalid as error:
            raise Invalid(f"too much at once for the audit log: {error.message}", code="too_much") from error
