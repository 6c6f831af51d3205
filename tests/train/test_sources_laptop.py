"""The default recipe against the registries: its pins hold, and its text is what it says."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.train.collecting import collect

from allod.core.errors import Unavailable
from allod.settings.files import load_nation
from allod.train.corpus.documents import read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.recipe_reading import read_recipe
from allod.train.stage_task import StageTask
from allod.train.stages.clean import run as clean

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "laptop.toml"


@pytest.mark.slow
@pytest.mark.long
def test_the_default_recipe_has_its_text(tmp_path: Path) -> None:
    """Four sources, verified by digest; cleaning leaves nearly all of them as they are, and every novel whole."""
    recipe = read_recipe(tomllib.loads(RECIPE.read_text()), where="laptop.toml")
    recipe = replace(recipe, clean=replace(recipe.clean, identifiers=load_nation("gb").identifiers))
    source, cleaned = tmp_path / "source", tmp_path / "clean"
    source.mkdir()
    cleaned.mkdir()
    cache = REPOSITORY / ".cache" / "packages"
    try:
        facts = collect(recipe, given=tmp_path / "none", cache=cache, output=source, beside=RECIPE.parent)
    except Unavailable as error:
        pytest.skip(f"{error.message}: no registry, or another release of Debian")
    assert (facts["num_documents"], facts["num_bytes"]) == (3648, 25_888_525)
    measured = clean(StageTask(recipe, {"source": source}, cleaned, lambda what, done, total: None, lambda: False))
    assert int(measured["num_bytes_kept"] or 0) > 25_700_000
    assert int(measured["num_redacted"] or 0) < 30
    held_out = HeldOut(recipe)
    assert sum(document in held_out for document in read_documents(cleaned)) == 24  # the chapters of Persuasion
