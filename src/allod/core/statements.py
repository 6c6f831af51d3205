"""Statements: what a receipt says, as the exact bytes that become a leaf of the log.

A statement is an in-toto Statement v1 in canonical JSON (`spec/receipt.md`). `statement_bytes` makes one on the main
path, so the parts that stay the same from answer to answer keep their own JSON text; `check_statement` reads one from
anywhere and believes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, NamedTuple

from allod.core.canonical import MAX_SAFE_INTEGER, JsonValue, canonical_json, check_canonical
from allod.core.errors import Invalid

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ANSWER = "urn:allod:answer:v1"
REFUSAL = "urn:allod:refusal:v1"
KNOWN_TYPES = frozenset(
    f"urn:allod:{name}:v1" for name in ("answer", "refusal", "heartbeat", "artefact", "training", "policy", "drill")
)
MAX_STATEMENT_BYTES = 65_535  # an entry of a C2SP entry bundle has a 16-bit length

Params = Mapping[str, int | str | bool | None]


def _text(value: JsonValue) -> str:
    return canonical_json(value).decode()


_quoted = lru_cache(maxsize=256)(_text)


class _Fixed:
    """A part that stays the same from answer to answer: its JSON text is made once."""

    __slots__ = ()

    def as_json(self) -> dict[str, Any]:
        """The part as the statement carries it."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "text"}  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _text(self.as_json()))


@dataclass(frozen=True, slots=True)
class ModelPart(_Fixed):
    """The model that answered; digests as `sha256:<hex>`."""

    name: str
    digest: str
    template: str | None = None
    adapters: tuple[str, ...] = ()
    text: str = field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class EnginePart(_Fixed):
    """The engine that ran it. `replay` is `exact`, `batch-invariant` or `none`."""

    name: str
    build: str
    config: str
    replay: str = "none"
    text: str = field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class PolicyPart(_Fixed):
    """What was decided, by which policy and rules. `label` is `Label.as_json()`."""

    digest: str
    label: Mapping[str, JsonValue]
    decision: str
    rules: tuple[str, ...] = ()
    text: str = field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SealPart(_Fixed):
    """The perimeter the engine ran in, and the digest of its evidence."""

    kind: str
    proof: str | None = None
    text: str = field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SitePart(_Fixed):
    """Where: the site's name and its ISO 3166 jurisdiction."""

    id: str
    jurisdiction: str
    text: str = field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class EnergyPart(_Fixed):
    """`label` is METERED, MODELLED or UNAVAILABLE; only the last has no figure."""

    millijoules: int | None = None
    label: str = "UNAVAILABLE"
    method: str | None = None
    text: str = field(init=False, repr=False, compare=False)


NO_ENERGY = EnergyPart()


@dataclass(frozen=True, slots=True)
class MeterPart:
    """What the tenant is charged with, beside the tokens: `key` is the API key's pseudonym of the day (hex) or None,
    `engine_ms` the time from its turn at the engine to its end, `micros` millionths of the realm's currency."""

    key: str | None
    engine_ms: int = 0
    cached_tokens: int = 0
    micros: int = 0


@dataclass(frozen=True, slots=True)
class RequestPart:
    """`commitment` is hex; `tokens` is None where nobody counted. Raises Invalid for params a receipt cannot say."""

    commitment: str
    tokens: int | None
    params: Params

    def __post_init__(self) -> None:
        if self.params and not _is_params(self.params):
            raise Invalid("a parameter is too large or too long for a receipt", code="bad_params", param="params")


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """`finish` is the dialect's own reason for the end (`stop`, `length`, `tool_calls`, `cancelled`, `error`)."""

    commitment: str
    tokens: int | None
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One answer, or one refusal where `answer` is None. Commitments, `nonce` and `tenant` are lower-case hex."""

    id: str
    seq: int
    nonce: str
    start_ms: int
    end_ms: int
    request: RequestPart
    policy: PolicyPart
    site: SitePart
    tenant: str
    answer: AnswerPart | None = None
    model: ModelPart | None = None
    engine: EnginePart | None = None
    seal: SealPart | None = None
    sources: tuple[str, ...] = ()
    energy: EnergyPart = NO_ENERGY
    meter: MeterPart | None = None


def _part(part: ModelPart | EnginePart | SealPart | None) -> str:
    return "null" if part is None else part.text


def _count(number: int | None) -> str:
    return "null" if number is None else str(number)


def _meter(meter: MeterPart | None) -> str:
    """The member, or nothing: receipts from before there was a meter stay as they are."""
    if meter is None:
        return ""
    key = "null" if meter.key is None else f'"{meter.key}"'
    return (
        f'"meter":{{"cached_tokens":{meter.cached_tokens},"engine_ms":{meter.engine_ms},'
        f'"key":{key},"micros":{meter.micros}}},'
    )


def statement_bytes(receipt: Receipt) -> bytes:
    """The canonical statement of `receipt`: an answer's, or a refusal's where there is no answer.

    Written out in the order of its keys, which is what canonical JSON sorts them to; a test holds it to that.
    Types are the caller's duty (`check_statement` is the judge). Raises Invalid if it is too long for the log.
    """
    answer, request = receipt.answer, receipt.request
    if answer is None:
        kind, name, commitment, answer_text = REFUSAL, "request", request.commitment, "null"
    else:
        kind, name, commitment = ANSWER, "answer", answer.commitment
        answer_text = (
            f'{{"commitment":"{commitment}","finish":{_quoted(answer.finish)},"tokens":{_count(answer.tokens)}}}'
        )
    params = _text(request.params) if request.params else "{}"
    sources = _text(receipt.sources) if receipt.sources else "[]"
    data = (
        f'{{"_type":"{STATEMENT_TYPE}","predicate":{{'
        f'"answer":{answer_text},'
        f'"at":{{"end_ms":{receipt.end_ms},"start_ms":{receipt.start_ms}}},'
        f'"energy":{receipt.energy.text},'
        f'"engine":{_part(receipt.engine)},'
        f'"id":"{receipt.id}",'
        f"{_meter(receipt.meter)}"
        f'"model":{_part(receipt.model)},'
        f'"nonce":"{receipt.nonce}",'
        f'"policy":{receipt.policy.text},'
        f'"request":{{"commitment":"{request.commitment}","params":{params},"tokens":{_count(request.tokens)}}},'
        f'"seal":{_part(receipt.seal)},'
        f'"seq":{receipt.seq},'
        f'"site":{receipt.site.text},'
        f'"sources":{sources},'
        f'"tenant":"{receipt.tenant}"}},'
        f'"predicateType":"{kind}",'
        f'"subject":[{{"digest":{{"sha256":"{commitment}"}},"name":"{name}"}}]}}'
    ).encode()
    if len(data) > MAX_STATEMENT_BYTES:
        raise Invalid(f"a statement of {len(data)} bytes does not fit the log", code="statement_too_large")
    return data


def _refuse(message: str) -> Invalid:
    return Invalid(message, code="bad_statement")


# What a field may hold: a test of the value, or the exact keys of an object and what each of them may hold.

Test = Callable[[Any], bool]
Shape = Any  # a Test, a NullOr, or a mapping of names to Shapes, some of them IfThere


class NullOr(NamedTuple):
    """Null, or what `shape` allows."""

    shape: Any


class IfThere(NamedTuple):
    """A member that may be left out."""

    shape: Any


def _matches(pattern: str) -> Test:
    fullmatch = re.compile(pattern).fullmatch
    return lambda value: isinstance(value, str) and fullmatch(value) is not None


def _list_of(test: Test, *, at_most: int) -> Test:
    return lambda value: isinstance(value, list) and len(value) <= at_most and all(map(test, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SAFE_INTEGER


def _is_setting(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= MAX_SAFE_INTEGER
    return value is None or isinstance(value, bool) or _TEXT(value)


def _is_params(value: Any) -> bool:
    if not isinstance(value, Mapping) or len(value) > 32:
        return False
    return all(_NAME(key) and _is_setting(item) for key, item in value.items())


_TEXT = _matches(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")
_NAME = _matches(r"[a-z][a-z0-9_]{0,63}")
_ID = _matches(r"[A-Za-z0-9_-]{1,64}")
_HEX_128 = _matches(r"[0-9a-f]{32}")
_HEX_256 = _matches(r"[0-9a-f]{64}")
_DIGEST = _matches(r"sha256:[0-9a-f]{64}")
_TEXTS = _list_of(_TEXT, at_most=64)

_AT: Shape = {"start_ms": _is_count, "end_ms": _is_count}
_LABEL: Shape = {"tier": _TEXT, "markings": _TEXTS, "jurisdictions": NullOr(_TEXTS), "purposes": NullOr(_TEXTS)}
_MODEL: Shape = {
    "name": _TEXT,
    "digest": _DIGEST,
    "template": NullOr(_DIGEST),
    "adapters": _list_of(_DIGEST, at_most=16),
}
_ENGINE: Shape = {"name": _TEXT, "build": _DIGEST, "config": _DIGEST, "replay": _matches("exact|batch-invariant|none")}
_METER: Shape = {"key": NullOr(_HEX_128), "engine_ms": _is_count, "cached_tokens": _is_count, "micros": _is_count}
_BOTH: dict[str, Shape] = {
    "id": _ID,
    "seq": _is_count,
    "nonce": _HEX_128,
    "at": _AT,
    "request": {"commitment": _HEX_256, "tokens": NullOr(_is_count), "params": _is_params},
    "sources": _list_of(_HEX_256, at_most=256),
    "seal": NullOr({"kind": _TEXT, "proof": NullOr(_DIGEST)}),
    "site": {"id": _TEXT, "jurisdiction": _TEXT},
    "tenant": _HEX_128,
    "meter": IfThere(_METER),
    "energy": {
        "millijoules": NullOr(_is_count),
        "label": _matches("METERED|MODELLED|UNAVAILABLE"),
        "method": NullOr(_TEXT),
    },
}
_POLICY: dict[str, Shape] = {"digest": _DIGEST, "label": _LABEL, "rules": _TEXTS}
_ANSWER_SHAPE: Shape = {
    **_BOTH,
    "answer": {"commitment": _HEX_256, "tokens": NullOr(_is_count), "finish": _TEXT},
    "model": _MODEL,
    "engine": _ENGINE,
    "policy": {**_POLICY, "decision": _matches("permit")},
}
_REFUSAL_SHAPE: Shape = {
    **_BOTH,
    "answer": lambda value: value is None,
    "model": NullOr(_MODEL),
    "engine": NullOr(_ENGINE),
    "policy": {**_POLICY, "decision": _matches("forbid")},
}


def _check_shape(shape: Any, value: Any, where: str) -> None:
    if isinstance(shape, NullOr):
        if value is not None:
            _check_shape(shape.shape, value, where)
    elif isinstance(shape, Mapping):
        needed = {key for key, inner in shape.items() if not isinstance(inner, IfThere)}
        if not isinstance(value, dict) or not needed <= value.keys() <= shape.keys():
            raise _refuse(f"{where} must have exactly: {', '.join(sorted(needed))}")
        for key, item in value.items():
            inner = shape[key]
            _check_shape(inner.shape if isinstance(inner, IfThere) else inner, item, f"{where}.{key}")
    elif not shape(value):
        raise _refuse(f"{where} is not what it must be")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that passed `check_statement`. `predicate` is its JSON."""

    kind: str
    id: str
    start_ms: int
    end_ms: int
    predicate: Mapping[str, Any]


def check_statement(data: bytes) -> Statement:
    """The statement in `data`, if it is exactly canonical, of a known type and has that type's fields.

    Answers and refusals are checked field by field; other types need only `id` and `at`. Raises Invalid.
    """
    if len(data) > MAX_STATEMENT_BYTES:
        raise _refuse("longer than an entry of the log")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refuse(f"not JSON: {error}") from error
    check_canonical(value)
    if canonical_json(value) != data:
        raise _refuse("not in canonical form")
    _check_shape(
        {"_type": _TEXT, "predicateType": _TEXT, "subject": _is_subjects, "predicate": _is_object}, value, "it"
    )
    kind, predicate = value["predicateType"], value["predicate"]
    if value["_type"] != STATEMENT_TYPE or kind not in KNOWN_TYPES:
        raise _refuse(f"unknown type {kind!r}")
    if kind in (ANSWER, REFUSAL):
        _check_shape(_ANSWER_SHAPE if kind == ANSWER else _REFUSAL_SHAPE, predicate, "predicate")
        _check_subject(value["subject"], "answer" if kind == ANSWER else "request", predicate)
    else:
        _check_shape({"id": _ID, "at": _AT}, {key: predicate.get(key) for key in ("id", "at")}, "predicate")
    at = predicate["at"]
    if at["start_ms"] > at["end_ms"]:
        raise _refuse("it ends before it starts")
    return Statement(kind, predicate["id"], at["start_ms"], at["end_ms"], predicate)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_subjects(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 64 and all(map(_is_subject, value))


def _is_subject(value: Any) -> bool:
    if not (isinstance(value, dict) and value.keys() == {"name", "digest"} and isinstance(value["digest"], dict)):
        return False
    return _TEXT(value["name"]) and value["digest"].keys() == {"sha256"} and _HEX_256(value["digest"]["sha256"])


def _check_subject(subjects: list[Any], name: str, predicate: Mapping[str, Any]) -> None:
    if subjects != [{"name": name, "digest": {"sha256": predicate[name]["commitment"]}}]:
        raise _refuse(f"its subject is not the {name}'s commitment")
