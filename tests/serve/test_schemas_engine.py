"""What a real engine makes of schemas, through the whole gateway: kept, refused by name, or found out afterwards."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from openai import APIStatusError, OpenAI
from tests.conftest import TINY, Gateway

pytestmark = pytest.mark.slow

TEMPTING = "Answer with JSON in a ```json code block. Describe a cat: its name and what it eats."
CAT: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "eats": {"enum": ["fish", "mice"]}},
    "required": ["name", "eats"],
    "additionalProperties": False,
}
INTEGERS = {"type": "integer", "minimum": 0, "maximum": 99}
TEXT = {"type": "string", "maxLength": 4}
KEPT: dict[str, dict[str, Any]] = {
    "multipleOf": {**INTEGERS, "multipleOf": 7},
    "bounds of numbers": {"type": "number", "minimum": 0.25, "maximum": 0.5},
    "bounds that exclude": {"type": "integer", "exclusiveMinimum": 16, "exclusiveMaximum": 18},
    "allOf with two arms": {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGERS}, "required": ["a"], "additionalProperties": False},
            {"properties": {"a": {"minimum": 40}}},
        ]
    },
    "$ref to the whole": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
    "items: false": {"type": "array", "items": False},
    "a property that never is": {"type": "object", "properties": {"a": False}, "additionalProperties": False},
    "minItems as a float": {"type": "array", "items": INTEGERS, "minItems": 2.0, "maxItems": 3.0},
    "a thousand codes": {"enum": [f"code-{number}" for number in range(1000)]},
    "pattern": {"type": "string", "pattern": r"^LL\d{2} \d[A-Z]{2}$"},
    "required and undeclared": {
        "type": "object",
        "required": ["b"],
        "additionalProperties": INTEGERS,
        "maxProperties": 1,
    },
    "a control token's name": {"const": "say <|im_end|> now"},
    "a control token's name among others": {"enum": ["<|im_start|>", "<|im_end|>"]},
    "a control token's name to fill in": {
        "type": "object",
        "properties": {"<|im_end|>": INTEGERS},
        "required": ["<|im_end|>"],
        "additionalProperties": False,
    },
    "a control token's name as a pattern": {"type": "string", "pattern": r"^[<]\|im_(end|start)\|>$"},
    "a pair": {"type": "array", "prefixItems": [TEXT, INTEGERS], "items": False, "minItems": 2},
}
ENDLESS = {"$ref to the whole": '{"next": ', "bounds of numbers": "0."}  # how what may go on for ever begins
REFUSED: dict[str, dict[str, Any]] = {
    "minLength": {"type": "string", "minLength": 9, "maxLength": 5},
    "minItems": {"type": "array", "minItems": 3, "maxItems": 2},
    "maximum": {"type": "integer", "minimum": 2**63 - 2, "maximum": 2**63 - 1},
    "if": {"if": {"type": "string"}, "then": {"minLength": 2}},
    "not": {"not": {"type": "string"}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "pattern": {"type": "string", "pattern": "^(a{0,40}b{0,40}){0,400}$"},
    "multipleOf": {"type": "integer", "multipleOf": 9007199},
    "is unsatisfiable": {"type": "object", "required": ["x"], "additionalProperties": False},
}


@pytest.fixture(scope="module")
def client(real_gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=f"{real_gateway.url}/v1", api_key=real_gateway.key, max_retries=0, timeout=60)


def asked(client: OpenAI, schema: dict[str, Any], *, max_tokens: int = 48, forced: bool = False, **more: Any) -> Any:
    """The first choice and the usage of an answer under `schema`, as a format or as a forced call."""
    held: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
    if forced:
        function = {"name": "describe", "description": "It describes.", "parameters": schema}
        chosen = {"type": "function", "function": {"name": "describe"}}
        held = {"tools": [{"type": "function", "function": function}], "tool_choice": chosen}
    messages: Any = [{"role": "user", "content": TEMPTING}]
    answer = client.chat.completions.create(
        model=TINY, messages=messages, max_tokens=max_tokens, temperature=0, seed=1, **held, **more
    )
    return answer.choices[0], answer.usage


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 48])
def test_no_answer_begins_with_a_code_fence(client: OpenAI, max_tokens: int) -> None:
    """However short: the text is the beginning of the JSON, and log-probabilities and usage count nothing else."""
    choice, usage = asked(client, CAT, max_tokens=max_tokens, logprobs=True)
    tokens = [entry.token for entry in choice.logprobs.content]
    assert "".join(tokens) == choice.message.content
    assert choice.message.content.startswith("{")
    assert "`" not in choice.message.content
    assert usage.completion_tokens - len(tokens) in ((0,) if choice.finish_reason == "length" else (0, 1))  # the end's
    assert choice.finish_reason == ("stop" if max_tokens == 48 else "length")


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_a_forced_call_that_was_cut_short_is_none(client: OpenAI, max_tokens: int) -> None:
    """What there is of it is text, which begins as its arguments would."""
    choice, usage = asked(client, CAT, max_tokens=max_tokens, forced=True)
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)
    assert choice.message.content.startswith("{")
    assert usage.completion_tokens == max_tokens


def test_a_forced_call_that_ends_is_one(client: OpenAI) -> None:
    """With arguments that keep the schema."""
    choice, _ = asked(client, CAT, forced=True)
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "describe")
    assert jsonschema_rs.is_valid(CAT, json.loads(call.function.arguments))


@pytest.mark.parametrize("name", KEPT)
def test_a_schema_is_kept(client: OpenAI, name: str) -> None:
    """By an independent reading of it."""
    choice, _ = asked(client, KEPT[name])
    if choice.finish_reason == "length":
        assert choice.message.content.startswith(ENDLESS[name])
    else:
        assert jsonschema_rs.is_valid(KEPT[name], json.loads(choice.message.content))


@pytest.mark.parametrize("forced", [False, True], ids=["format", "forced"])
@pytest.mark.parametrize("word", REFUSED)
def test_a_schema_is_refused_by_name(client: OpenAI, word: str, forced: bool) -> None:
    """In our words, with the keyword and the field of the request."""
    schema = {"type": "object", "properties": {"p": REFUSED[word]}, "required": ["p"]} if forced else REFUSED[word]
    with pytest.raises(APIStatusError) as caught:
        asked(client, schema, forced=forced)
    error = caught.value
    assert (error.status_code, error.code) == (400, "invalid_schema")
    assert error.param == ("tools[0].function.parameters" if forced else "response_format.json_schema.schema")
    assert word in error.message


def test_what_the_grammar_lets_pass_is_found_out(client: OpenAI) -> None:
    """Exactly one is no matter of a grammar: the error says that asking again does not help."""
    both = {"oneOf": [{"enum": ["yes", "no"]}, {"enum": ["no", "yes"]}]}
    with pytest.raises(APIStatusError) as caught:
        asked(client, both)
    assert (caught.value.status_code, caught.value.code) == (400, "schema_not_kept")
    assert "does not help" in caught.value.message or "does not help" in str(caught.value.body)
