"""The schemas inside a JSON Schema, by JSON pointers (RFC 6901), so that a property called "$ref" is no reference."""

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
    """Every schema directly inside: the keyword that holds it, the JSON pointer from `schema` to it, itself."""
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        if keyword in _ONE and isinstance(value, dict):
            yield keyword, f"/{keyword}", value
        elif keyword in _LISTS and isinstance(value, list):
            for index, child in enumerate(value):
                yield keyword, f"/{keyword}/{index}", child
        elif keyword in _MAPS and isinstance(value, dict):
            for name, child in value.items():
                yield keyword, f"/{keyword}/{escape(name)}", child


def subschemas(schema: Json) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and every one inside it that is an object, each with the pointer to it: "#", "#/properties/a", ..."""
    waiting: list[tuple[str, Any]] = [("#", schema)]
    while waiting:
        pointer, found = waiting.pop()
        if isinstance(found, dict):
            yield pointer, found
            waiting.extend((pointer + below, child) for _, below, child in children(found))


def in_place_subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas inside that judge the same value as `schema` does, what `$ref` names left out."""
    return (
        (child for keyword, _, child in children(schema) if keyword in _IN_PLACE)
        if _IN_PLACE & schema.keys()
        else iter(())
    )


def map_subschemas(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy in which `change` has been applied to the schema and to every one inside it, innermost first."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, dict):
            copy[keyword] = map_subschemas(value, change)
        elif keyword in _LISTS and isinstance(value, list):
            copy[keyword] = [map_subschemas(child, change) for child in value]
        elif keyword in _MAPS and isinstance(value, dict):
            copy[keyword] = {name: map_subschemas(child, change) for name, child in value.items()}
    return change(copy)


def targets(schema: Json) -> dict[str, tuple[str, Any]]:
    """What each reference that stays inside `schema` may say, with the pointer and the schema that it means.

    Pointers ("#/$defs/a"), anchors ("#a"), an address of one's own, and the whole schema's before any of them.
    """
    found: dict[str, tuple[str, Any]] = {}
    for pointer, child in subschemas(schema):
        found[pointer] = (pointer, child)
        within = ((pointer + below, each) for _, below, each in children(child))
        found |= {inner: (inner, each) for inner, each in within if isinstance(each, bool)}
        if pointer != "#" and "$id" in child:
            found.setdefault(str(child["$id"]), (pointer, child))
        for keyword in ("$anchor", "$dynamicAnchor"):
            if keyword in child:
                found.setdefault(f"#{child[keyword]}", (pointer, child))
    own = str(schema.get("$id", "")).removesuffix("#")
    if own:
        found |= {own + name: target for name, target in found.items()}
        found[own] = found["#"]
    return found


def target_of(reference: Any, known: dict[str, tuple[str, Any]]) -> tuple[str, Any] | None:
    """The pointer and the schema that a reference means, by `targets`; None where it leads out of what those are of."""
    if not isinstance(reference, str):
        return None
    return known.get(reference) or known.get(unquote(reference))


def escape(name: str) -> str:
    """A name as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
