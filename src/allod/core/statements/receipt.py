"""Statements: what a receipt says, as the exact bytes that become a leaf of the log.

A statement is an in-toto Statement v1 in canonical JSON (`spec/receipt.md`). `statement_bytes` makes one on the main
path, so the parts that stay the same from answer to answer keep their own JSON text, and the others are not frozen,
which would double what it costs to make them; `check_statement` reads one from anywhere and believes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from allod.core.canonical import JsonValue, canonical_json, check_canonical
from allod.core.digests import digest_of_hex
from allod.core.errors import Invalid
from allod.core.statements.shapes import (
    ANSWER_SHAPE,
    ENERGY,
    ENGINE,
    ID_AND_TIMES,
    MODEL,
    POLICY,
    REFUSAL_SHAPE,
    SEAL,
    SITE,
    are_names,
    are_sources,
    check_shape,
    is_amount,
    is_cached,
    is_commitment,
    is_count,
    is_key_name,
    is_object,
    is_params,
    is_subjects,
    is_text,
    is_time,
    is_tokens,
    refusal,
)

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ANSWER = "urn:allod:answer:v1"
REFUSAL = "urn:allod:refusal:v1"
_TYPES = ("answer", "refusal", "heartbeat", "artefact", "training", "policy", "drill", "clock")
KNOWN_TYPES = frozenset(f"urn:allod:{name}:v1" for name in _TYPES) | {"urn:allod:training:v2"}
MAX_STATEMENT_BYTES = 65_535  # an entry of a C2SP entry bundle has a 16-bit length

_SHAPES = {
    "ModelPart": MODEL, "EnginePart": ENGINE, "PolicyPart": POLICY, "SealPart": SEAL, "SitePart": SITE,
    "EnergyPart": ENERGY,
}  # fmt: skip
_STATEMENT = {"_type": is_text, "predicateType": is_text, "subject": is_subjects, "predicate": is_object}

Params = Mapping[str, int | str | bool | None]


def _text(value: JsonValue) -> str:
    return canonical_json(value).decode()


@lru_cache(maxsize=256)
def _finish(word: str) -> str:
    """How an answer finished, as JSON. Raises Invalid for what is no text."""
    if not is_text(word):
        raise refusal("predicate.answer.finish is not what it must be")
    return _text(word)


class _Fixed:
    """A part that stays the same from answer to answer: it is checked, and its JSON text made, once."""

    __slots__ = ()

    def as_json(self) -> dict[str, Any]:
        """The part as the statement carries it."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "text"}  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        made = self.as_json()
        object.__setattr__(self, "text", _text(made))
        check_shape(_SHAPES[type(self).__name__], made, type(self).__name__)


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


@dataclass(slots=True)
class MeterPart:
    """What the tenant is charged with, beside the tokens: `key` is the API key's pseudonym of the day (hex) or None,
    `engine_ms` the time from its turn at the engine to its end, less what it waited for one to start, `micros`
    millionths of the realm's currency."""

    key: str | None
    engine_ms: int = 0
    cached_tokens: int = 0
    micros: int = 0


@dataclass(slots=True)
class RequestPart:
    """`commitment` is hex; `tokens` is None where nobody counted. Raises Invalid for params a receipt cannot say."""

    commitment: str
    tokens: int | None
    params: Params

    def __post_init__(self) -> None:
        if self.params and not is_params(self.params):
            raise Invalid("a parameter is too large or too long for a receipt", code="bad_params", param="params")


@dataclass(slots=True)
class AnswerPart:
    """`finish` is the dialect's own reason for the end (`stop`, `length`, `tool_calls`, `cancelled`, `error`)."""

    commitment: str
    tokens: int | None
    finish: str


@dataclass(slots=True, kw_only=True)
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


def _params(params: Params) -> str:
    """Numbers, true, false and null say themselves as JSON does; texts have it said for them."""
    members = [
        f'"{name}":{value if type(value) is int else _text(value)}' for name, value in sorted(params.items())
    ]  # the names need no escape (`is_params`)
    return f"{{{','.join(members)}}}"


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
    Raises Invalid for whatever `check_statement` would refuse: what nobody could read is never signed.
    """
    check_receipt(receipt)
    answer, request = receipt.answer, receipt.request
    if answer is None:
        kind, name, commitment, answer_text = REFUSAL, "request", request.commitment, "null"
    else:
        kind, name, commitment = ANSWER, "answer", answer.commitment
        answer_text = (
            f'{{"commitment":"{commitment}","finish":{_finish(answer.finish)},"tokens":{_count(answer.tokens)}}}'
        )
    params = _params(request.params)
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


def check_receipt(receipt: Receipt) -> None:
    """Raise Invalid (`bad_statement`) for a receipt that `check_statement` would refuse, by the same tests.

    Its parts have been checked when they were made, so this is about what differs from receipt to receipt; names are
    looked at together, because it is on the way of every answer (docs/log.md has its cost).
    """
    answer, request, meter = receipt.answer, receipt.request, receipt.meter
    names = f"{receipt.id} {receipt.nonce} {receipt.tenant} {request.commitment}"
    if not are_names(names):
        raise refusal("its id, nonce, tenant or the request's commitment is not what it must be")
    if not (is_time(receipt.start_ms) and is_time(receipt.end_ms) and receipt.start_ms <= receipt.end_ms):
        raise refusal(f"its times are {receipt.start_ms} and {receipt.end_ms}")
    if not (
        is_count(receipt.seq) and is_tokens(request.tokens) and (not receipt.sources or are_sources(receipt.sources))
    ):
        raise refusal(f"its number, prompt tokens ({request.tokens}) or sources are not what they must be")
    if receipt.policy.decision != ("forbid" if answer is None else "permit"):
        raise refusal("predicate.policy.decision is not what it must be")
    if answer is not None:
        _check_answer(answer)
        if receipt.model is None or receipt.engine is None:
            raise refusal("an answer has a model and an engine")
    if meter is not None:
        _check_meter(meter)


def _check_answer(answer: AnswerPart) -> None:
    if not (is_commitment(answer.commitment) and is_tokens(answer.tokens)):
        raise refusal(f"predicate.answer is not what it must be: {answer.tokens} tokens")


def _check_meter(meter: MeterPart) -> None:
    amounts = is_amount(meter.engine_ms) and is_amount(meter.micros) and is_cached(meter.cached_tokens)
    if not (amounts and is_key_name(meter.key)):
        raise refusal(
            f"predicate.meter is not what it must be: {meter.engine_ms} ms, {meter.micros} micros, "
            f"{meter.cached_tokens} cached tokens"
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that passed `check_statement`. `predicate` is its JSON, `subjects` are names and digests."""

    kind: str
    id: str
    start_ms: int
    end_ms: int
    predicate: Mapping[str, Any]
    subjects: tuple[tuple[str, str], ...]

    def digest_of_subject(self, name: str) -> str | None:
        """`sha256:<hex>` of its one subject, if that has this name; None otherwise."""
        if len(self.subjects) != 1 or self.subjects[0][0] != name:
            return None
        return self.subjects[0][1]


def check_statement(data: bytes) -> Statement:
    """The statement in `data`, if it is exactly canonical, of a known type and has that type's fields.

    Answers and refusals are checked field by field; other types need only `id` and `at`. Raises Invalid.
    """
    if len(data) > MAX_STATEMENT_BYTES:
        raise refusal("longer than an entry of the log")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise refusal(f"not JSON: {error}") from error
    if canonical_json(value) != data:
        raise refusal("not in canonical form")
    check_shape(_STATEMENT, value, "it")
    kind, predicate = value["predicateType"], value["predicate"]
    if value["_type"] != STATEMENT_TYPE or kind not in KNOWN_TYPES:
        raise refusal(f"unknown type {kind!r}")
    if kind in (ANSWER, REFUSAL):
        check_shape(ANSWER_SHAPE if kind == ANSWER else REFUSAL_SHAPE, predicate, "predicate")
        _check_subject(value["subject"], "answer" if kind == ANSWER else "request", predicate)
    else:  # the shapes above leave nothing that is not canonical
        check_canonical(value)
        check_shape(ID_AND_TIMES, {key: predicate.get(key) for key in ("id", "at")}, "predicate")
    at = predicate["at"]
    if at["start_ms"] > at["end_ms"]:
        raise refusal("it ends before it starts")
    subjects = tuple((each["name"], digest_of_hex(each["digest"]["sha256"])) for each in value["subject"])
    return Statement(kind, predicate["id"], at["start_ms"], at["end_ms"], predicate, subjects)


def _check_subject(subjects: list[Any], name: str, predicate: Mapping[str, Any]) -> None:
    if subjects != [{"name": name, "digest": {"sha256": predicate[name]["commitment"]}}]:
        raise refusal(f"its subject is not the {name}'s commitment")
