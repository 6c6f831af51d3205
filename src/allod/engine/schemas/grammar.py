"""A JSON Schema as the grammar that engines hold a model to: LLGuidance's, which llama.cpp and vLLM both carry.

Its own reading of a schema is stricter than JSON Schema's in places that change nothing; those are evened out here.
"""

from __future__ import annotations

import json
from typing import Any

from allod.core.requests import Json
from allod.engine.schemas.refusal import refusal
from allod.engine.schemas.subschemas import map_subschemas, subschemas, target_of, targets

# Where only one text may follow, the engine would take it from its tokenizer at once, which reads a control token's
# name as the token: the answer would end there, or lack it. The model writes such texts token by token instead.
_HEAD = '%llguidance {"no_forcing": true}\nstart: %json '
_ANY_OBJECT: Json = {"type": "object"}
_COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
_FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
_NOT_ENFORCED = {
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
}
_OPTIONS = {
    "coerce_one_of": True,  # any of them; the finished answer is held to "exactly one"
    "item_separator": ", ",  # as models write JSON, and no white space without end
    "key_separator": ": ",
    "whitespace_flexible": False,
}


def grammar_of(schema: Json) -> str:
    """The grammar of the texts that are JSON and keep `schema`; an empty schema means any JSON object."""
    evened = map_subschemas(schema or _ANY_OBJECT, _even_out)
    return _HEAD + json.dumps({**evened, "x-guidance": _OPTIONS})


def check_enforced(schema: Json) -> None:
    """Raise Invalid, naming keyword and pointer, for what no grammar holds a model to."""
    for pointer, found in subschemas(schema):
        for keyword in sorted(_NOT_ENFORCED & found.keys()):
            if found[keyword] is not False or keyword != "uniqueItems":
                raise refusal(f"{keyword} at {pointer} cannot be enforced while an answer is made")


def call_schema(name: str, parameters: Json, *, at: str) -> dict[str, Any]:
    """The schema of a call of the tool `name`, to stand at `at` in another schema: references are led there."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": _move(parameters, f"{at}/properties/arguments")},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _move(schema: Json, at: str) -> Any:
    """`schema` as it must read at the pointer `at` in another one, which has its own meaning of "#"."""
    known = targets(schema)

    def led(found: dict[str, Any]) -> dict[str, Any]:
        changed = {keyword: value for keyword, value in found.items() if keyword not in ("$id", "$anchor", "$schema")}
        if target := target_of(found.get("$ref"), known):
            changed["$ref"] = at + target[0].removeprefix("#")
        return changed

    return map_subschemas(schema, led)


def _even_out(schema: dict[str, Any]) -> dict[str, Any]:
    """2.0 is a count as good as 2; a format that is not known is a remark, and so is the dialect."""
    changed = dict(schema)
    for keyword in _COUNTS:
        count = schema.get(keyword)
        if isinstance(count, float) and count.is_integer():
            changed[keyword] = int(count)
    if schema.get("format") not in _FORMATS:
        changed.pop("format", None)
    if schema.get("uniqueItems") is False:
        del changed["uniqueItems"]
    changed.pop("$schema", None)
    return changed
