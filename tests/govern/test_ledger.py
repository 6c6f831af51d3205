"""The ledger: what each receipt costs, from exactly its bytes, charged once and without a gap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.canonical import MAX_SAFE_INTEGER, JsonValue, canonical_json
from allod.core.errors import Invalid, Unavailable
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
    SitePart,
    check_statement,
    statement_bytes,
)
from allod.govern.metering.ledger import ERASED, Ledger, charge_of
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.store import Position, Totals
from allod.govern.tenancy.tenants import Charge

START_MS = 1_795_262_400_000
DAY = "2026-11-21"
TENANT, KEY = "ab" * 16, "cd" * 16
LABEL: dict[str, JsonValue] = {"tier": "OFFICIAL", "markings": [], "jurisdictions": None, "purposes": None}
DIGEST = "sha256:" + "0" * 64


class Known:
    """Two pseudonyms of one day."""

    def tenant_of(self, day: str, pseudonym: str) -> str | None:
        return {(DAY, TENANT): "t"}.get((day, pseudonym))

    def key_of(self, day: str, pseudonym: str) -> str | None:
        return {(DAY, KEY): "k"}.get((day, pseudonym))


RECEIPT = Receipt(
    id="r",
    seq=0,
    nonce="0" * 32,
    start_ms=START_MS,
    end_ms=START_MS + 10,
    request=RequestPart("0" * 64, 12, {}),
    policy=PolicyPart(DIGEST, LABEL, "permit"),
    site=SitePart("local", "GB"),
    tenant=TENANT,
    answer=AnswerPart("0" * 64, 34, "stop"),
    model=ModelPart("m", DIGEST),
    engine=EnginePart("e", DIGEST, DIGEST),
    energy=EnergyPart(7000, "MODELLED", "x"),
    meter=MeterPart(KEY, engine_ms=56, cached_tokens=8, micros=9),
)
REFUSED = replace(RECEIPT, answer=None, model=None, engine=None, policy=PolicyPart(DIGEST, LABEL, "forbid"), meter=None)


def charged(receipt: Receipt) -> Charge | None:
    statement = check_statement(statement_bytes(receipt))
    names = Known()
    return charge_of(statement.predicate, statement.kind, tenant_of=names.tenant_of, key_of=names.key_of)


def entries(num: int, *, first: int = 0, receipt: Receipt = RECEIPT) -> list[tuple[int, int, bytes]]:
    """Entries of a log in which each ends 1000 bytes after the one before."""
    return [
        (number, 1000 * (number + 1), statement_bytes(replace(receipt, id=f"r{number}", seq=number)))
        for number in range(first, first + num)
    ]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ledger(store: MemoryStore) -> Ledger:
    return Ledger(store, "log", Known())


def used(store: MemoryStore) -> Totals:
    """Everything that the tenant was ever charged."""
    return store.used(tenant_id="t", since_ms=0, until_ms=MAX_SAFE_INTEGER)


# The charge of one receipt


def test_an_answer_costs_what_its_receipt_says() -> None:
    """Every number is the receipt's own."""
    assert charged(RECEIPT) == Charge("r", "t", "k", "m", START_MS, "permit", "stop", 12, 34, 8, 56, 7000, 9)


def test_a_refusal_costs_nothing_and_is_counted() -> None:
    """It names no model, and nobody answered."""
    refusal = replace(REFUSED, request=RequestPart("0" * 64, None, {}), energy=EnergyPart())
    assert charged(refusal) == Charge("r", "t", "", "", START_MS, "forbid", "refused")


def test_a_receipt_from_before_there_was_a_meter() -> None:
    """Its tokens count; engine time, money and key are not known."""
    old = charged(replace(RECEIPT, meter=None, energy=EnergyPart()))
    assert old == Charge("r", "t", "", "m", START_MS, "permit", "stop", 12, 34)
    assert old is not None
    assert old.millijoules is None


def test_tokens_that_nobody_counted() -> None:
    """An answer that was broken off may say no numbers."""
    broken = replace(RECEIPT, request=RequestPart("0" * 64, None, {}), answer=AnswerPart("0" * 64, None, "cancelled"))
    found = charged(broken)
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens, found.finish) == (0, 0, "cancelled")


def test_an_erased_tenants_receipt_is_charged_to_nobody() -> None:
    """A pseudonym of another day, or of a destroyed day key, leads to no tenant and no key, and still counts."""
    for erased in (replace(RECEIPT, tenant="00" * 16), replace(RECEIPT, start_ms=0)):
        found = charged(erased)
        assert found is not None
        assert (found.tenant_id, found.completion_tokens) == (ERASED, 34)
    strange = charged(replace(RECEIPT, meter=MeterPart("00" * 16)))
    assert strange is not None
    assert strange.key_id == ""


@pytest.mark.parametrize("kind", ["heartbeat", "artefact", "training", "policy", "drill"])
def test_other_statements_cost_nothing(kind: str) -> None:
    """They are in the log, and are no receipts."""
    predicate = {"id": "x", "at": {"start_ms": 0, "end_ms": 0}}
    assert charge_of(predicate, f"urn:allod:{kind}:v1", tenant_of=Known().tenant_of, key_of=Known().key_of) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_a_damaged_receipt_is_invalid_and_nothing_else(data: st.DataObject) -> None:
    """Whatever stands in one of its fields."""
    predicate: Any = json.loads(statement_bytes(RECEIPT))["predicate"]
    inside = data.draw(st.sampled_from([predicate, *(one for one in predicate.values() if isinstance(one, dict))]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(json_values)
    names = Known()
    for kind in (ANSWER, REFUSAL):
        with suppress(Invalid):
            charge_of(predicate, kind, tenant_of=names.tenant_of, key_of=names.key_of)


# Posting


@given(
    receipts=st.lists(
        st.tuples(*[st.integers(0, 2**32)] * 5, st.integers(0, 2**40) | st.none(), st.booleans()), max_size=20
    ),
    cuts=st.lists(st.integers(0, 20), max_size=5),
)
def test_the_total_is_the_sum_of_the_receipts(receipts: list[tuple[Any, ...]], cuts: list[int]) -> None:
    """To the token, however the log is cut into batches, and however often a batch comes again."""
    store, posted, expected = MemoryStore(), [], Totals()
    for number, (prompt, completion, cached, engine_ms, micros, energy, is_permitted) in enumerate(receipts):
        receipt = replace(
            RECEIPT if is_permitted else REFUSED,
            id=f"r{number}",
            request=RequestPart("0" * 64, prompt, {}),
            answer=AnswerPart("0" * 64, completion, "stop") if is_permitted else None,
            meter=MeterPart(None, engine_ms, cached, micros),
            energy=EnergyPart(energy, "METERED" if energy is not None else "UNAVAILABLE"),
        )
        posted.append((number, 10 * number + 10, statement_bytes(receipt)))
        expected += Totals(
            requests=int(is_permitted),
            refused=int(not is_permitted),
            prompt_tokens=prompt,
            completion_tokens=completion if is_permitted else 0,
            cached_tokens=cached,
            engine_ms=engine_ms,
            millijoules=energy or 0,
            micros=micros,
            unmetered=int(is_permitted and energy is None),
        )
    for cut in [*sorted(cuts), len(posted)]:
        Ledger(store, "log", Known()).post(posted[:cut])
    assert used(store) == expected
    assert (store.position("log") or Position(0, 0)).num_entries == len(posted)


def test_what_is_charged_is_not_charged_again(store: MemoryStore, ledger: Ledger) -> None:
    """A batch that came before is skipped, and of one that overlaps only the rest is new; another run agrees."""
    assert ledger.post(entries(3)) == 3
    assert ledger.post(entries(3)) == 0
    assert Ledger(store, "log", Known()).post(entries(4, first=1)) == 2
    assert used(store).requests == 5
    assert store.position("log") == Position(5, 5000)


def test_other_statements_move_the_position(store: MemoryStore, ledger: Ledger) -> None:
    """The log is read on from behind them."""
    heartbeat = canonical_json({"predicateType": "urn:allod:heartbeat:v1", "predicate": {"id": "x"}})
    assert ledger.post([(0, 100, heartbeat), *entries(1, first=1)]) == 2
    assert used(store).requests == 1
    assert ledger.position() == Position(2, 2000)


@pytest.mark.parametrize("numbers", [[1], [0, 2], [0, 0], [1, 0], [0, 1, 1]], ids=str)
def test_a_gap_is_refused(store: MemoryStore, ledger: Ledger, numbers: list[int]) -> None:
    """Nothing is charged of a batch that leaves out an entry, or has one twice: the sum would be wrong for ever."""
    known = dict(enumerate(entries(3)))
    with pytest.raises(Invalid) as caught:
        ledger.post([known[number] for number in numbers])
    assert caught.value.code == "ledger_gap"
    assert used(store) == Totals()
    assert ledger.post(entries(3)) == 3


def with_tokens(tokens: int) -> bytes:
    """A receipt as an unchecked writer signed it, of an engine that counted so many tokens."""
    return statement_bytes(RECEIPT).replace(b'"tokens":34', b'"tokens":%d' % tokens)


def at(time_ms: int) -> bytes:
    """A receipt of a clock that said so."""
    return statement_bytes(RECEIPT).replace(b'"start_ms":%d' % START_MS, b'"start_ms":%d' % time_ms)


UNREADABLE = [
    b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"predicateType":1}',
    with_tokens(10**30), with_tokens(-5), with_tokens(2**53 - 1), at(-315_619_200_000), at(253_402_300_800_000),
    at(10**30), statement_bytes(RECEIPT).replace(b'"tenant":"', b'"tenant":[],"tenants":"'),
]  # fmt: skip


@pytest.mark.parametrize("data", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_entry_that_is_no_receipt_is_stepped_over(
    store: MemoryStore, ledger: Ledger, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """One odd answer, once signed, must not keep a realm from charging, and so from answering, for ever after."""
    assert ledger.post([*entries(1), (1, 2000, data), *entries(1, first=2)]) == 3
    assert (used(store).requests, store.position("log")) == (2, Position(3, 3000))
    assert ledger.num_unreadable == 1
    assert "entry 1 of log is no receipt" in caplog.text


def test_what_a_store_did_not_take_is_not_yet_counted(
    store: MemoryStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is tried again names its odd entries once."""

    def locked(*_: object) -> None:
        raise Unavailable("locked", code="tenants_unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(store, "charge", locked)
        with pytest.raises(Unavailable):
            ledger.post([(0, 100, b"[]")])
    assert ledger.num_unreadable == 0
    ledger.post([(0, 100, b"[]")])
    assert ledger.num_unreadable == 1


def test_a_store_that_fails_after_it_charged(store: MemoryStore, ledger: Ledger) -> None:
    """Whether it did is asked again, so that nothing is charged twice or left out."""
    charge = store.charge

    def cut_off(origin: str, position: Position, charges: Sequence[Charge]) -> None:
        charge(origin, position, charges)
        raise Unavailable("the connection was lost", code="tenants_unavailable")

    store.charge = cut_off  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        ledger.post(entries(2))
    store.charge = charge  # type: ignore[method-assign]
    assert ledger.post(entries(3)) == 1
    assert used(store).requests == 3
