"""That a schema cannot be used, as an error."""

from __future__ import annotations

from allod.core.errors import Invalid
from allod.core.shown_text import ends_of

_MAX_REASON = 500


def refusal(reason: str, *, param: str | None = None) -> Invalid:
    """A schema that cannot be used; a pointer in the `reason` may be as long as the client's names."""
    shown = ends_of(reason, limit=_MAX_REASON)
    return Invalid(f"the schema cannot be used: {shown}", code="invalid_schema", param=param)
