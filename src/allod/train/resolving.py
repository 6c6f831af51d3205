"""A recipe's size and steps: what was measured once is recorded in the run's folder, and what is recorded is run again.

`resolved.json` says what was asked for and what was measured; `recipe.toml` is the recipe so resolved, a file that
`allod train` takes anywhere. What was measured is a leaf of the realm's log, as a statement of the stage `probe`: who
can write into the run's folder alone does not decide for how long it learns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from allod.core.canonical import JsonValue, digest_of
from allod.core.errors import Invalid
from allod.core.files.whole import write_whole
from allod.core.statements.training import check_training_statement, key_of
from allod.train.recipe import Recipe
from allod.train.recipe_reading import name_file, recipe_json, recipe_toml
from allod.train.stage_log import StageLog
from allod.train.stage_task import StageFacts, as_stated

PROBE, PROBE_VERSION = "probe", 1
_RESOLVED, _RECIPE = "resolved.json", "recipe.toml"


def is_resolved(recipe: Recipe) -> bool:
    """Whether nothing is left to measure: size and steps are said, or the recipe adapts a model that has its size."""
    return bool(recipe.adapt.base) or (recipe.steps > 0 and recipe.size != "auto")


def read_recorded(folder: Path, given: Recipe, log: StageLog) -> Recipe | None:
    """`given` with what was recorded when it was asked for here before; None where something else was, or nothing.

    Of the record size and steps alone are believed. Raises Invalid where they are none, or were never measured here
    (`record_unlogged`).
    """
    record = read_record(folder / _RESOLVED)
    if record.get("given") != digest_of(recipe_json(given)):
        return None
    resolved = resolve_by(given, record.get("recipe"))
    logged = [check_training_statement(manifest).files for manifest in log.manifests_of(key_of_measure(given))]
    if digest_of_measure(resolved) not in logged:
        raise Invalid(
            f"{_RESOLVED} says {resolved.size} and {resolved.steps} steps, which the artefacts log does not",
            code="record_unlogged",
            hint=f"delete {_RESOLVED} to measure again, or run {_RECIPE} of the same folder to take what stands there",
        )
    return resolved


def key_of_measure(given: Recipe) -> str:
    """The key of the statement that says what was measured for this recipe."""
    return key_of(PROBE, PROBE_VERSION, parameters_of_measure(given), [])


def parameters_of_measure(given: Recipe) -> dict[str, JsonValue]:
    """What was asked for."""
    return {"given": digest_of(recipe_json(given))}


def digest_of_measure(resolved: Recipe) -> str:
    """What came of it: the digest that the statement's subject has."""
    return digest_of({"size": resolved.size, "steps": resolved.steps})


def record(folder: Path, given: Recipe, resolved: Recipe, facts: StageFacts, *, beside: Path) -> None:
    """Keep what was asked for, what it came to, and the facts that it follows from. `beside` is the recipe's folder."""
    values = {"given": digest_of(recipe_json(given)), "recipe": recipe_json(resolved), "probe": as_stated(facts)}
    write_whole(folder / _RESOLVED, json.dumps(values, indent=1) + "\n")
    write_whole(folder / _RECIPE, recipe_toml(locate(resolved, beside)))


def read_record(path: Path) -> dict[str, Any]:
    """What a record says; nothing where there is none, or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def resolve_by(given: Recipe, measured: object) -> Recipe:
    """The recipe with the size and the steps that were measured, and nothing else of it. Raises Invalid."""
    if not isinstance(measured, Mapping):
        raise Invalid("no size and steps were recorded", code="recipe_type", hint=f"delete {_RESOLVED} of the run")
    size, steps = measured.get("size"), measured.get("steps")
    if not isinstance(size, str) or type(steps) is not int:
        raise Invalid(f"{_RESOLVED}: size must be a text, and steps a whole number", code="recipe_type")
    with name_file(_RESOLVED):
        return replace(given, size=size, steps=steps, minutes=0)


def locate(recipe: Recipe, beside: Path) -> Recipe:
    """The recipe with every path from the root on: what a file in another folder must say."""

    def whole(path: str) -> str:
        return str((beside / path).absolute()) if path else ""

    sources = tuple(replace(source, path=whole(source.path)) for source in recipe.sources)
    evaluate = replace(recipe.evaluate, questions=whole(recipe.evaluate.questions))
    return replace(recipe, sources=sources, evaluate=evaluate)
