"""A recipe with all that comes into its run from outside: sources by their digests, the model to adapt, questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from allod.app.home import Home
from allod.app.training.surroundings import Surroundings
from allod.core.digests import digest_of_hex
from allod.core.stages import BASE, QUESTIONS, ROWS, SOURCES
from allod.core.statements.training import Input, source_input
from allod.model.catalogue import CatalogueEntry, find
from allod.model.fetch import ensure
from allod.model.gguf.adaptable import check_adaptable
from allod.model.store import Store
from allod.settings.files import load_catalogue
from allod.train.outputs import digest_of_folder
from allod.train.recipe import Recipe
from allod.train.sources.collect import content_digests


@dataclass(frozen=True, slots=True)
class PreparedRecipe:
    """`recipe` as its stages are given it. `inputs` are what stages take from outside, by stage, as their statements
    name it; `folders` what they may read there, by what it is; `digests` of the sources' content."""

    recipe: Recipe
    inputs: Mapping[str, list[Input]] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


def prepare(around: Surroundings, recipe: Recipe) -> PreparedRecipe:
    """Write into the recipe what a run fills in, and fetch and check what it adapts."""
    identifiers = around.nation.identifiers  # what is personal is the nation's to say
    recipe = replace(recipe, clean=replace(recipe.clean, identifiers=identifiers))
    folders: dict[str, Path] = {}
    if recipe.evaluate.questions:
        folders[QUESTIONS] = (around.options.beside / recipe.evaluate.questions).absolute()
        digest = digest_of_folder(folders[QUESTIONS], "*.json")
        recipe = replace(recipe, evaluate=replace(recipe.evaluate, questions_sha256=digest))
    digests = content_digests(recipe, beside=around.options.beside)
    outside = {SOURCES: _source_inputs(recipe, digests)}
    if recipe.adapt.base:
        entry = find(load_catalogue(), recipe.adapt.base)
        folders[BASE] = _fetch_base(around, entry)
        outside[BASE] = [_base_input(entry)]
    inputs = {name: outside[row.takes] for name, row in ROWS.items() if row.takes in outside}
    return PreparedRecipe(recipe, inputs, folders, digests)


def _source_inputs(recipe: Recipe, digests: Mapping[str, str]) -> list[Input]:
    return [
        source_input(
            name=source.name,
            sha256=digest_of_hex(digests[source.name]),
            licence=source.licence,
            jurisdiction=source.jurisdiction,
            origin=source.origin,
            date=source.date,
            package=source.package,
        )
        for source in recipe.sources
    ]


def _fetch_base(around: Surroundings, entry: CatalogueEntry) -> Path:
    """The folder of the model to adapt, fetched and checked."""
    home = Home(around.settings.home)
    weights = ensure(entry, Store(home.store), directory=home.models, progress=around.callbacks.progress)
    check_adaptable(weights)
    return weights.parent


def _base_input(entry: CatalogueEntry) -> Input:
    return source_input(
        name=BASE,
        sha256=digest_of_hex(entry.sha256),
        licence=entry.licence,
        jurisdiction=entry.country,
        origin=entry.publisher,
        date="",
        package=" ".join(entry.packages[:1]),
    )
