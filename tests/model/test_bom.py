"""The bill of materials: CycloneDX 1.6 as its own validator reads it, the same bytes for the same manifests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app.finished_runs import BASE_DIGEST, FinishedRun, adapter_run, model_run
from tests.model.facts import facts_of

from allod.model.releases.bom import bom

Make = Callable[[Path], FinishedRun]


def problem_with(data: bytes) -> object:
    """What CycloneDX's strict validator finds."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    return validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(data.decode())


@pytest.mark.parametrize("make", [model_run, adapter_run])
def test_the_strict_validator_accepts_it(tmp_path: Path, make: Make) -> None:
    """A model's and an adapter's; and refuses one with a member too many."""
    data = bom(facts_of(make(tmp_path / "run")))
    assert problem_with(data) is None
    assert problem_with(data.replace(b'"bomFormat"', b'"bomFormal":1,"bomFormat"')) is not None


def test_every_source_is_a_component_with_its_licence(tmp_path: Path) -> None:
    """And the model's card refers to it."""
    value = json.loads(bom(facts_of(model_run(tmp_path / "run"))))
    novels, plays = value["components"]
    assert novels["licenses"] == [{"expression": "LicenseRef-public-domain AND MIT"}]
    assert (novels["type"], plays["type"]) == ("data", "data")
    model = value["metadata"]["component"]
    assert [one["ref"] for one in model["modelCard"]["modelParameters"]["datasets"]] == [
        novels["bom-ref"],
        plays["bom-ref"],
    ]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "bits_per_byte", "value": "1.95"} in metrics


def test_a_base_model_is_an_ancestor(tmp_path: Path) -> None:
    """By its digest, with what is not known of it."""
    value = json.loads(bom(facts_of(adapter_run(tmp_path / "run"))))
    (ancestor,) = value["metadata"]["component"]["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": BASE_DIGEST.removeprefix("sha256:")}]


def test_its_serial_number_follows_from_the_history(tmp_path: Path) -> None:
    """The same manifests make the same bytes; another corpus has another number."""
    first, again, other = (
        bom(facts_of(model_run(tmp_path / name / "run", texts=texts)))
        for name, texts in (("a", {"novels/a": "One."}), ("b", {"novels/a": "One."}), ("c", {"novels/a": "Two."}))
    )
    numbers: list[Any] = [json.loads(data)["serialNumber"] for data in (first, again, other)]
    assert numbers[0] == numbers[1] != numbers[2]
    assert first == again
