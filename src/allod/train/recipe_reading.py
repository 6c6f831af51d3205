"""A recipe from plain values (TOML's or JSON's), strictly, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.core.stages import ROWS
from allod.core.tables import Complaint, Table
from allod.train.recipe import Recipe

MAX_LIST = 4096


def read_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """The recipe that `values` say; `where` names the file in errors. `[[source]]` tables are its sources.

    Raises Invalid for an unknown key, a missing one, a wrong type and a value outside its bounds.
    """
    given = dict(values)
    if "sources" in given:
        hint = "each source is a table [[source]]"
        raise _error_of(Complaint("unknown", where, "", "sources", "unknown key 'sources'", hint))
    if "source" in given:
        given["sources"] = given.pop("source")
    by_stage = {name: row.options for name, row in ROWS.items() if row.options and name in given}
    own = Table({name: given.pop(name) for name in by_stage}, where, _error_of, MAX_LIST)
    names = [item.name for item in fields(Recipe) if item.name != "tables"]
    values_of_recipe = Table(given, where, _error_of, MAX_LIST).read_fields(Recipe, names)
    values_by_stage = {name: own.table(name).read_fields(options) for name, options in by_stage.items()}
    with name_file(where):
        tables = {name: options(**values_by_stage[name]) for name, options in by_stage.items()}
        return Recipe(**values_of_recipe, tables=tables)


@contextmanager
def name_file(where: str) -> Iterator[None]:
    """Have what a recipe refuses begin with the name of the file that it comes from."""
    try:
        yield
    except Invalid as error:
        raise error.restate(f"{where}: {error.message}") from error


def recipe_json(recipe: Recipe) -> dict[str, JsonValue]:
    """The recipe as plain values that `read_recipe` takes."""
    values = asdict(recipe)
    values["source"] = values.pop("sources")
    values |= values.pop("tables")
    shown: dict[str, JsonValue] = plain(values)
    return shown


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as a file that `allod train` reads. JSON's texts, numbers and lists are TOML's, too."""
    values = recipe_json(recipe)
    sources = values.pop("source")
    assert isinstance(sources, list)
    tables = {f"[{name}]": value for name, value in values.items() if isinstance(value, dict)}
    top = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = _toml_lines(top)
    for source in sources:
        assert isinstance(source, dict)
        lines += ["", "[[source]]", *_toml_lines(source)]
    for head, table in tables.items():
        lines += ["", head, *_toml_lines(table)]
    return "\n".join(lines) + "\n"


def _toml_lines(table: Mapping[str, JsonValue]) -> list[str]:
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()]


def plain(value: Any) -> Any:
    """Tuples as lists, so that values are the same before and after they were JSON."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _error_of(complaint: Complaint) -> Invalid:
    if complaint.fault == "wrong":
        return Invalid(complaint.message, code="recipe_type", param=f"{complaint.where}: {complaint.key_path}")
    if complaint.fault == "missing":
        is_source = complaint.table.startswith("sources")
        hint = "every source says its licence, jurisdiction, origin and date" if is_source else None
        return Invalid(complaint.message, code="recipe_missing", param=complaint.key, hint=hint)
    return Invalid(complaint.message, code="recipe_unknown", param=complaint.key, hint=complaint.hint)
