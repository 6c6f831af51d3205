"""Recipes are read strictly: what is not understood is refused, with the key named."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.settings.files import load_recipe
from allod.train.recipe_reading import read_recipe, recipe_json, recipe_toml

SOURCE = {
    "name": "letters",
    "kind": "text",
    "path": "letters",
    "licence": "OGL-UK-3.0",
    "jurisdiction": "GB",
    "origin": "our own archive",
    "date": "2026-01-01",
}


def recipe(**changes: Any) -> dict[str, Any]:
    return {"name": "tiny", "minutes": 1, "source": [SOURCE], **changes}


def test_a_recipe_survives_its_own_toml() -> None:
    """The resolved recipe that a run writes is a recipe: read again, it is the same one."""
    given = read_recipe(recipe(seed=7, canaries={"count": 3, "repeats": [1, 8]}), where="x")
    again = read_recipe(tomllib.loads(recipe_toml(given)), where="x")
    assert again == given
    assert read_recipe(recipe_json(given), where="x") == given


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"pretrain": {"contxt": 8}}, "contxt"),
        ({"size": "7 billion"}, "size"),
        ({"size": "0m"}, "size"),
        ({"size": "100000m"}, "size"),
        ({"minutes": -1}, "minutes"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": 1.5}, "x: minutes"),
        ({"minutes": True}, "x: minutes"),
        ({"seed": 2**40}, "seed"),
        ({"tokenizer": {"vocab": 10}}, "tokenizer.vocab"),
        ({"name": "../../etc"}, "name"),
        ({"name": ""}, "name"),
        ({"source": []}, "source"),
        ({"source": [SOURCE, SOURCE]}, "source"),
        ({"source": [{**SOURCE, "jurisdiction": "Britain"}]}, "jurisdiction"),
        ({"source": [{**SOURCE, "date": "yesterday"}]}, "date"),
        ({"source": [{**SOURCE, "licence": ""}]}, "licence"),
        ({"source": [{**SOURCE, "name": "a/b"}]}, "name"),
        ({"canaries": {"count": 2, "repeats": [-1, 4]}}, "canaries.repeats"),
        ({"canaries": {"count": 2, "repeats": [10**9]}}, "canaries.repeats"),
        ({"sources": []}, "sources"),
    ],
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], param: str) -> None:
    """A misspelt key, an impossible size, a wrong type: an error that names it, never a default in its place."""
    with pytest.raises(Invalid) as refused:
        read_recipe(recipe(**changes), where="x")
    assert refused.value.param == param


@pytest.mark.parametrize("missing", ["licence", "jurisdiction", "origin", "date"])
def test_a_source_says_on_what_terms(missing: str) -> None:
    """Without its licence, jurisdiction, origin or date a source is not taken."""
    source = {name: value for name, value in SOURCE.items() if name != missing}
    with pytest.raises(Invalid, match=f"{missing} is missing"):
        read_recipe(recipe(source=[source]), where="x")


def test_a_package_is_pinned() -> None:
    """A package without its content's digest would be whatever the registry has that day."""
    source = {**SOURCE, "package": "debian:wordnet-base", "path": ""}
    with pytest.raises(Invalid, match="sha256"):
        read_recipe(recipe(source=[source]), where="x")
    with pytest.raises(Invalid, match="either package or path"):
        read_recipe(recipe(source=[{**SOURCE, "package": "debian:x", "sha256": "0" * 64}]), where="x")


@pytest.mark.parametrize("words", ["[clean]\nidentifiers = [{code = 'x'}]", '[evaluate]\nquestions_sha256 = "0"'])
def test_what_is_written_in_cannot_be_said(words: str, tmp_path: Path) -> None:
    """What a run fills in would be overwritten in silence if a hand had written it."""
    file = tmp_path / "x.toml"
    file.write_text(recipe_toml(read_recipe(recipe(), where="x")).replace(words.split("\n")[0], words, 1))
    with pytest.raises(Invalid):
        load_recipe(file)


def test_a_recipe_that_breaks_a_rule_cannot_be_made() -> None:
    """Whoever changes one, the command line say, has a recipe that holds or none: nobody needs to read it again."""
    given = read_recipe(recipe(), where="x")
    with pytest.raises(Invalid, match=r"^seed is -1"):
        replace(given, seed=-1)
