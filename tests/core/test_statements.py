"""Statements: one receipt in, exact canonical bytes out, and nothing else read back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.core.labels import Label, Tier
from allod.core.statements.receipt import (
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


UNICODE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(finish=UNICODE, name=UNICODE, seed=st.integers(0, 2**53 - 1), tokens=st.none() | st.integers(0, 10**6))
def test_any_text_is_encoded_canonically(finish: str, name: str, seed: int, tokens: int | None) -> None:
    """Quotes and other scripts come out as the canonical encoder writes them."""
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


LAST_MS = 253_402_300_799_999  # of the year 9999
NUMBERS = st.sampled_from(
    [0, 1, 2**32, 2**32 + 1, 2**47, 2**47 + 1, 2**53 - 1, 2**53, 10**30, -1, -5, LAST_MS, LAST_MS + 1]
)
NAMES = st.sampled_from(["r1", "-", "", "a b", HEX, HEX[:32], HEX[:32].upper(), "r" * 65, 'a","b":"c', "\u00e9"])
TEXTS = st.sampled_from(["stop", "", "a\nb", "x" * 257, "\x7f", "\ud800", "Caerdydd"])
RECEIPT_FIELDS = {
    "id": NAMES, "nonce": NAMES, "tenant": NAMES, "seq": NUMBERS, "start_ms": NUMBERS, "end_ms": NUMBERS,
    "request.commitment": NAMES, "request.tokens": NUMBERS | st.none(), "answer.commitment": NAMES,
    "answer.tokens": NUMBERS | st.none(), "answer.finish": TEXTS, "meter.key": NAMES | st.none(),
    "meter.engine_ms": NUMBERS, "meter.cached_tokens": NUMBERS, "meter.micros": NUMBERS, "model.name": TEXTS,
    "model.digest": NAMES, "engine.replay": TEXTS, "energy.millijoules": NUMBERS, "energy.label": TEXTS,
    "policy.decision": st.sampled_from(["permit", "forbid", "maybe"]), "site.jurisdiction": TEXTS,
    "seal.kind": TEXTS, "policy.rules": st.sampled_from([(), ("a",) * 65, ("a\nb",)]),
    "sources": st.sampled_from([(), (HEX,), (HEX,) * 257, (HEX[1:],)]),
}  # fmt: skip


def written(path: str, value: Any) -> bytes:
    """The bytes of the answered statement with one field put to `value`, as a writer without any check makes them."""
    document = json.loads(statement_bytes(ANSWERED))
    predicate = document["predicate"]
    if path == "answer.commitment":
        document["subject"][0]["digest"]["sha256"] = value
    *parents, last = f"at.{path}".split(".") if path.endswith("t_ms") or path == "end_ms" else path.split(".")
    for key in parents:
        predicate = predicate[key]
    predicate[last] = list(value) if isinstance(value, tuple) else value
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


@given(change=st.sampled_from(sorted(RECEIPT_FIELDS)).flatmap(lambda p: st.tuples(st.just(p), RECEIPT_FIELDS[p])))
def test_what_no_reader_accepts_no_writer_signs(change: tuple[str, Any]) -> None:
    """One answer of an engine with 10^30 tokens, or a clock at 1960, must not become a leaf that stops a realm."""
    path, value = change
    try:
        check_statement(written(path, value))
        is_readable = True
    except Invalid:
        is_readable = False
    try:
        parent, _, name = path.rpartition(".")
        fields = {parent: replace(getattr(ANSWERED, parent), **{name: value})} if parent else {name: value}
        data = statement_bytes(replace(ANSWERED, **fields))
    except Invalid:
        assert not is_readable
    else:
        assert is_readable
        assert check_statement(data)


@pytest.mark.parametrize("at", [-315_619_200_000, LAST_MS + 1], ids=["1960", "10000"])
def test_no_statement_of_any_kind_is_outside_the_calendar(at: int) -> None:
    """Days are named in its receipts by their key: a time that has no day has no receipt either."""
    with pytest.raises(Invalid):
        statement_bytes(replace(ANSWERED, start_ms=at, end_ms=at))
    with pytest.raises(Invalid):
        check_statement(changed("predicate.at", {"start_ms": at, "end_ms": at}))


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
    subject: list[JsonValue] = [{"name": "log", "digest": {"sha256": HEX}}]
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
        statement_bytes(replace(ANSWERED, policy=PolicyPart(DIGEST, LABEL, "permit", ("\U0001f3f0" * 256,) * 64)))
    assert refused.value.code == "statement_too_large"
