"""Values that come into a run from outside of the process that holds the keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.app.finished_runs import gguf_bytes
from tests.train.stage_logs import MemoryLog
from tests.train.test_pipeline import PREDICATE

from allod.core.canonical import check_canonical
from allod.core.errors import Invalid, Unavailable
from allod.core.stages import ROWS
from allod.core.statements.training import derivation_of, make_training_statement
from allod.model.gguf.adaptable import check_adaptable
from allod.settings.files import load_recipe
from allod.train import resolving
from allod.train.environment import check_packages
from allod.train.pipeline import stages_of
from allod.train.recipe import Evaluate, Recipe
from allod.train.recipe_reading import read_recipe, recipe_json
from allod.train.stage_task import as_stated

SOURCE = {
    "name": "a", "kind": "text", "path": "a", "licence": "CC0-1.0", "jurisdiction": "GB", "origin": "b", "date": "2026",
}  # fmt: skip


def recipe() -> Recipe:
    return read_recipe({"name": "r", "minutes": 2, "source": [SOURCE]}, where="x")


@pytest.mark.parametrize("table", [{}, {"adapt": {"base": "b"}}])
def test_a_stage_that_may_be_a_job_keeps_its_folder(table: dict[str, Any]) -> None:
    """Whoever stops waiting and starts again must not delete the folder that the job still writes to."""
    asked = read_recipe({**recipe_json(recipe()), **table}, where="x")
    jobs = [stage for stage in stages_of(asked) if ROWS[stage.name].needs_accelerators]
    assert jobs
    assert all(stage.resumes for stage in jobs)


def test_a_record_changes_size_and_steps_and_nothing_else() -> None:
    """Whoever edits what a run recorded cannot slip other sources or terms into it."""
    edited = {**recipe_json(recipe()), "size": "5m", "steps": 9, "name": "other", "source": []}
    resolved = resolving.resolve_by(recipe(), edited)
    assert (resolved.size, resolved.steps, resolved.minutes) == ("5m", 9, 0)
    assert (resolved.name, resolved.sources) == (recipe().name, recipe().sources)


def test_a_recipe_that_moves_still_finds_its_files(tmp_path: Path) -> None:
    """The one that is kept in the run's folder is run from there: sources and question files lie where they lay."""
    asked = replace(recipe(), evaluate=Evaluate(questions="q"))
    located = resolving.locate(asked, tmp_path)
    assert located.sources[0].path == str(tmp_path / "a")
    assert located.evaluate.questions == str(tmp_path / "q")
    assert resolving.locate(recipe(), tmp_path).evaluate.questions == ""


@pytest.mark.parametrize("measured", [None, [], {}, {"size": "auto", "steps": 1}, {"size": "1m", "steps": 10**12}])
def test_a_record_that_says_no_size_is_refused(measured: Any) -> None:
    """Clearly, and within a recipe's own bounds."""
    with pytest.raises(Invalid):
        resolving.resolve_by(recipe(), measured)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "5", "\udcff"])
def test_a_record_that_is_damaged_is_none(tmp_path: Path, text: str) -> None:
    """The machine is measured again."""
    (tmp_path / "r").write_bytes(text.encode(errors="surrogateescape"))
    assert resolving.read_record(tmp_path / "r") == {}


def test_the_flops_of_a_large_run_can_be_stated() -> None:
    """A number beyond what JSON keeps exact would be refused after all the work: it is said as text."""
    measured = as_stated({"flops": 6 * 10**9 * 10**10, "tokens": 10**10, "loss": 1.5, "more": None})
    check_canonical(measured)
    assert measured == {"flops": str(6 * 10**19), "tokens": 10**10, "loss": "1.5", "more": None}


def test_what_was_measured_is_measured_once(tmp_path: Path) -> None:
    """A record serves the recipe that it was made for; another one, or none, has to be measured."""
    asked, log = recipe(), MemoryLog()
    assert resolving.read_recorded(tmp_path, asked, log) is None
    measured = resolving.resolve_by(asked, {"size": "5m", "steps": 7})
    resolving.record(tmp_path, asked, measured, {"tokens_per_second": 1.5}, beside=tmp_path)
    key, files = resolving.key_of_measure(asked), resolving.digest_of_measure(measured)
    known: dict[str, Any] = {"stage": "probe", "version": 1, "key": key, "inputs": []}
    known |= {"parameters": resolving.parameters_of_measure(asked), "derivation": derivation_of(key, files)}
    log.append([make_training_statement(files, {**PREDICATE, **known})])
    assert resolving.read_recorded(tmp_path, asked, log) == measured
    assert resolving.read_recorded(tmp_path, replace(asked, minutes=3), log) is None
    assert load_recipe(tmp_path / "recipe.toml") == resolving.locate(measured, tmp_path)


def test_a_missing_extra_is_named_before_the_first_stage() -> None:
    """With the command that installs it."""
    check_packages(["json"])
    with pytest.raises(Unavailable) as caught:
        check_packages(["json", "no_such_package"])
    assert (caught.value.code, caught.value.hint) == ("extra_missing", "make setup-train")
    assert "no_such_package" in caught.value.message


@pytest.mark.parametrize(("architecture", "is_fit"), [("llama", True), ("qwen2", True), ("gemma", False)])
def test_a_base_that_no_adapter_would_load_beside_is_refused(tmp_path: Path, architecture: str, is_fit: bool) -> None:
    """By its header, before a document is read."""
    texts = {"general.architecture": architecture, "general.name": "base"}
    data = gguf_bytes(texts).replace(b"llama.context_length", f"{architecture:x<5}"[:5].encode() + b".context_length")
    (tmp_path / "weights.gguf").write_bytes(data)
    if is_fit:
        check_adaptable(tmp_path / "weights.gguf")
        return
    with pytest.raises(Invalid) as caught:
        check_adaptable(tmp_path / "weights.gguf")
    assert (caught.value.code, architecture in caught.value.message) == ("base_unsupported", True)
