"""Times: now, the UTC day of a moment, and both as officers write them (ISO 8601)."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from allod.core.errors import Invalid

DAY_MS = 86_400_000
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_ms() -> int:
    """Milliseconds since 1970, by this machine's clock."""
    return time.time_ns() // 1_000_000


def day_at(time_ms: int) -> date:
    """The UTC day of a moment. Raises Invalid (`bad_time`) beyond the calendar."""
    return _day(time_ms // DAY_MS)[0]


def day_of(time_ms: int) -> str:
    """The UTC day of a moment, as YYYY-MM-DD. Raises Invalid (`bad_time`) beyond the calendar."""
    return _day(time_ms // DAY_MS)[1]


@lru_cache(maxsize=16, typed=True)  # 1.0 is no day
def _day(number: int) -> tuple[date, str]:
    try:
        day = date.fromordinal(_EPOCH.toordinal() + number)
    except (OverflowError, ValueError) as error:
        raise Invalid("a time beyond the calendar", code="bad_time") from error
    return day, day.isoformat()


def span_ms(text: str) -> tuple[int, int]:
    """The first and the last millisecond since 1970 of a day (`2026-11-01`), or a moment (`2026-11-01T09:30Z`) twice.

    Raises Invalid (`bad_time`).
    """
    is_day = _DAY.fullmatch(text) is not None
    if not is_day and _MOMENT.fullmatch(text) is None:
        raise _refusal(f"{text!r} is no time")
    try:
        moment = datetime.fromisoformat(f"{text}T00:00Z" if is_day else text)
    except ValueError as error:
        raise _refusal(f"{text!r} is not in the calendar") from error
    first_ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    return first_ms, first_ms + DAY_MS - 1 if is_day else first_ms


def moment_text(time_ms: int) -> str:
    """`2026-11-01T09:30:00.000Z`, which `span_ms` reads back."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refusal(message: str) -> Invalid:
    hint = "a UTC day, as 2026-11-01, or a moment with its zone, as 2026-11-01T09:30Z or 2026-11-01T09:30+01:00"
    return Invalid(message, code="bad_time", hint=hint)
