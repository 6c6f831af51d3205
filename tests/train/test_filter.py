"""The stage `filter`: what a recipe wants of clean documents, and nothing else, is learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.train.tiny import source

from allod.core.errors import Invalid
from allod.train.corpus.documents import DocumentWriter, new_document, read_documents
from allod.train.pipeline import stages_of
from allod.train.recipe import Recipe
from allod.train.recipe_reading import read_recipe, recipe_json
from allod.train.stage_task import StageTask
from allod.train.stages import filter as stage

TEXTS = {"short": "a tax", "long": "a tax " * 9, "other": "a song " * 3, "held": "no"}


def recipe(**table: Any) -> Recipe:
    plain = recipe_json(Recipe("r", (source("notes", held_out=("held",)),)))
    return read_recipe({**plain, "filter": table}, where="x")


def filtered(folder: Path, **table: Any) -> tuple[list[str], list[dict[str, str]]]:
    """The names of what stays, and the report's rows of what goes."""
    before, after = folder / "clean", folder / "filter"
    before.mkdir()
    after.mkdir()
    with DocumentWriter(before) as writer:
        for name, text in TEXTS.items():
            writer.write(new_document("notes", name, text))
    stage.run(StageTask(recipe(**table), {"clean": before}, after, lambda *_: None, lambda: False))
    kept = [document.id.removeprefix("notes/") for document in read_documents(after)]
    return kept, json.loads((after / "report.json").read_bytes())["dropped"]


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        ({}, ["short", "long", "other", "held"]),
        ({"min_words": 3}, ["long", "other", "held"]),
        ({"max_words": 6}, ["short", "other", "held"]),
        ({"words": ["TAX"]}, ["short", "long", "held"]),
        ({"licences": ["CC0-1.0", "MIT"]}, ["short", "long", "other", "held"]),
    ],
)
def test_what_is_wanted_stays(tmp_path: Path, table: dict[str, Any], kept: list[str]) -> None:
    """And what is held out always: it is measured with, not learnt from."""
    assert filtered(tmp_path, **table)[0] == kept


@pytest.mark.parametrize("table", [{"licences": ["MIT"]}, {"words": ["anthem"]}, {"min_words": 1000}])
def test_a_filter_that_leaves_nothing_to_learn_from_ends_the_run_there(tmp_path: Path, table: dict[str, Any]) -> None:
    """With the rules that dropped it all, though what is held out is left: no later stage could tell whose fault that
    is."""
    with pytest.raises(Invalid, match="no document to learn from") as caught:
        filtered(tmp_path, **table)
    assert caught.value.code == "nothing_left"


def test_what_goes_is_on_record(tmp_path: Path) -> None:
    """So that whoever asks what became of a document is told the stage and the rule."""
    assert filtered(tmp_path, min_words=3)[1] == [{"id": "notes/short", "rule": "few_words"}]


def test_it_is_run_where_the_recipe_has_its_table() -> None:
    """What comes after it then learns from what it left; without it, a recipe means what it always did."""
    inputs = {made.name: made.inputs for made in stages_of(recipe(min_words=2))}
    assert (inputs["filter"], inputs["dedupe"]) == (("clean",), ("filter",))
    plain = Recipe("r", (source("notes"),))
    assert "filter" not in recipe_json(plain)
    assert {made.name: made.inputs for made in stages_of(plain)}["dedupe"] == ("clean",)


def test_its_table_survives_being_written_out() -> None:
    """A resolved recipe that is run again filters again."""
    asked = recipe(words=["tax"])
    assert read_recipe(recipe_json(asked), where="x") == asked


@pytest.mark.parametrize("word", ["New York", "", "e-mail", "3D", "İzmir", "cafe\u0301"])
def test_a_word_that_no_text_can_have_is_refused(word: str) -> None:
    """When the recipe is read: a slip would drop what was meant, and be seen in the report alone."""
    with pytest.raises(Invalid, match=r"^x: filter: .* is not one word") as caught:
        recipe(words=["tax", word])
    assert caught.value.param == "filter.words"
    assert recipe(words=["tax", "Owner’s", "café"])


@pytest.mark.parametrize(
    "table", [{"colour": 1}, {"min_words": "3"}, {"min_words": 5, "max_words": 2}, {"max_words": 2**53}]
)
def test_a_table_that_is_not_understood_is_refused(table: dict[str, Any]) -> None:
    """The error names the file."""
    with pytest.raises(Invalid, match=r"^x: filter"):
        recipe(**table)
