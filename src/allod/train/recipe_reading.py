"""A recipe from plain values (TOML's or JSON's), strictly, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.core.nations.places import fault_of_place
from allod.core.shown_text import is_plain
from allod.train.recipe import Recipe, Source

_Part = TypeVar("_Part")

MAX_SOURCES = 64
_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_SOURCE_NAME = r"[a-z][a-z0-9_-]{0,62}"
_SIZE = r"auto|[1-9][0-9]{0,3}m|[1-9][0-9]{0,1}b"
_DATE = r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?"

# Whole numbers by dotted name: (lowest, highest).
_BOUNDS = MappingProxyType(
    {
        "minutes": (0, 7 * 24 * 60),
        "steps": (0, 10**9),
        "seed": (0, 2**32 - 1),
        "clean.min_bytes": (1, 1 << 20),
        "dedupe.similarity_percent": (50, 100),
        "dedupe.permutations": (16, 1024),
        "tokenizer.vocab": (300, 262_144),
        "canaries.count": (0, 1000),
        "pretrain.context": (16, 131_072),
        "pretrain.goldfish_k": (0, 1000),
        "pretrain.checkpoint_every_s": (1, 86_400),
        "tune.steps": (0, 10**6),
        "evaluate.num_cloze": (1, 100_000),
        "evaluate.max_bits_per_byte_milli": (0, 8000),
        "evaluate.min_cloze_percent": (0, 100),
        "evaluate.min_choice_percent": (0, 100),
        "evaluate.max_recall_percent": (0, 100),
        "adapt.rank": (1, 256),
        "adapt.steps": (1, 10**6),
        "adapt.context": (16, 8192),
        "adapt.batch": (1, 1024),
        "adapt.rate_micro": (1, 10**6),
        "adapt.min_gain_percent": (0, 99),
    }
)


def read_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """The recipe that `values` say; `where` names the file in errors. `[[source]]` tables are its sources.

    Raises Invalid for an unknown key, a missing one, a wrong type and a value outside its bounds.
    """
    given = dict(values)
    if "source" in given:
        given["sources"] = given.pop("source")
    recipe = _read(Recipe, given, where)
    _check(recipe, where)
    return recipe


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


def _read(part: type[_Part], values: object, where: str) -> _Part:
    if not isinstance(values, Mapping):
        raise Invalid(f"{where} must be a table", code="recipe_type")
    known = {item.name: item for item in fields(part)}  # type: ignore[arg-type]
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
    return part(**{name: _value(types[name], value, f"{where}: {name}") for name, value in values.items()})


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
    return _read(kind, value, where)


def _check(recipe: Recipe, where: str) -> None:
    for name, (low, high) in _BOUNDS.items():
        value: Any = recipe
        for part in name.split("."):
            value = getattr(value, part)
        if not low <= value <= high:
            raise Invalid(
                f"{where}: {name} is {value}; it must lie in {low} to {high}", code="recipe_range", param=name
            )
    _check_text(where, "name", recipe.name, _NAME, "small letters, digits, - _ and .")
    _check_text(where, "size", recipe.size, _SIZE, "auto, or millions or billions of parameters (1m, 124m, 1b)")
    if not recipe.minutes and not (recipe.steps and recipe.size != "auto") and not recipe.adapt.base:
        raise Invalid(f"{where}: say minutes, or both size and steps", code="recipe_range", param="minutes")
    if not 1 <= len(recipe.sources) <= MAX_SOURCES:
        raise Invalid(f"{where}: a recipe has 1 to {MAX_SOURCES} sources", code="recipe_range", param="source")
    mixture = recipe.pretrain.mixture
    if recipe.canaries.count and mixture and "canaries" not in mixture:
        raise Invalid(
            f"{where}: canaries are planted, and the mixture leaves them out",
            code="recipe_range",
            param="pretrain.mixture",
            hint="name `canaries` in it: what is never learnt cannot be recalled, which would prove nothing",
        )
    names = [source.name for source in recipe.sources]
    if len(set(names)) != len(names):
        raise Invalid(f"{where}: two sources have the same name", code="recipe_range", param="source")
    for source in recipe.sources:
        _check_source(source, where)


def _check_source(source: Source, where: str) -> None:
    where = f"{where}: source {source.name!r}"
    _check_text(where, "name", source.name, _SOURCE_NAME, "small letters, digits, - and _")
    if fault := fault_of_place(source.jurisdiction):
        raise Invalid(f"{where}: jurisdiction: {fault}", code="recipe_range", param="jurisdiction")
    _check_text(where, "date", source.date, _DATE, "a year, or a date as YYYY-MM-DD")
    _check_text(where, "sha256", source.sha256, r"([0-9a-f]{64})?", "64 hexadecimal digits")
    for name in ("licence", "origin"):
        _check_text(where, name, getattr(source, name), r".{1,256}", "said, in up to 256 characters")
        if not is_plain(getattr(source, name)):
            raise Invalid(f"{where}: {name} has control characters", code="recipe_range", param=name)
    if source.name == "canaries" or bool(source.package) == bool(source.path):
        raise Invalid(f"{where}: say either package or path, under a name that is not `canaries`", code="recipe_range")
    if source.package and not source.sha256:
        raise Invalid(f"{where}: a package is fetched only if its content's sha256 is said", code="recipe_missing")


def _check_text(where: str, name: str, value: str, pattern: str, what: str) -> None:
    if re.fullmatch(pattern, value) is None:
        raise Invalid(f"{where}: {name} must be {what}", code="recipe_range", param=name)
