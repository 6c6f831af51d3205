"""What the fields of a statement may hold, said once: whoever writes a receipt and whoever reads one ask the same.

A shape is a test of a value, or the exact keys of an object and what each of them may hold (`spec/receipt.md`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.digests import HEX, is_digest, is_hex
from allod.core.errors import Invalid

LAST_MS = 253_402_300_799_999  # of the year 9999, the calendar's end
MAX_TOKENS = 2**32
MAX_AMOUNT = 2**47  # milliseconds, millijoules, micros: what a ledger can add up for ever

Test = Callable[[Any], bool]
Shape = Any  # a Test, a NullOr, or a mapping of names to Shapes, some of them IfThere


class NullOr(NamedTuple):
    """Null, or what `shape` allows."""

    shape: Any


class IfThere(NamedTuple):
    """A member that may be left out."""

    shape: Any


def refusal(message: str) -> Invalid:
    """The refusal of a statement."""
    return Invalid(message, code="bad_statement")


def check_shape(shape: Shape, value: Any, where: str) -> None:
    """Raise Invalid (`bad_statement`), saying where, unless `value` is what `shape` allows."""
    if type(shape) is dict:  # an abstract class would cost a fsck a tenth of its time
        if not isinstance(value, dict) or value.keys() != shape.keys():
            _check_keys(shape, value, where)
        for key, item in value.items():
            inner = shape[key]
            if callable(inner):  # most are: one call less for each field of a receipt
                if not inner(item):
                    raise refusal(f"{where}.{key} is not what it must be")
            else:
                check_shape(inner, item, f"{where}.{key}")
    elif isinstance(shape, (NullOr, IfThere)):
        if value is not None or isinstance(shape, IfThere):
            check_shape(shape.shape, value, where)
    elif not shape(value):
        raise refusal(f"{where} is not what it must be")


def _check_keys(shape: Mapping[str, Shape], value: Any, where: str) -> None:
    needed = {key for key, inner in shape.items() if not isinstance(inner, IfThere)}
    if not isinstance(value, dict) or not needed <= value.keys() <= shape.keys():
        raise refusal(f"{where} must have exactly: {', '.join(sorted(needed))}")


def _matches(pattern: str) -> Test:
    fullmatch = re.compile(pattern).fullmatch
    return lambda value: isinstance(value, str) and fullmatch(value) is not None


def _or_null(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _list_of(test: Test, *, at_most: int) -> Test:
    return lambda value: isinstance(value, (list, tuple)) and len(value) <= at_most and all(map(test, value))


def _up_to(highest: int) -> Test:
    return lambda value: type(value) is int and 0 <= value <= highest


def _is_setting(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= MAX_SAFE_INTEGER
    return value is None or isinstance(value, bool) or is_text(value)


def is_params(value: Any) -> bool:
    """Whether a receipt can say these parameters."""
    if not isinstance(value, Mapping) or len(value) > 32:
        return False
    return all(_NAME(key) and _is_setting(item) for key, item in value.items())


def is_object(value: Any) -> bool:
    """Whether it is a JSON object."""
    return isinstance(value, dict)


def is_subjects(value: Any) -> bool:
    """Whether it is a statement's list of subjects."""
    return isinstance(value, list) and 1 <= len(value) <= 64 and all(map(_is_subject, value))


def _is_subject(value: Any) -> bool:
    if not (isinstance(value, dict) and value.keys() == {"name", "digest"} and isinstance(value["digest"], dict)):
        return False
    return is_text(value["name"]) and value["digest"].keys() == {"sha256"} and is_commitment(value["digest"]["sha256"])


_ID, _HEX_128 = "[A-Za-z0-9_-]{1,64}", "[0-9a-f]{32}"
is_text = _matches(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")
is_id = _matches(_ID)
are_names = _matches(f"{_ID} {_HEX_128} {_HEX_128} {HEX}")  # id, nonce, tenant and commitment, one after the other
is_time = _up_to(LAST_MS)
is_count = _up_to(MAX_SAFE_INTEGER)
is_cached = _up_to(MAX_TOKENS)
is_tokens = _or_null(is_cached)
is_amount = _up_to(MAX_AMOUNT)
is_pseudonym = _matches(_HEX_128)
is_key_name = _or_null(is_pseudonym)
is_commitment = is_hex
are_sources = _list_of(is_commitment, at_most=256)
_NAME = lru_cache(maxsize=256)(_matches(r"[a-z][a-z0-9_]{0,63}"))  # there are few
_TEXTS = _list_of(is_text, at_most=64)

AT: Shape = {"start_ms": is_time, "end_ms": is_time}
ID_AND_TIMES: Shape = {"id": is_id, "at": AT}
LABEL: Shape = {"tier": is_text, "markings": _TEXTS, "jurisdictions": _or_null(_TEXTS), "purposes": _or_null(_TEXTS)}
MODEL: Shape = {
    "name": is_text,
    "digest": is_digest,
    "template": _or_null(is_digest),
    "adapters": _list_of(is_digest, at_most=16),
}
ENGINE: Shape = {
    "name": is_text,
    "build": is_digest,
    "config": is_digest,
    "replay": _matches("exact|batch-invariant|none"),
}
POLICY: Shape = {"digest": is_digest, "label": LABEL, "rules": _TEXTS, "decision": _matches("permit|forbid")}
SEAL: Shape = {"kind": is_text, "proof": _or_null(is_digest)}
SITE: Shape = {"id": is_text, "jurisdiction": is_text}
ENERGY: Shape = {
    "millijoules": _or_null(is_amount),
    "label": _matches("METERED|MODELLED|UNAVAILABLE"),
    "method": _or_null(is_text),
}
METER: Shape = {
    "key": is_key_name,
    "engine_ms": is_amount,
    "cached_tokens": is_cached,
    "micros": is_amount,
}

_BOTH: dict[str, Shape] = {
    "id": is_id,
    "seq": is_count,
    "nonce": is_pseudonym,
    "at": AT,
    "request": {"commitment": is_commitment, "tokens": is_tokens, "params": is_params},
    "sources": are_sources,
    "tenant": is_pseudonym,
    "meter": IfThere(METER),
    "seal": NullOr(SEAL),
    "site": SITE,
    "energy": ENERGY,
}
ANSWER_SHAPE: Shape = {
    **_BOTH,
    "answer": {"commitment": is_commitment, "tokens": is_tokens, "finish": is_text},
    "model": MODEL,
    "engine": ENGINE,
    "policy": {**POLICY, "decision": _matches("permit")},
}
REFUSAL_SHAPE: Shape = {
    **_BOTH,
    "answer": lambda value: value is None,
    "model": NullOr(MODEL),
    "engine": NullOr(ENGINE),
    "policy": {**POLICY, "decision": _matches("forbid")},
}
