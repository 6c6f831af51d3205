"""JSON as every reader of it understands it."""

from __future__ import annotations

import json
from typing import Any

NOT_JSON = object()


def json_value(text: str) -> Any:
    """The value that `text` is JSON for; NOT_JSON where it is none."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # NaN and lone surrogates are Python's own
    except (ValueError, RecursionError):
        return NOT_JSON
    return value
