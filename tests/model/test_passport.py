"""The passport and the public summary: what manifests say, nothing else; and what only a person can say stays blank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app.finished_runs import BASE_DIGEST, adapter_run, model_run
from tests.model.facts import facts_of

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid
from allod.model.releases.facts import energy_of
from allod.model.releases.passport import passport_of, read_passport
from allod.model.releases.summary import BLANK, summary, summary_text


@pytest.fixture
def own(tmp_path: Path) -> bytes:
    return passport_of(facts_of(model_run(tmp_path / "run")))


def test_a_passport_says_what_the_contract_asks_for(own: bytes) -> None:
    """Name, publisher, licence, lineage, corpus, evaluation, energy, and what nobody controls."""
    told = read_passport(own)
    assert (told.name, told.publisher, told.country, told.origin) == ("tiny", "realm.example", "GB", "from-scratch")
    assert told.licence == "LicenseRef-public-domain AND MIT"
    assert told.value["evaluation"]["bits_per_byte"] == "1.95"
    assert told.value["energy"] == {"label": "MODELLED", "millijoules": 8_000}
    assert told.value["corpus"]["num_documents"] == 3
    assert told.value["not_controlled"].keys() == {"chips", "firmware"}
    stages = told.value["lineage"]["stages"]
    assert stages[1]["parents"] == [stages[0]["derivation"]]


def test_an_adapters_passport_says_that_its_base_is_not_controlled(tmp_path: Path) -> None:
    """And names it by digest and licence, which its own licence asks for as well."""
    told = read_passport(passport_of(facts_of(adapter_run(tmp_path / "run"))))
    assert told.origin == "adapted"
    assert told.licence == "Apache-2.0 AND LicenseRef-public-domain AND MIT"
    assert told.value["lineage"]["base"]["sha256"] == BASE_DIGEST
    assert "base-model origin" in told.value["not_controlled"]


def test_the_same_manifests_make_the_same_passport(tmp_path: Path) -> None:
    """Nothing in it is of the moment."""
    facts = facts_of(model_run(tmp_path / "run"))
    assert passport_of(facts) == passport_of(facts)


def test_nobody_is_told_that_answers_are_information(own: bytes) -> None:
    """Until a person has judged."""
    assert read_passport(own).informative is False


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("licence"),
        lambda value: value.update(extra=1),
        lambda value: value.update(format="urn:allod:passport:v3"),
        lambda value: value.update(format="urn:allod:passport:v1"),
        lambda value: value.pop("where"),
        lambda value: value.update(digest="md5:1"),
        lambda value: value.update(name=""),
        lambda value: value.update(origin="found"),
        lambda value: value.update(informative="yes"),
        lambda value: value["publisher"].pop("country"),
        lambda value: value["label"].pop("tier"),
        lambda value: value["label"].update(markings="SENSITIVE"),
    ],
)
def test_a_passport_has_one_form(own: bytes, change: Callable[[dict[str, Any]], None]) -> None:
    """Whatever is missing, unknown or of another kind, it is none."""
    value = json.loads(own)
    change(value)
    with pytest.raises(Invalid) as caught:
        read_passport(canonical_json(value))
    assert caught.value.code == "bad_passport"


@pytest.mark.parametrize("data", [b"", b"[]", b"[" * 100_000, b" {}", b"\xff", b" " * (5 << 20)])
def test_what_is_no_canonical_json_is_no_passport(data: bytes) -> None:
    """Bounded in length and depth."""
    with pytest.raises(Invalid):
        read_passport(data)


def test_energy_is_as_uncertain_as_its_least_certain_part(tmp_path: Path) -> None:
    """A sum in which one stage has no figure is no figure."""
    stages = facts_of(model_run(tmp_path / "run")).stages
    said: list[dict[str, Any]] = [dict(stage.predicate) for stage in stages[:2]]
    for one, energy in zip(
        said, ({"label": "METERED", "millijoules": 5}, {"label": "UNAVAILABLE", "millijoules": None}), strict=True
    ):
        one["energy"] = energy

    class Said:
        def __init__(self, predicate: dict[str, Any]) -> None:
            self.predicate = predicate

    assert energy_of([Said(said[0]), Said(said[1])]) == {"label": "UNAVAILABLE", "millijoules": None}  # type: ignore[list-item]
    assert energy_of([Said(said[0]), Said(said[0])]) == {"label": "METERED", "millijoules": 10}  # type: ignore[list-item]


def test_the_summary_lists_sources_and_leaves_blank_what_it_cannot_know(tmp_path: Path) -> None:
    """Sources by category with what was learnt from each; contacts, rights and content are a person's to write."""
    value = json.loads(summary(facts_of(model_run(tmp_path / "run"))))
    (novels, plays) = value["sources"]["public_datasets"]
    assert (novels["num_learnt"], novels["num_held_out"], plays["num_learnt"]) == (2, 1, 1)
    assert value["processing"]["dropped"] == {"near_duplicate": 1, "too_short": 1}
    assert value["processing"]["rights_reservations"] is None
    text = summary_text(value)
    for title in ("## 1. General", "## 2. Data sources", "### 2.3 Data crawled", "## 3. Data processing"):
        assert title in text
    assert f"- Contact: {BLANK}" in text
    assert f"- Illegal content removed by: {BLANK}" in text
    assert "| novels | the novels | pypi:novels==1 |" in text
    assert "compliant" not in text.lower()


def test_files_of_the_operators_own_are_not_called_anything(tmp_path: Path) -> None:
    """Whether they were bought, crawled or written by users, no manifest says."""
    facts = facts_of(model_run(tmp_path / "run"), package="")
    value = json.loads(summary(facts))
    assert value["sources"]["public_datasets"] == []
    assert [source["name"] for source in value["sources"]["other"]] == ["novels", "plays"]
    text = summary_text(value)
    assert f"### 2.4 User data\n\n{BLANK}" in text


def test_a_hostile_name_stays_in_its_cell(tmp_path: Path) -> None:
    """Text of manifests cannot add lines, cells or markup to the page."""
    facts = facts_of(model_run(tmp_path / "run"), origin="x | y\n# Title <script>")
    assert "| x \\| y # Title &lt;script> |" in summary_text(json.loads(summary(facts)))


def test_a_passport_of_version_1_is_still_read(own: bytes) -> None:
    """What was released before what is stated and what was observed were told apart stays servable."""
    value = json.loads(own)
    del value["where"]
    old = read_passport(canonical_json({**value, "format": "urn:allod:passport:v1"}))
    assert old.name == read_passport(own).name


def test_what_is_stated_stands_beside_what_was_observed(own: bytes) -> None:
    """The site is the operator's word; the machine is what the process saw."""
    where = json.loads(own)["where"]
    assert where["stated"][0]["site"] == "local"
    assert where["observed"][0]["by"] == "trainer"
    assert "site" not in where["observed"][0]
