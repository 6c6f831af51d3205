"""Where schemas stand inside a JSON Schema, so that a property called "$ref" is no reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from allod.core.requests import Json

_ONE = {
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
}
_LISTS = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
_MAPS = {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
_IN_PLACE = {"allOf", "anyOf", "dependencies", "dependentSchemas", "else", "if", "not", "oneOf", "then"}


REFERENCES = ("$ref", "$dynamicRef")


def children(schema: Any) -> Iterator[tuple[str, str, Any]]:
    """Every schema directly inside: the keyword that holds it, its place below `schema` as a JSON pointer, itself."""
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        if keyword in _ONE and isinstance(value, dict):
            yield keyword, f"/{keyword}", value
        elif keyword in _LISTS and isinstance(value, list):
            for index, child in enumerate(value):
                yield keyword, f"/{keyword}/{index}", child
        elif keyword in _MAPS and isinstance(value, dict):
            for name, child in value.items():
                yield keyword, f"/{keyword}/{escape(name)}", child


def places(schema: Json) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and every one inside it that is an object, each with its place: "#", "#/properties/a", ..."""
    waiting: list[tuple[str, Any]] = [("#", schema)]
    while waiting:
        place, found = waiting.pop()
        if isinstance(found, dict):
            yield place, found
            waiting.extend((place + below, child) for _, below, child in children(found))


def in_place(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas inside that judge the same value as `schema` does, what `$ref` names left out."""
    return (
        (child for keyword, _, child in children(schema) if keyword in _IN_PLACE)
        if _IN_PLACE & schema.keys()
        else iter(())
    )


def rebuilt(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy in which `change` has been applied to the schema and to every one inside it, innermost first."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, dict):
            copy[keyword] = rebuilt(value, change)
        elif keyword in _LISTS and isinstance(value, list):
            copy[keyword] = [rebuilt(child, change) for child in value]
        elif keyword in _MAPS and isinstance(value, dict):
            copy[keyword] = {name: rebuilt(child, change) for name, child in value.items()}
    return change(copy)


def targets(schema: Json) -> dict[str, tuple[str, Any]]:
    """What each reference that stays inside `schema` may say, with the place and the schema that it means.

    Places ("#/$defs/a"), anchors ("#a"), an address of one's own, and the whole schema's before any of them.
    """
    found: dict[str, tuple[str, Any]] = {}
    for place, child in places(schema):
        found[place] = (place, child)
        found |= {place + below: (place + below, each) for _, below, each in children(child) if isinstance(each, bool)}
        if place != "#" and "$id" in child:
            found.setdefault(str(child["$id"]), (place, child))
        for keyword in ("$anchor", "$dynamicAnchor"):
            if keyword in child:
                found.setdefault(f"#{child[keyword]}", (place, child))
    own = str(schema.get("$id", "")).removesuffix("#")
    if own:
        found |= {own + name: target for name, target in found.items()}
        found[own] = found["#"]
    return found


def target_of(reference: Any, known: dict[str, tuple[str, Any]]) -> tuple[str, Any] | None:
    """The place and the schema that a reference means, by `targets`; None where it leads out of what those are of."""
    if not isinstance(reference, str):
        return None
    return known.get(reference) or known.get(unquote(reference))


def escape(name: str) -> str:
    """A name as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
