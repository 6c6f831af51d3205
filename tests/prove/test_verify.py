"""Verification as a whole: one kind of error whatever comes in, and no changed byte passes for the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import VerificationError
from allod.prove.trust import Trust
from allod.prove.verify import STEPS, Report, verify

GOOD = json.loads((Path(__file__).parents[2] / "spec/vectors/bundles.json").read_text())["good"]
OPENED = next(case for case in GOOD if case["opened"] == ["request", "answer"])
WITNESSED = next(case for case in GOOD if case["level"] == "witnessed")


def outcome(bundle: bytes, case: dict[str, Any] = OPENED) -> Report | VerificationError:
    try:
        return verify(bundle, Trust.parse(case["trust"]))
    except VerificationError as error:
        return error


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Whatever a stranger sends, the error is a VerificationError that names a step."""
    failed = outcome(data)
    assert isinstance(failed, VerificationError)
    assert (failed.step, failed.name) == (1, STEPS[0])


@given(st.data())
def test_one_changed_byte_never_verifies(data: st.DataObject) -> None:
    """Every byte of the canonical file counts: flip any bit of it, with witnesses or with an opening."""
    case = data.draw(st.sampled_from([OPENED, WITNESSED]))
    whole = case["bundle"].encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    bent = whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
    assert isinstance(outcome(bent, case), VerificationError)


@pytest.mark.parametrize("name", ["salt", "request", "answer"])
@given(st.data())
def test_one_changed_byte_of_the_opening_fails_step_6(name: str, data: st.DataObject) -> None:
    """A different salt, request or answer that is still well formed is caught by its commitment."""
    document = json.loads(OPENED["bundle"])
    text = document["opening"][name]
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("0123456789abcdef").filter(lambda char: char != text[at]))
    document["opening"][name] = text[:at] + other + text[at + 1 :]
    failed = outcome(json.dumps(document).encode())
    assert isinstance(failed, VerificationError)
    assert failed.step == 6


def test_a_bundle_is_bounded() -> None:
    """Beyond 4 MiB nothing is even parsed."""
    document = json.loads(OPENED["bundle"])
    document["opening"]["request"] = "x" * 4 * 1024 * 1024
    failed = outcome(json.dumps(document).encode())
    assert isinstance(failed, VerificationError)
    assert failed.step == 1


def test_a_report_says_how_far_the_evidence_reaches() -> None:
    """Without witnesses it says so in words; with them it has their names and their time."""
    logged, witnessed = outcome(OPENED["bundle"].encode()), outcome(WITNESSED["bundle"].encode(), WITNESSED)
    assert isinstance(logged, Report)
    assert isinstance(witnessed, Report)
    assert (logged.level, logged.witnesses, logged.witnessed_ms) == ("logged", (), None)
    assert logged.steps[2].detail.startswith("logged, not witnessed")
    assert "no witnessed window" in logged.steps[6].detail
    assert (witnessed.level, witnessed.witnesses) == ("witnessed", ("w1", "w3"))
    assert witnessed.witnessed_ms is not None
