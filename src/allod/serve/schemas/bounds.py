"""What a client's schema may ask for, told by reading it: before anything compiles it, and in milliseconds.

Its size is read first, where the request is (`size`); what else it says is read by the judge's process.

What is counted is what gets expanded and evaluated, not what is written. The limits leave room for honest use (an enum
of 5,000 codes, 400 optional properties); what passes them can still be dear, so that `judge` has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from math import lcm
from typing import Any

from allod.core.requests import Json
from allod.core.shown_text import ends_of
from allod.engine.schemas.refusal import refusal
from allod.engine.schemas.subschemas import REFERENCES, in_place_subschemas, subschemas, target_of, targets
from allod.serve.schemas.repetition import expanded_size


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """For an answer's schema, and for all tools of a request together."""

    characters: int = 256 << 10  # of keys and strings
    values: int = 20_000  # of JSON: numbers, strings, keys, brackets
    depth: int = 100  # brackets within brackets
    pointers: int = 16 << 20  # characters of the pointers to all values: names are said again in each below
    schemas: int = 2_000  # within one
    patterns: int = 256  # `pattern` and keys of `patternProperties`
    pattern_properties: int = 64  # in one schema: each is compared with every other, and the cost is their cube
    repetition: int = 20_000  # characters that all patterns have once {m,n} is written out
    optional_properties: int = 400  # of one object: LLGuidance gives up at some 500
    evaluations: int = 20_000  # of schemas by one value, references followed
    reference_chain: int = 100
    items: int = 100_000  # of a list, at least or at most: they become symbols of a grammar
    count: int = 1_000_000_000  # of characters or properties
    multiple: int = 10_000  # least common multiple of the digits of all `multipleOf`
    number: int = 1 << 53  # what every reader of JSON agrees on


LIMITS = SchemaLimits()
_PAIRS = (
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("minContains", "maxContains"),
    ("minimum", "maximum"),
)
_COUNTED = {keyword for pair in _PAIRS[:-1] for keyword in pair}
_MAX_NAME = 100
_NUMBERS = {"exclusiveMaximum", "exclusiveMinimum", "multipleOf"}.union(*_PAIRS)


def check_bounds(schema: Json) -> None:
    """Raise Invalid (`invalid_schema`) with keyword and pointer where a schema asks for too much or contradicts itself.

    To be called once its size is known to be within bounds.
    """
    found = list(islice(subschemas(schema), LIMITS.schemas + 1))
    if len(found) > LIMITS.schemas:
        raise refusal(f"more than {LIMITS.schemas} schemas in one")
    for pointer, each in found:
        for reason in _faults(each):
            raise refusal(f"{reason} at {pointer}")
    _check_patterns(found)
    _check_multiples(found)
    _Evaluations(schema, found).check()


def _check_patterns(found: list[tuple[str, dict[str, Any]]]) -> None:
    num_patterns = num_characters = 0
    for pointer, schema in found:
        for keyword, pattern in _patterns(schema):
            num_patterns += 1
            num_characters += len(pattern) if len(pattern) > LIMITS.repetition else expanded_size(pattern)
            if num_characters > LIMITS.repetition:
                reason = f"{keyword}: repetitions that expand to more than {LIMITS.repetition} characters at {pointer}"
                raise refusal(reason)
    if num_patterns > LIMITS.patterns:
        raise refusal(f"pattern: more than {LIMITS.patterns} of them")


def _check_multiples(found: list[tuple[str, dict[str, Any]]]) -> None:
    """A grammar has a state for each remainder, and several of one value are multiplied."""
    common = 1
    for pointer, schema in found:
        step = schema.get("multipleOf")
        if isinstance(step, (int, float)) and step > 0:
            digits = "".join(map(str, Decimal(repr(step)).normalize().as_tuple().digits))
            common = lcm(common, int(digits))
            if common > LIMITS.multiple:
                reason = f"multipleOf: the steps have no common multiple below {LIMITS.multiple} at {pointer}"
                raise refusal(reason)


def _faults(schema: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one schema, its keyword first."""
    for keyword in sorted(_NUMBERS & schema.keys()):
        number = schema[keyword]
        if isinstance(number, (int, float)) and not abs(number) <= LIMITS.number:
            yield f"{keyword}: beyond ±2^53, where numbers are not the same for all who read JSON,"
    for keyword in sorted(_COUNTED & schema.keys()):
        limit = LIMITS.items if keyword.endswith("Items") else LIMITS.count
        if isinstance(schema[keyword], (int, float)) and schema[keyword] > limit:
            yield f"{keyword}: more than {limit}"
    for least, most in _PAIRS:
        if least in schema and most in schema:
            low, high = schema[least], schema[most]
            if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
                yield f"{least} ({low}) is greater than {most} ({high})"
    patterns, properties = schema.get("patternProperties"), schema.get("properties")
    if isinstance(patterns, dict) and len(patterns) > LIMITS.pattern_properties:
        yield f"patternProperties: more than {LIMITS.pattern_properties} of them"
    if isinstance(properties, dict) and len(properties) > LIMITS.optional_properties:
        required = schema.get("required")
        if len(properties.keys() - (required if isinstance(required, list) else ())) > LIMITS.optional_properties:
            yield f"properties: more than {LIMITS.optional_properties} that are not required"


def _patterns(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(schema.get("pattern"), str):
        yield "pattern", schema["pattern"]
    if isinstance(schema.get("patternProperties"), dict):
        yield from (("patternProperties", key) for key in schema["patternProperties"])


class _Evaluations:
    """How many schemas judge one value at each schema, references followed: an `allOf` of references can fan out."""

    def __init__(self, schema: Json, found: list[tuple[str, dict[str, Any]]]) -> None:
        self._found = found
        self._pointers = {id(each): pointer for pointer, each in found}
        self._targets = targets(schema)
        self._known: dict[int, int] = {}
        self._open: list[int] = []

    def check(self) -> None:
        total = 0
        for pointer, each in self._found:
            total += self._count(each)
            if total > LIMITS.evaluations:
                reason = f"$ref: a value would be held against more than {LIMITS.evaluations} schemas at {pointer}"
                raise refusal(reason)

    def _count(self, schema: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        if id(schema) in self._open:
            reason = "$ref: refers to itself without a property or an item in between"
            raise refusal(f"{reason} at {self._pointers[id(schema)]}")
        if len(self._open) >= LIMITS.reference_chain + LIMITS.depth:
            raise refusal(f"$ref: a chain of more than {LIMITS.reference_chain} at {self._pointers[id(schema)]}")
        if id(schema) not in self._known:
            self._open.append(id(schema))
            self._known[id(schema)] = min(1 + sum(map(self._count, self._within(schema))), LIMITS.evaluations + 1)
            self._open.pop()
        return self._known[id(schema)]

    def _within(self, schema: dict[str, Any]) -> Iterator[Any]:
        yield from in_place_subschemas(schema)
        for keyword in REFERENCES:
            reference = schema.get(keyword)
            target = target_of(reference, self._targets)
            if target is not None:
                yield target[1]
            elif isinstance(reference, str):
                shown = ends_of(reference, limit=_MAX_NAME)
                reason = f"{keyword}: {shown!r} is no schema within this one, and no other is fetched,"
                raise refusal(f"{reason} at {self._pointers[id(schema)]}")
