"""From an error to HTTP: its status and its headers, in no dialect; and what a dialect is that words it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.web.http.exchange import Headers

_STATUS_OF_CODE = {
    "invalid_api_key": 401,
    "not_found": 404,
    "no_such_receipt": 404,
    "no_such_tile": 404,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "overloaded": 429,
    "rate_limited": 429,
    "budget_exhausted": 429,
}


@dataclass(frozen=True, slots=True)
class ErrorDialect:
    """How a kind of client reads an error: `error` makes a body of it, `error_event` a part of a stream."""

    error: Callable[[AllodError], bytes]
    error_event: Callable[[AllodError], bytes]


def status_of(error: AllodError) -> int:
    """The HTTP status of an error."""
    if error.code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[error.code]
    if isinstance(error, Invalid):
        return 400
    if isinstance(error, Denied):
        return 403
    return 503 if isinstance(error, Unavailable) else 500


def headers_of(error: AllodError, request_id: str) -> Headers:
    """The headers that say what to do about an error: how to authenticate, when to ask again, which receipt to read."""
    headers = retry_after(error)
    if status_of(error) == 401:
        headers += ((b"www-authenticate", b"Bearer"),)
    if error.is_recorded:
        headers += ((b"x-allod-receipt", request_id.encode()),)
    return headers


def retry_after(error: AllodError) -> Headers:
    """The header that says when to ask again, where the error knows."""
    wait_s = getattr(error, "retry_after_s", None)
    return () if wait_s is None else ((b"retry-after", str(max(1, math.ceil(wait_s))).encode()),)
