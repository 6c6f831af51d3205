"""Times as officers write them: a UTC day, or a moment with its zone (ISO 8601)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from allod.core.errors import Invalid

DAY_MS = 86_400_000
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span_ms(text: str) -> tuple[int, int]:
    """The first and the last millisecond since 1970 of a day (`2026-11-01`), or a moment (`2026-11-01T09:30Z`) twice.

    Raises Invalid (`bad_time`).
    """
    is_day = _DAY.fullmatch(text) is not None
    if not is_day and _MOMENT.fullmatch(text) is None:
        raise _refuse(f"{text!r} is no time")
    try:
        moment = datetime.fromisoformat(f"{text}T00:00Z" if is_day else text)
    except ValueError as error:
        raise _refuse(f"{text!r} is not in the calendar") from error
    first_ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    return first_ms, first_ms + DAY_MS - 1 if is_day else first_ms


def moment_text(time_ms: int) -> str:
    """`2026-11-01T09:30:00.000Z`, which `span_ms` reads back."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refuse(message: str) -> Invalid:
    hint = "a UTC day, as 2026-11-01, or a moment with its zone, as 2026-11-01T09:30Z or 2026-11-01T09:30+01:00"
    return Invalid(message, code="bad_time", hint=hint)
