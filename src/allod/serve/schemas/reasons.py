"""Why a library cannot use a schema, in our words: what is wrong, keyword first, and not how it was found."""

from __future__ import annotations

import json
import re
from typing import Any

from allod.core.shown_text import ends_of
from allod.engine.schemas.subschemas import escape

_MAX_VALUE = 100  # characters that are shown of a client's own
_GRAMMAR = [  # what LLGuidance says, the first that is found in it
    (r"Unimplemented keys: \[(.*)\]", "{} cannot be enforced while an answer is made"),
    (r"(\w+ \(\S+\) is (?:greater than|equal to) \w+ \(\S+\))", "{}"),
    (r"(minProperties \(\S+\)) is greater than number of properties", "{} is greater than the number of properties"),
    (r"minProperties > maxProperties", "minProperties is greater than maxProperties"),
    (r"required > maxProperties", "required names more properties than maxProperties"),
    (
        r"min/maxProperties only supported",
        "minProperties and maxProperties cannot be enforced where a property is optional",
    ),
    (r"required property '(.*)' is unsatisfiable", "required: property '{}' is unsatisfiable"),
    (r"required item is unsatisfiable|prefixItems\[", "minItems: an item that there must be is unsatisfiable"),
    (r"No options in anyOf|anyOf is empty|All options in anyOf", "enum, anyOf, oneOf: nothing is left to choose"),
    (r"incompatible types|schema is false", "type: no value is all that is asked for at once"),
    (r"Constant .* doesn't match", "const, enum: the value is not within the lengths beside it"),
    (r"does not contain a multiple", "multipleOf: no multiple of it lies between the bounds"),
    (r"multipleOf.* too many digits", "multipleOf: too many digits"),
    (r"integer range|number range|float range", "minimum, maximum: no number lies between them"),
    (r"circular references", "$ref: other keywords beside one that recurs cannot be enforced"),
    (r"are not disjoint", "patternProperties: two of them fit the same name, which cannot be enforced"),
    (r"look-?around", "pattern: look-around, word boundaries, and ^ or $ in the middle cannot be enforced"),
    (r"backreference", "pattern: back references cannot be enforced"),
    (r"Regex is empty|regex is empty", "pattern, format, const, enum: no text satisfies all at once"),
    (r"(?i)regex", "pattern: no grammar can be made of it"),
    (r"(?i)too (?:big|large|many)|limit|; max is", "it is too large for the engine's grammars"),
]
_OTHERS = "no grammar can be made of it"


def of_grammar(fault: str) -> str:
    """What is to be told of LLGuidance's `fault`."""
    for pattern, reason in _GRAMMAR:
        if found := re.search(pattern, fault, re.DOTALL):
            return reason.format(*(group.replace('"', "") for group in found.groups()))
    return _OTHERS


def of_value(value: Any, path: list[Any], *, is_pattern: bool) -> str:
    """What is to be told of a `value` that may not stand at `path` in a schema, with the pointer to it."""
    if not path:
        return "it is no JSON Schema: $id, $schema or $ref at # or below is no address"
    pointer = "#" + "".join(f"/{escape(str(step))}" for step in path)
    shown = ends_of(json.dumps(value, ensure_ascii=False), limit=_MAX_VALUE)
    if is_pattern:
        return f"pattern: {shown} at {pointer} is no regular expression, or one that is too large"
    return f"it is no JSON Schema: {shown} cannot stand at {pointer}"
