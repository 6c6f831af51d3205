"""A recipe from plain values (TOML's or JSON's), strictly, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from typing import Any, get_type_hints

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.train.recipe import Recipe, Source


def read_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """The recipe that `values` say; `where` names the file in errors. `[[source]]` tables are its sources.

    Raises Invalid for an unknown key, a missing one, a wrong type and a value outside its bounds.
    """
    given = dict(values)
    if "source" in given:
        given["sources"] = given.pop("source")
    values_of_recipe = _values_of(Recipe, given, where)
    with naming(where):
        return Recipe(**values_of_recipe)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Have what a recipe refuses begin with the name of the file that it comes from."""
    try:
        yield
    except Invalid as error:
        raise Invalid(f"{where}: {error.message}", code=error.code, param=error.param, hint=error.hint) from error


def recipe_json(recipe: Recipe) -> dict[str, JsonValue]:
    """The recipe as plain values that `read_recipe` takes."""
    values = asdict(recipe)
    values["source"] = values.pop("sources")
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


def _values_of(part: type, values: object, where: str) -> dict[str, Any]:
    """The values of a dataclass's fields, each of its type."""
    if not isinstance(values, Mapping):
        raise Invalid(f"{where} must be a table", code="recipe_type")
    known = {item.name: item for item in fields(part)}
    if unknown := sorted(values.keys() - known.keys()):
        raise Invalid(
            f"{where}: unknown key {unknown[0]!r}",
            code="recipe_unknown",
            param=str(unknown[0]),
            hint=f"known here: {', '.join(sorted(known))}",
        )
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise Invalid(
                f"{where}: {name} is missing",
                code="recipe_missing",
                param=name,
                hint="every source says its licence, jurisdiction, origin and date" if part is Source else None,
            )
    types = get_type_hints(part)
    return {name: _value(types[name], value, f"{where}: {name}") for name, value in values.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind in (str, int, bool):
        if type(value) is not kind:
            raise Invalid(f"{where} must be {kind.__name__}", code="recipe_type", param=where)
        return value
    if getattr(kind, "__origin__", None) is tuple:
        if not isinstance(value, (list, tuple)) or len(value) > 4096:
            raise Invalid(f"{where} must be a list", code="recipe_type", param=where)
        (inner, _) = kind.__args__
        return tuple(_value(inner, item, f"{where}[{number}]") for number, item in enumerate(value))
    return kind(**_values_of(kind, value, where))
