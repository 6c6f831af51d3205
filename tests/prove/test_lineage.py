"""Lineage: a chain of stages holds only if every link does, and whoever forges one is named by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app.finished_runs import BASE_DIGEST, FinishedRun, adapter_run, corpus, model_run

from allod.core.canonical import canonical_json
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.statements.training import (
    check_artefact_statement,
    check_training_statement,
    derivation_of,
    key_of,
    source_input,
)
from allod.prove.releases.lineage import ChainStage, chain_of, read_stage
from allod.prove.releases.release import read_stage_folder

VECTORS = json.loads((Path(__file__).parents[2] / "spec" / "vectors" / "training.json").read_text())


def stages_in(folder: Path) -> dict[str, ChainStage]:
    return {path.name: read_stage_folder(path) for path in sorted(folder.iterdir())}


def refused(stages: dict[str, ChainStage]) -> str:
    with pytest.raises(Invalid) as caught:
        chain_of(stages.values())
    assert caught.value.code == "bad_lineage"
    return caught.value.message


def remade(manifest: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The manifest after `change`, with a key and a derivation that follow from it: as a forger would write it."""
    statement = json.loads(manifest)
    held = statement["predicate"]
    change(held)
    held["key"] = key_of(held["stage"], held["version"], held["parameters"], held["inputs"])
    held["derivation"] = derivation_of(held["key"], f"sha256:{statement['subject'][0]['digest']['sha256']}")
    return canonical_json(statement)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return model_run(tmp_path / "run").folder


def test_a_models_chain_goes_from_its_export_to_its_sources(run: Path) -> None:
    """Stages in their order, whatever the order they are read in; sources by name; the root before the export."""
    found = stages_in(run)
    chain = chain_of(reversed(found.values()))
    names = ["source", "clean", "dedupe", "tokenizer", "pack", "pretrain", "evaluate", "export"]
    assert [stage.name for stage in chain.stages] == names
    assert [source["name"] for source in chain.sources] == ["novels", "plays"]
    assert chain.root == found["evaluate"].statement.derivation
    assert (chain.kind, chain.base, chain.learnt.name) == ("model", None, "pretrain")


def test_an_adapters_chain_names_its_base(tmp_path: Path) -> None:
    """Which comes from outside, by its digest."""
    chain = chain_of(stages_in(adapter_run(tmp_path / "run").folder).values())
    assert chain.kind == "adapter"
    assert chain.base is not None
    assert chain.base["sha256"] == BASE_DIGEST
    assert chain.root == chain.stage("adapt").statement.derivation


def test_one_word_changed_in_one_source_changes_every_derivation(tmp_path: Path) -> None:
    """A derivation commits to all that led to it; the same run again has the same ones."""
    texts = {"novels/one": "It is a truth.", "plays/one": "Who's there?"}
    first, again, changed = (
        {
            name: stage.statement.derivation
            for name, stage in stages_in(model_run(tmp_path / name, texts=given).folder).items()
        }
        for name, given in (("a", texts), ("b", texts), ("c", {**texts, "novels/one": "It is a lie."}))
    )
    assert first == again
    assert not set(first.values()) & set(changed.values())


@pytest.mark.parametrize("stage", ["source", "clean", "tokenizer", "pack", "evaluate"])
def test_a_missing_stage_is_named(run: Path, stage: str) -> None:
    """None can be left out, the evaluation least of all."""
    found = stages_in(run)
    del found[stage]
    assert f"the stage {stage} is missing" in refused(found)


@pytest.mark.parametrize("stage", ["source", "dedupe", "pack", "pretrain", "evaluate"])
def test_a_manifest_of_another_run_does_not_fit(run: Path, tmp_path: Path, stage: str) -> None:
    """Well-formed as it is, the stages after it were made of something else."""
    other = stages_in(model_run(tmp_path / "other", texts={"novels/x": "Other.", "plays/y": "Words."}).folder)
    assert "is not the stage" in refused({**stages_in(run), stage: other[stage]})


def test_a_forged_parent_is_found(run: Path) -> None:
    """Also where the forger computes everything anew in the manifest that names the parent."""
    folder = run / "pretrain"

    def forge(held: dict[str, Any]) -> None:
        held["inputs"][0]["derivation"] = "sha256:" + "f" * 64

    forged = remade((folder / "manifest.json").read_bytes(), forge)
    assert check_training_statement(forged)
    stage = read_stage(forged, (folder / "files.json").read_bytes())
    assert "pretrain: its input pack is not the stage pack" in refused({**stages_in(run), "pretrain": stage})


def test_a_changed_parameter_changes_what_the_next_stage_must_name(run: Path) -> None:
    """A manifest that claims other parameters has another derivation, which nobody after it knows."""
    folder = run / "clean"
    forged = remade((folder / "manifest.json").read_bytes(), lambda held: held["parameters"].update(redact=True))
    stage = read_stage(forged, (folder / "files.json").read_bytes())
    assert "dedupe: its input clean is not the stage clean" in refused({**stages_in(run), "clean": stage})


def test_a_manifest_whose_derivation_does_not_follow_is_refused(run: Path) -> None:
    """It is computed from the manifest's own fields, and compared."""
    folder = run / "clean"
    changed = json.loads((folder / "manifest.json").read_bytes())
    changed["predicate"]["parameters"]["redact"] = True
    with pytest.raises(Invalid):
        read_stage(canonical_json(changed), (folder / "files.json").read_bytes())


def test_a_list_of_files_that_was_changed_is_refused(run: Path) -> None:
    """Its digest is the manifest's subject."""
    manifest, files = ((run / "pack" / name).read_bytes() for name in ("manifest.json", "files.json"))
    with pytest.raises(Invalid, match="not the one that its manifest names"):
        read_stage(manifest, files.replace(b'"bytes":', b'"bytes":1'))


@pytest.mark.parametrize(
    "files",
    [
        b"[]",
        b"{}",
        b"not json",
        b"[" * 100_000,
        b'[{"bytes":1,"name":"a","sha256":"short"}]',
        b'[ {"bytes":1,"name":"a","sha256":"' + b"0" * 64 + b'"}]',
        b'[{"bytes":-1,"name":"a","sha256":"' + b"0" * 64 + b'"}]',
        b'[{"bytes":1,"name":"a","other":1,"sha256":"' + b"0" * 64 + b'"}]',
    ],
)
def test_a_list_of_files_has_one_form(tmp_path: Path, files: bytes) -> None:
    """Also where a manifest names it: empty, deep, loose or odd lists are no lists."""
    run = FinishedRun(tmp_path / "run")
    corpus(run)
    statement = json.loads(run.manifests["clean"])
    statement["subject"][0]["digest"]["sha256"] = sha256_hex(files)
    manifest = remade(canonical_json(statement), lambda held: None)
    with pytest.raises(Invalid) as caught:
        read_stage(manifest, files)
    assert caught.value.code == "bad_lineage"


def test_sources_come_in_at_the_first_stage_alone(run: Path) -> None:
    """Text that was slipped in later would have no licence and no record."""
    folder = run / "pack"
    slipped = source_input(
        name="more", sha256="sha256:" + "1" * 64, licence="MIT", jurisdiction="GB", origin="x", date="", package=""
    )
    forged = remade((folder / "manifest.json").read_bytes(), lambda held: held["inputs"].append(dict(slipped)))
    stage = read_stage(forged, (folder / "files.json").read_bytes())
    assert "comes from outside the run" in refused({**stages_in(run), "pack": stage})


def test_a_chain_of_an_unknown_stage_is_refused(run: Path) -> None:
    """What is not known cannot be judged."""
    found = stages_in(run)
    forged = json.loads((run / "clean" / "manifest.json").read_bytes())
    forged["subject"][0]["name"] = "bleach"
    manifest = remade(canonical_json(forged), lambda held: held.update(stage="bleach"))
    stage = read_stage(manifest, (run / "clean" / "files.json").read_bytes())
    assert "the stage bleach has no place" in refused({**found, "bleach": stage})


def rerun(run: Path, stage: str, without: str) -> ChainStage:
    """The stage as if it had not taken in one of its inputs."""
    folder = run / stage

    def leave_out(held: dict[str, Any]) -> None:
        held["inputs"] = [one for one in held["inputs"] if one["name"] != without]

    return read_stage(remade((folder / "manifest.json").read_bytes(), leave_out), (folder / "files.json").read_bytes())


def test_a_stage_that_went_into_nothing_is_refused(tmp_path: Path) -> None:
    """A stage that is there for show, such as a cleaning whose texts nobody learnt from, is found."""
    run = FinishedRun(tmp_path / "run")
    corpus(run)
    given = source_input(
        name="base", sha256=BASE_DIGEST, licence="MIT", jurisdiction="US", origin="x", date="", package=""
    )
    run.stage("adapt", {"adapter_model.safetensors": b"a"}, inputs=["source"], given=[given])
    run.stage("export_adapter", {"adapter.gguf": b"a"}, inputs=["adapt"])
    assert "the stage dedupe went into nothing" in refused(stages_in(run.folder))


@pytest.mark.parametrize("without", ["evaluate", "pretrain"])
def test_an_export_takes_in_weights_and_their_evaluation(run: Path, without: str) -> None:
    """One that was made without either is no release."""
    found = {**stages_in(run), "export": rerun(run, "export", without)}
    message = "the export did not take in pretrain" if without == "pretrain" else "the stage evaluate went into nothing"
    assert message in refused(found)


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path) -> None:
    """Tuned weights are exported, and those before the tuning were evaluated."""
    run = FinishedRun(tmp_path / "run")
    corpus(run)
    run.stage("tokenizer", {"tokenizer.json": b"{}"}, inputs=["dedupe"])
    run.stage("pack", {"pack.json": b"{}"}, inputs=["dedupe", "tokenizer"])
    run.stage("pretrain", {"weights.safetensors": b"1"}, inputs=["pack"])
    run.stage("tune", {"weights.safetensors": b"2"}, inputs=["pretrain"])
    run.stage("evaluate", {"evaluation.json": b"{}"}, inputs=["pretrain"])
    run.stage("export", {"a.gguf": b"a"}, inputs=["tune", "evaluate"])
    assert "other weights were evaluated" in refused(stages_in(run.folder))


def test_a_stage_that_may_be_left_out_counts_where_it_is_there(tmp_path: Path) -> None:
    """A chain through a filter holds, and one that goes past it does not: nobody filters for show."""
    run = adapter_run(tmp_path / "run")
    run.stage("filter", {"report.json": b"{}"}, inputs=["clean"])
    assert "the stage filter went into nothing" in refused(stages_in(run.folder))
    through = FinishedRun(tmp_path / "through")
    corpus(through)
    shutil.rmtree(through.folder / "dedupe")
    through.stage("filter", {"report.json": b"{}"}, inputs=["clean"])
    through.stage("dedupe", {"report.json": b"{}"}, inputs=["filter"])
    base = source_input(
        name="base", sha256=BASE_DIGEST, licence="MIT", jurisdiction="GB", origin="us", date="", package=""
    )
    through.stage("adapt", {"adapter_model.safetensors": b"1"}, inputs=["dedupe"], given=[base])
    through.stage("export_adapter", {"adapter.gguf": b"a"}, inputs=["dedupe", "adapt"])
    chain = chain_of(stages_in(through.folder).values())
    assert chain.stages_that_keep("report.json") == ["clean", "filter", "dedupe"]


@pytest.mark.parametrize("vector", VECTORS["stages"], ids=["source", "clean"])
def test_the_vectors_are_what_the_specification_says(vector: dict[str, str]) -> None:
    """Key and derivation as anybody computes them from the manifest and the list of files."""
    stage = read_stage(vector["manifest"].encode(), vector["files"].encode())
    assert (stage.statement.key, stage.statement.derivation) == (vector["key"], vector["derivation"])
    assert check_artefact_statement(VECTORS["artefact"].encode()).name == "vectors"


@pytest.mark.parametrize(
    ("check", "vector"),
    [(check_training_statement, vector) for vector in VECTORS["bad_training"]]
    + [(check_artefact_statement, vector) for vector in VECTORS["bad_artefact"]],
    ids=lambda value: value["why"] if isinstance(value, dict) else value.__name__,
)
def test_a_malformed_statement_is_refused(check: Callable[[bytes], object], vector: dict[str, str]) -> None:
    """Each field has one form, and what follows from others must follow."""
    with pytest.raises(Invalid):
        check(vector["statement"].encode())
