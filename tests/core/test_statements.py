"""Statements: one receipt in, exact canonical bytes out, and nothing else read back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid
from allod.core.labels import Label, Tier
from allod.core.statements import (
    ANSWER,
    REFUSAL,
    AnswerPart,
    EnergyPart,
    EnginePart,
    MeterPart,
    ModelPart,
    PolicyPart,
    Receipt,
    RequestPart,
    SealPart,
    SitePart,
    check_statement,
    statement_bytes,
)

HEX = "0123456789abcdef" * 4
DIGEST = "sha256:" + HEX
LABEL = Label(Tier("OFFICIAL", 0, "gb"), frozenset({"SENSITIVE"})).as_json()

ANSWERED = Receipt(
    id="rcpt_1",
    seq=7,
    nonce=HEX[:32],
    start_ms=1_766_300_000_000,
    end_ms=1_766_300_000_500,
    request=RequestPart(HEX, 12, {"seed": 1, "temperature_milli": 0, "stop": None, "stream": True}),
    answer=AnswerPart(HEX[::-1], 5, "stop"),
    model=ModelPart("smollm2", DIGEST, DIGEST, (DIGEST,)),
    engine=EnginePart("llama.cpp", DIGEST, DIGEST, "exact"),
    policy=PolicyPart(DIGEST, LABEL, "permit", ("staff may ask",)),
    seal=SealPart("sealed", DIGEST),
    site=SitePart("Llanelli", "GB"),
    tenant=HEX[:32],
    sources=(HEX,),
    energy=EnergyPart(1200, "METERED", "rapl"),
    meter=MeterPart(HEX[:32], engine_ms=480, cached_tokens=3, micros=21),
)
REFUSED = replace(
    ANSWERED,
    answer=None,
    model=None,
    engine=None,
    seal=None,
    sources=(),
    policy=PolicyPart(DIGEST, LABEL, "forbid", ("no foreign model",)),
)


def changed(path: str, value: Any) -> bytes:
    """The answered statement with one field put to `value`."""
    document = json.loads(statement_bytes(ANSWERED))
    *parents, last = path.split(".")
    inner = document
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return canonical_json(document)


@pytest.mark.parametrize(("receipt", "kind"), [(ANSWERED, ANSWER), (REFUSED, REFUSAL)])
def test_what_is_built_passes_the_check(receipt: Receipt, kind: str) -> None:
    """The builder and the judge agree, and the bytes are canonical."""
    data = statement_bytes(receipt)
    statement = check_statement(data)
    assert (statement.kind, statement.id) == (kind, "rcpt_1")
    assert canonical_json(json.loads(data)) == data


UNICODE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(finish=UNICODE, name=UNICODE, seed=st.integers(0, 2**53 - 1), tokens=st.none() | st.integers(0, 10**6))
def test_any_text_is_encoded_canonically(finish: str, name: str, seed: int, tokens: int | None) -> None:
    """Quotes, control characters and other scripts come out as the canonical encoder writes them."""
    model, answer = ModelPart(name, DIGEST), AnswerPart(HEX, tokens, finish)
    request = RequestPart(HEX, 1, {"seed": seed})
    data = statement_bytes(replace(ANSWERED, model=model, answer=answer, request=request))
    assert canonical_json(json.loads(data)) == data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1"),
        ("predicateType", "urn:allod:something:v1"),
        ("predicateType", REFUSAL),
        ("subject", []),
        ("subject", [{"name": "answer", "digest": {"sha256": HEX}}]),
        ("predicate.extra", 1),
        ("predicate.seq", -1),
        ("predicate.seq", True),
        ("predicate.seq", 2**53),
        ("predicate.nonce", HEX),
        ("predicate.at.end_ms", 0),
        ("predicate.tenant", "acme"),
        ("predicate.answer", None),
        ("predicate.model", None),
        ("predicate.model.digest", HEX),
        ("predicate.model.adapters", [DIGEST] * 17),
        ("predicate.engine.replay", "maybe"),
        ("predicate.policy.decision", "forbid"),
        ("predicate.policy.rules", "all"),
        ("predicate.policy.label", {}),
        ("predicate.energy.label", "GREEN"),
        ("predicate.meter", None),
        ("predicate.meter.key", "acme"),
        ("predicate.meter.micros", -1),
        ("predicate.meter.joules", 1),
        ("predicate.request.params", {"Seed": 1}),
        ("predicate.request.params", {"seed": [1]}),
        ("predicate.site.id", "a\nb"),
        ("predicate.sources", [HEX[:-1]]),
    ],
)
def test_one_wrong_field_is_refused(path: str, value: Any) -> None:
    """Every field has a type and a bound; a field too many is as wrong as one too few."""
    with pytest.raises(Invalid):
        check_statement(changed(path, value))


def test_a_receipt_without_a_meter_is_still_a_receipt() -> None:
    """Receipts from before there was a meter keep verifying."""
    data = statement_bytes(replace(ANSWERED, meter=None))
    assert "meter" not in check_statement(data).predicate


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 60_000,
        b"\xff",
        b'{"a":1.0}',
        b'{"a":NaN}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b" " + statement_bytes(ANSWERED),
        statement_bytes(ANSWERED) + b"\n",
        statement_bytes(ANSWERED).replace(b'"seq":7', b'"seq":7,"seq":7'),
        statement_bytes(ANSWERED).replace(b'"seq":7', b'"seq":-0'),
        statement_bytes(ANSWERED).replace(b"Llanelli", b"\\u004clanelli"),
        b'"' + b"a" * 70_000 + b'"',
    ],
)
def test_only_the_exact_canonical_bytes_are_read(data: bytes) -> None:
    """Another spelling of the same JSON is another leaf, so it is refused; so is what could exhaust a parser."""
    with pytest.raises(Invalid):
        check_statement(data)


def test_other_known_types_need_an_id_and_times() -> None:
    """A heartbeat's own fields are free; where it stands in time is not."""
    subject = [{"name": "log", "digest": {"sha256": HEX}}]
    base = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:allod:heartbeat:v1", "subject": subject}
    good = canonical_json({**base, "predicate": {"id": "h1", "at": {"start_ms": 1, "end_ms": 1}, "leaves": 4}})
    assert check_statement(good).id == "h1"
    with pytest.raises(Invalid):
        check_statement(canonical_json({**base, "predicate": {"id": "h1"}}))


def test_a_parameter_that_no_receipt_can_say_is_refused_before_the_answer() -> None:
    """A seed beyond 2^53 would not survive another JSON reader: the client hears so at once."""
    with pytest.raises(Invalid) as refused:
        RequestPart(HEX, 1, {"seed": 2**53})
    assert refused.value.code == "bad_params"


def test_a_statement_fits_an_entry_bundle() -> None:
    """C2SP entry bundles prefix each entry with 16 bits of length."""
    with pytest.raises(Invalid) as refused:
        statement_bytes(replace(ANSWERED, sources=(HEX,) * 1000))
    assert refused.value.code == "statement_too_large"
