"""A request's JSON body, read strictly: what is wrong is named by its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from allod.core.errors import Invalid

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_Body = TypeVar("_Body")


def decoded(decode: Callable[[bytes], _Body], body: bytes) -> _Body:
    """What `decode`, one of msgspec's, makes of the body. Raises Invalid, its `param` the place of the mistake."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        raise Invalid(_PLACE.sub("", text), param=place.group(1) or None if place else None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is no JSON: {error}", code="invalid_json") from error
