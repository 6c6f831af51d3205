"""The vectors of the specification: each good bundle verifies, each broken one fails at the step it names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from allod.core.errors import Invalid, VerificationError
from allod.prove.formats.merkle import is_consistent, leaf_hash, root_from_inclusion
from allod.prove.receipts.commitments import commitment, nonce_of, pseudonym_of, salt_of
from allod.prove.trust import Trust
from allod.prove.verify import STEPS, verify

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def by_name(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", load("bundles.json")["good"], ids=by_name)
def test_a_good_bundle_verifies(case: dict[str, Any]) -> None:
    """All seven steps are reported, with how far the evidence reaches and which texts were opened."""
    report = verify(case["bundle"].encode(), Trust.parse(case["trust"]))
    assert [step.name for step in report.steps] == list(STEPS)
    assert report.level == case["level"]
    assert list(report.opened) == case["opened"]


@pytest.mark.parametrize("case", load("bundles.json")["broken"], ids=by_name)
def test_a_broken_bundle_fails_at_its_step(case: dict[str, Any]) -> None:
    """The error carries the step's number and name."""
    with pytest.raises(VerificationError) as failed:
        verify(case["bundle"].encode(), Trust.parse(case["trust"]), case["now_ms"])
    assert (failed.value.step, failed.value.name) == (case["step"], STEPS[case["step"] - 1])


@pytest.mark.parametrize("case", load("trust.json")["cases"], ids=by_name)
def test_a_trust_file_is_read_strictly(case: dict[str, Any]) -> None:
    """C2SP tlog-policy, with every MUST of it."""
    if case["good"]:
        Trust.parse(case["trust"])
    else:
        with pytest.raises(Invalid):
            Trust.parse(case["trust"])


def test_commitments_are_the_published_ones() -> None:
    """Another implementation must come to the same salt, nonce, pseudonym and commitments."""
    case = load("commitments.json")
    key = bytes.fromhex(case["day_key"])
    salt = salt_of(key, case["receipt_id"])
    assert (salt.hex(), nonce_of(salt)) == (case["salt"], case["nonce"])
    assert pseudonym_of(key, case["tenant"]) == case["pseudonym"]
    for role in ("request", "answer", "passage"):
        assert commitment(role, salt, case[role]["text"].encode()) == case[role]["commitment"]


@pytest.mark.parametrize("case", load("trees.json")["cases"], ids=lambda case: f"{case['old']}-{case['new']}")
def test_trees_are_the_published_ones(case: dict[str, Any]) -> None:
    """RFC 6962 roots and proofs over nine small entries."""
    old_root, new_root = bytes.fromhex(case["old_root"]), bytes.fromhex(case["new_root"])
    consistency = [bytes.fromhex(node) for node in case["consistency"]]
    inclusion = [bytes.fromhex(node) for node in case["inclusion_of_last"]]
    last = leaf_hash(b"entry %d" % (case["new"] - 1))
    assert is_consistent(case["old"], old_root, case["new"], new_root, consistency)
    assert root_from_inclusion(last, case["new"] - 1, case["new"], inclusion) == new_root


def test_the_files_are_what_the_maker_makes(maker: ModuleType) -> None:
    """A change of format shows as a change of the vectors, never behind their back."""
    for name, document in maker.documents().items():
        assert load(name) == json.loads(json.dumps(document)), name
