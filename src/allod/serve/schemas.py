"""JSON Schemas that clients send: compiled without fetching anything, and held to.

An engine's grammar covers most of a schema and says nothing of the rest (llama.cpp accepts any string for a pattern
that it does not know), so the finished answer is checked as well.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Json

Validator = jsonschema_rs.Draft202012Validator


MAX_SCHEMA_CHARS = 64 << 10  # of JSON, for an answer's schema and for all tools of a request together
MAX_PATTERNS = 64  # a pattern can cost more to compile than thousands of properties


def check_size(*schemas: Json, param: str) -> None:
    """Raise Invalid for schemas that together take too long to compile: the event loop does nothing else meanwhile."""
    try:
        texts = [json.dumps(schema) for schema in schemas]
    except RecursionError as error:
        raise Invalid("the schema is nested too deeply", code="invalid_schema", param=param) from error
    if sum(map(len, texts)) > MAX_SCHEMA_CHARS:
        raise Invalid(f"the schemas are longer than {MAX_SCHEMA_CHARS} characters", code="invalid_schema", param=param)
    if sum(text.count('"pattern') for text in texts) > MAX_PATTERNS:
        raise Invalid(f"the schemas have more than {MAX_PATTERNS} patterns", code="invalid_schema", param=param)


def compiled(schema: Json, *, param: str) -> Validator:
    """The validator of a schema. Raises Invalid, naming `param`, for what is no JSON Schema or refers elsewhere."""
    try:
        return Validator(dict(schema), retriever=_no_retrieval)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise Invalid(f"no usable JSON Schema: {error}", code="invalid_schema", param=param) from error


def check_kept(validator: Validator, text: str) -> None:
    """Raise Unavailable (`schema_not_kept`) unless `text` is JSON that satisfies the schema."""
    value = json_value(text)
    if value is NOT_JSON or not validator.is_valid(value):
        raise Unavailable("the model's answer does not satisfy the schema", code="schema_not_kept", hint="ask again")


NOT_JSON = object()


def json_value(text: str) -> Any:
    """The value that `text` is JSON for; NOT_JSON where it is none."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # NaN and lone surrogates are Python's own
    except (ValueError, RecursionError):
        return NOT_JSON
    return value


def _no_retrieval(uri: str) -> Any:
    """A client's schema must not make the gateway fetch anything."""
    raise ValueError(f"references to other documents are not followed: {uri}")
