"""JSON Schemas that were written to hang, bloat or confuse a server, and honest ones that look like them.

`HOSTILE` must each be answered, or refused in our words, within the bounds that docs/api.md states. `HONEST` must be
accepted. Both are lists of (name, schema).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

Schema = dict[str, Any]
Named = tuple[str, Schema]


def text(**keywords: Any) -> Schema:
    return {"type": "string", **keywords}


def record(properties: Schema, *required: str, **keywords: Any) -> Schema:
    """An object with nothing else in it."""
    fields = {"type": "object", "properties": properties, "additionalProperties": False, **keywords}
    return {**fields, "required": list(required)} if required else fields


def fan(levels: int, width: int, combine: str) -> Schema:
    """Definitions that each refer to the next one several times: small to write, `width` ** `levels` to evaluate."""
    definitions: Schema = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        following = {"$ref": f"#/$defs/d{level + 1}"}
        definitions[f"d{level}"] = {combine: [following] * width}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def nested(levels: int, wrap: str) -> Schema:
    """A schema within schemas."""
    schema: Schema = {"type": "string"}
    for _ in range(levels):
        if wrap == "properties":
            schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        elif wrap == "items":
            schema = {"type": "array", "items": schema}
        else:
            schema = {wrap: [schema]}
    return schema


def chain(length: int) -> Schema:
    """References in a row."""
    definitions: Schema = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "string"}}}


def optional(number: int) -> Schema:
    return record({f"p{index}": text() for index in range(number)})


def patterned(number: int, pattern: str) -> Schema:
    return {"type": "object", "patternProperties": {pattern % index: text() for index in range(number)}}


def codes(number: int, form: str = "code-%d") -> Schema:
    return {"enum": [form % index for index in range(number)]}


_PATTERNS = {
    "four thousand optional letters": "^(a?){1000}(a?){1000}(a?){1000}(a?){1000}$",
    "nested repetition": "^(a{0,40}b{0,40}){0,40}$",
    "deeply nested repetition": "^(((a{0,99}){0,99}){0,99}){0,99}$",
    "repetition beyond 2^64": "^a{99999999999999999999}$",
    "repetition of a large class": r"^(\p{L}{1,100} ){1,100}$",
    "repetition of words": r"^(\w{1,100}|\d{1,100}){100}$",
    "plus in plus": "^(a+)+$",
    "alternatives that overlap": "^(a|a)*$",
    "alternatives that overlap, counted": "^(a|aa|aaa){0,500}$",
    "star of stars": "^((a*)*)*$",
    "dots": "^.*.*.*.*.*.*.*.*.*.*x$",
    "a far letter": "^(a|b)*a(a|b){20}$",
    "a farther letter": "^(a|b)*a(a|b){200}$",
    "unanchored far letter": "a.{300}b",
    "look ahead": "^(?=a)a$",
    "look behind": "(?<=a)b",
    "back reference": r"^(a+)\1$",
    "word boundary": r"\bLL\d{2}\b",
    "unclosed group": "(",
    "unclosed class": "[" * 3000,
    "unclosed braces": "a{1" * 3000,
    "a thousand groups": "(" * 1000 + "a" + ")" * 1000,
    "a long alternative": "|".join(f"word{index}" for index in range(5000)),
    "a long literal": "a" * 100_000,
    "empty": "",
    "nothing matches": "[^\\s\\S]",
    "end before the end": "^a$b",
    "unicode classes": r"^[\p{L}\p{N}\p{P}\p{S}\p{Z}\p{M}]{0,2000}$",
    "case folded": "(?i)" + "straße" * 200,
    "nul": "^\x00+$",
    "astral": "^[\U00010000-\U0010ffff]{1,500}$",
    "python's own": "(?P<a>a)(?P=a)",
    "possessive": "a++b",
    "a million": "^.{0,1000000}$",
    "open repetition nested": "^((a{500,}){500,}){500,}$",
}


def _patterns() -> Iterator[Named]:
    for name, pattern in _PATTERNS.items():
        yield f"pattern: {name}", text(pattern=pattern)


def _contradictions() -> Iterator[Named]:
    for what, kind in (("Length", "string"), ("Items", "array"), ("Properties", "object")):
        yield f"contradiction: min{what} over max{what}", {"type": kind, f"min{what}": 9, f"max{what}": 5}
    yield "contradiction: minimum over maximum", {"type": "integer", "minimum": 5, "maximum": 4}
    yield "contradiction: no integer between", {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5}
    yield "contradiction: no multiple between", {"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 7}
    yield "contradiction: required and never", record({"a": False}, "a")
    yield "contradiction: required and undeclared", record({}, "a")
    yield "contradiction: empty enum", {"enum": []}
    yield "contradiction: empty anyOf", {"anyOf": []}
    yield "contradiction: enum of another type", {"type": "string", "enum": [1, 2]}
    yield "contradiction: const and type", {"type": "string", "const": 1}
    yield "contradiction: two types at once", {"allOf": [{"type": "string"}, {"type": "integer"}]}
    yield "contradiction: never", {"not": {}}
    yield "contradiction: in a property", record({"a": text(minLength=2, maxLength=1)}, "a")
    yield "contradiction: in an optional property", record({"a": text(minLength=2, maxLength=1)})
    yield "contradiction: in items that must be", {"type": "array", "minItems": 1, "items": False}
    yield "contradiction: endless recursion", record({"a": {"$ref": "#"}}, "a")
    yield "contradiction: pattern and length", text(pattern="^a{10}$", maxLength=5)


def _numbers() -> Iterator[Named]:
    top = 9223372036854775807
    yield "number: the last two of 64 bits", {"type": "integer", "minimum": top - 1, "maximum": top}
    values = {"2^53 + 1": 2**53 + 1, "-2^63": -(2**63), "2^64": 2**64, "1e300": 1e300, "10^400": 10**400}
    for (name, value), keyword in product(values.items(), ("minimum", "exclusiveMaximum", "multipleOf")):
        yield f"number: {keyword} {name}", {"type": "integer", keyword: value}
    for keyword in ("minLength", "maxLength", "minItems", "maxItems", "minProperties"):
        yield f"number: {keyword} 2^60", {keyword: 2**60}
    yield "number: a tiny step", {"type": "number", "multipleOf": 1e-300}
    yield "number: no step", {"type": "integer", "multipleOf": 0}
    yield "number: a step back", {"type": "integer", "multipleOf": -2}
    yield (
        "number: steps without a common one",
        {
            "type": "integer",
            "allOf": [{"multipleOf": 9007199}, {"multipleOf": 9007198}],
        },
    )
    yield "number: many digits", {"type": "number", "minimum": 0.12345678901234567, "maximum": 0.12345678901234568}
    yield (
        "number: a wide range of floats",
        {"type": "number", "minimum": -9007199254740991, "maximum": 9007199254740991},
    )
    yield "number: half a count", text(minLength=2.5)
    yield "number: a negative count", text(maxLength=-1)
    yield "number: a long string", text(minLength=10_000_000)
    yield "number: a long list", {"type": "array", "items": text(), "minItems": 4_000_000_000}
    yield "number: a bounded long list", {"type": "array", "items": text(), "minItems": 5000, "maxItems": 10000}
    nested_lists: Schema = {"type": "array", "minItems": 99, "maxItems": 99, "items": text()}
    for _ in range(5):
        nested_lists = {"type": "array", "minItems": 99, "maxItems": 99, "items": nested_lists}
    yield "number: lists of lists of lists", nested_lists


def _expansions() -> Iterator[Named]:
    for combine in ("allOf", "anyOf", "oneOf"):
        yield f"fan: {combine} of three references, 18 levels", fan(18, 3, combine)
        yield f"fan: {combine} of two references, 60 levels", fan(60, 2, combine)
        yield f"fan: {combine} of nine references, 3 levels", fan(3, 9, combine)
    yield "fan: not", {"$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}
    yield "recursion: itself", {"$ref": "#"}
    yield "recursion: itself in allOf", {"allOf": [{"$ref": "#"}, {"type": "object"}]}
    yield (
        "recursion: two of one another",
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
    )
    yield "recursion: items tried twice", {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}
    yield "recursion: items tried nine times", {"type": ["array", "null"], "items": {"allOf": [{"$ref": "#"}] * 9}}
    yield "recursion: dynamic", {"$dynamicAnchor": "n", "type": "array", "items": {"$dynamicRef": "#n"}}
    for length in (90, 300, 3000):
        yield f"recursion: a chain of {length}", chain(length)
    for wrap, levels in product(("properties", "items", "allOf", "anyOf"), (50, 120, 900)):
        yield f"depth: {levels} {wrap}", nested(levels, wrap)
    yield "size: 1000 optional properties", optional(1000)
    yield "size: 1000 optional properties further in", record({"a": optional(1000)}, "a")
    yield "size: five times 390 optional properties", {"anyOf": [optional(390) for _ in range(5)]}
    yield "size: 10,000 properties", record({f"p{index}": {} for index in range(10_000)})
    yield "size: 2,600 patterns of properties", patterned(2600, "^k%d_[a-z]{1,8}$")
    yield "size: 2,600 broken patterns of properties", patterned(2600, "^k%d_[a-z]{1,8")
    yield "size: 60 patterns of properties", patterned(60, "^k%d_[a-z]{1,8}$")
    yield "size: 60 overlapping patterns of properties", patterned(60, "k%d")
    yield "size: 255 patterns", {"anyOf": [text(pattern=f"^x{index}[a-z]{{1,30}}$") for index in range(255)]}
    yield "size: 255 dear patterns", {"anyOf": [text(pattern=rf"^{index}\p{{L}}{{1,200}}$") for index in range(255)]}
    yield "size: 30,000 codes", codes(30_000)
    yield "size: 2,000 codes of 120 characters", codes(2_000, "%0120d")
    yield "size: one long code", {"enum": ["x" * 1_000_000]}
    yield "size: 19,000 numbers", {"enum": list(range(19_000))}
    yield "size: 500 arms", {"anyOf": [record({f"p{index}": text()}, f"p{index}") for index in range(500)]}
    yield (
        "size: 500 arms that begin alike",
        {"anyOf": [record({"kind": text(), f"p{index}": text()}, "kind") for index in range(500)]},
    )
    arms = [record({f"a{left}": text(), f"b{left}": text()}) for left in range(8)]
    yield "size: products of arms", {"allOf": [{"anyOf": arms} for _ in range(8)]}
    yield "size: a long list of places", {"type": "array", "prefixItems": [text()] * 3000, "items": False}


def _unenforced() -> Iterator[Named]:
    yield "keyword: if and then", {"if": {"type": "string"}, "then": {"minLength": 2}}
    yield "keyword: not", {"not": {"type": "string"}}
    yield "keyword: uniqueItems", {"type": "array", "items": text(), "uniqueItems": True}
    yield "keyword: contains", {"type": "array", "contains": text()}
    yield "keyword: propertyNames", {"type": "object", "propertyNames": {"pattern": "^a"}}
    yield "keyword: dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}
    yield "keyword: dependentSchemas", {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}
    yield "keyword: unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}
    yield "keyword: minProperties", {"type": "object", "minProperties": 3}
    yield "keyword: options of the grammar", {"x-guidance": {"lenient": True}, "not": {"type": "string"}}
    yield "keyword: white space of the grammar", {"x-guidance": {"whitespace_pattern": "(a?){9999}"}, "type": "object"}
    yield "keyword: required, undeclared", {"type": "object", "required": ["z"]}
    yield (
        "keyword: allOf of two",
        {"allOf": [record({"a": text()}, "a"), {"type": "object", "properties": {"b": text()}, "required": ["b"]}]},
    )
    yield "keyword: oneOf that overlaps", {"oneOf": [text(), text(minLength=3)]}
    yield "keyword: no type of JSON", {"type": "objekt"}
    yield "keyword: a number as text", {"type": "integer", "minimum": "1"}
    yield "keyword: items as a list", {"type": "array", "items": [text()]}
    yield "reference: nowhere", {"$ref": "#/nowhere"}
    yield "reference: the network", {"$ref": "https://example.org/schema.json"}
    yield "reference: a file", {"$ref": "file:///etc/hostname"}
    yield "reference: the meta-schema", {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    yield "reference: into an example", {"examples": [text()], "$ref": "#/examples/0"}
    yield "reference: no pointer", {"$ref": "#/$defs/~2"}
    yield "reference: a number", {"$ref": 7}
    yield "dialect: unknown", {"$schema": "https://example.org/my-own", "type": "string"}
    yield "dialect: draft 4", {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True}


HOSTILE: list[Named] = [
    *_patterns(),
    *_contradictions(),
    *_numbers(),
    *_expansions(),
    *_unenforced(),
]

_ADDRESS = record(
    {"street": text(), "town": text(), "postcode": text(pattern=r"^[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}$")}, "town"
)
_PERSON: Schema = {
    "$defs": {"Address": _ADDRESS},
    **record(
        {"name": text(), "home": {"$ref": "#/$defs/Address"}, "work": {"$ref": "#/$defs/Address"}}, "name", "home"
    ),
}
_TREE = record(
    {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}}, "value", "children"
)

HONEST: list[Named] = [
    ("anything that is an object", {}),
    ("an object", {"type": "object"}),
    ("a person", record({"name": text(), "age": {"type": "integer", "minimum": 0, "maximum": 130}}, "name", "age")),
    ("a person with addresses", _PERSON),
    ("a tree", _TREE),
    ("a linked list", record({"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "next")),
    ("recursion that may stop", record({"a": {"$ref": "#"}})),
    ("definitions of an older draft", {"definitions": {"A": text()}, "$ref": "#/definitions/A"}),
    ("a reference to a property", record({"a": text(), "b": {"$ref": "#/properties/a"}}, "a", "b")),
    ("an anchor", {"$defs": {"a": {"$anchor": "name", **text()}}, "$ref": "#name"}),
    ("an identity", {"$id": "https://example.org/a", "$defs": {"a": text()}, "$ref": "#/$defs/a"}),
    ("a definition of anything", {"$defs": {"a": True}, **record({"a": {"$ref": "#/$defs/a"}}, "a")}),
    ("a name that addresses escape", {"$defs": {"a b": text()}, "$ref": "#/$defs/a%20b"}),
    ("an address of a part", {"$defs": {"a": {"$id": "urn:a", **text()}}, "$ref": "urn:a"}),
    ("a reference with a limit", {"$defs": {"a": text(minLength=2)}, "$ref": "#/$defs/a", "maxLength": 30}),
    ("no items", {"type": "array", "items": False}),
    ("a property that never is", {"type": "object", "properties": {"a": False}, "additionalProperties": False}),
    ("any property", {"type": "object", "properties": {"a": True}, "required": ["a"]}),
    ("a count as a float", {"type": "array", "items": text(), "minItems": 2.0, "maxItems": 3.0}),
    ("a list that may repeat", {"type": "array", "items": text(), "uniqueItems": False}),
    ("a pair", {"type": "array", "prefixItems": [text(), {"type": "integer"}], "items": False, "minItems": 2}),
    ("a list of numbers", {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}),
    ("three choices", codes(3)),
    ("a thousand codes", codes(1000)),
    ("five thousand codes", codes(5000)),
    ("five thousand postcodes", codes(5000, "LL%04d 9DA")),
    ("mixed choices", {"enum": [1, 1.5, "a", None, True, [1], {"a": 1}]}),
    ("a constant", {"const": {"kind": "a"}}),
    ("text or nothing", {"type": ["string", "null"]}),
    ("a nullable field", record({"a": {"anyOf": [text(), {"type": "null"}]}}, "a")),
    (
        "kinds told apart",
        {
            "anyOf": [
                record({"kind": {"const": "a"}, "x": text()}, "kind", "x"),
                record({"kind": {"const": "b"}}, "kind"),
            ]
        },
    ),
    (
        "a union as pydantic writes it",
        {
            "discriminator": {"propertyName": "kind", "mapping": {"a": "#/$defs/A", "b": "#/$defs/B"}},
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
            "$defs": {
                "A": record({"kind": {"const": "a", "default": "a", "title": "Kind", "type": "string"}}, "kind"),
                "B": record({"kind": {"const": "b", "default": "b", "title": "Kind", "type": "string"}}, "kind"),
            },
        },
    ),
    ("one of, which may overlap", {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 0.5}]}),
    ("all of one", {"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": text()}, "description": "as older pydantic does"}),
    (
        "all of two",
        {"allOf": [{"type": "object", "properties": {"a": text()}, "required": ["a"]}, {"required": ["b"]}]},
    ),
    ("a map", {"type": "object", "additionalProperties": {"type": "number"}}),
    ("a map with named keys", patterned(3, "^k%d_[a-z]{1,8}$")),
    ("a date", record({"when": text(format="date-time"), "day": text(format="date")}, "when", "day")),
    ("formats that only describe", record({"a": text(format="password"), "b": text(format="json-string")}, "a", "b")),
    ("an e-mail address", text(format="email")),
    ("a postcode", text(pattern=r"^LL\d{2} \d[A-Z]{2}$")),
    ("a pattern anywhere in the text", text(pattern="LL")),
    ("a name of up to 50 letters", text(pattern=r"^\p{L}{1,50}$")),
    ("a long text", text(minLength=1, maxLength=5000)),
    ("a share", {"type": "number", "minimum": 0, "maximum": 1}),
    ("even numbers", {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 100}),
    ("prices", {"type": "number", "multipleOf": 0.01, "minimum": 0}),
    ("as large as is exact", {"type": "integer", "minimum": -(2**53), "maximum": 2**53}),
    (
        "words beside it",
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "T",
            "description": "D",
            "$comment": "C",
            "examples": [{"$ref": "#/nowhere", "if": 1}],
            "default": {},
            "deprecated": False,
            "readOnly": True,
            **record({"a": text()}, "a"),
        },
    ),
    ("properties called like keywords", record({"$ref": text(), "if": text(), "pattern": text(), "not": text()}, "if")),
    ("three hundred optional fields", optional(300)),
    ("a required name without a schema", {"type": "object", "properties": {"a": text()}, "required": ["a", "b"]}),
    (
        "fifty shared definitions",
        {
            "$defs": {"A": _ADDRESS},
            **record({f"a{index}": {"$ref": "#/$defs/A"} for index in range(50)}, "a0"),
        },
    ),
    ("ten levels", nested(10, "properties")),
]
