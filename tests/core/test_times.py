"""Times: one UTC day for receipts, limits and passports."""

from __future__ import annotations

from datetime import date

import pytest

from allod.core.errors import Invalid
from allod.core.times import DAY_MS, day_at, day_of, span_ms

LAST_DAY = "9999-12-31"


@pytest.mark.parametrize("day", ["1970-01-01", "2024-02-29", "2026-11-30", LAST_DAY])
def test_a_day_is_one_from_its_first_millisecond_to_its_last(day: str) -> None:
    """The millisecond before it, and the one after it, are of other days."""
    first_ms, last_ms = span_ms(day)
    assert last_ms - first_ms == DAY_MS - 1
    assert day_of(first_ms) == day_of(last_ms) == day
    assert day_at(first_ms) == date.fromisoformat(day)
    assert day_of(first_ms - 1) < day


def test_beyond_the_calendar_there_is_no_day() -> None:
    """Refused as a bad time, however far."""
    _, last_ms = span_ms(LAST_DAY)
    for time_ms in (last_ms + 1, 1 << 53, -(1 << 80)):
        with pytest.raises(Invalid) as refused:
            day_of(time_ms)
        assert refused.value.code == "bad_time"
