"""A client's JSON Schema is held to, whatever the engine's own grammar makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.conftest import Ask, MakeFront, ScriptedEngine, chat, request

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Completion, Tool, Usage
from allod.serve import schemas
from allod.serve.schemas import NOT_JSON, check_kept, compiled, json_value

POSTCODE = {  # llama.cpp knows no `\b`, and accepts any string where its grammar does not know a pattern
    "type": "object",
    "properties": {"postcode": {"type": "string", "pattern": r"\bLL\d{2} \d[A-Z]{2}\b"}},
    "required": ["postcode"],
    "additionalProperties": False,
}
KEPT = '{"postcode": "LL36 9DA"}'
BROKEN = [
    '{"postcode": "Tywyn"}',
    '{"postcode": 36}',
    "{}",
    '{"postcode": "LL36 9DA", "town": 1}',
    "Tywyn",
    "",
    "[",
    "null",
]
NOT_QUITE_JSON = ["NaN", '{"a": Infinity}', '"\\ud800"', "{'a': 1}", "[" * 100_000, "9" * 10_000, "1 2", "\ufeff{}"]


@pytest.mark.parametrize("text", BROKEN)
async def test_an_answer_that_breaks_its_schema_is_none(front: MakeFront, ask_chat: Ask, text: str) -> None:
    """A pattern that an engine does not know is still held to: the client hears that it was not kept."""
    async with front(ScriptedEngine(text)) as made:
        with pytest.raises(Unavailable) as caught:
            await ask_chat(made.gateway, request(chat(schema=POSTCODE)))
        (statement,) = await made.receipts()
    assert caught.value.code == "schema_not_kept"
    assert statement.predicate["answer"]["finish"] == "error"


async def test_an_answer_that_keeps_its_schema_is_passed_on(front: MakeFront, ask_chat: Ask) -> None:
    """As the engine wrote it, to the byte."""
    async with front(ScriptedEngine(KEPT[:9], KEPT[9:])) as made:
        await ask_chat(made.gateway, request(chat(schema=POSTCODE)))
        (statement,) = await made.receipts()
        assert made.commits_to(statement, Completion(KEPT, "stop", Usage()).committed_bytes())
    assert statement.predicate["answer"]["finish"] == "stop"


async def test_an_answer_cut_short_is_not_judged(front: MakeFront, ask_chat: Ask) -> None:
    """`length` already says that it is not whole."""
    async with front(ScriptedEngine(KEPT[:9], finish="length")) as made:
        await ask_chat(made.gateway, request(chat(schema=POSTCODE)))
        (statement,) = await made.receipts()
    assert statement.predicate["answer"]["finish"] == "length"


async def test_a_call_is_not_an_answer_that_a_schema_is_for(front: MakeFront, ask_chat: Ask) -> None:
    """With both asked for, calling is no breach: the call has the tool's own schema to keep."""
    offered = chat(schema=POSTCODE, tools=(Tool("clock", "", {"type": "object"}),), tool_choice="auto")
    async with front(ScriptedEngine('{"name": "clock", "arguments": {}}')) as made:
        await ask_chat(made.gateway, request(offered))
        (statement,) = await made.receipts()
    assert statement.predicate["answer"]["finish"] == "tool_calls"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"pattern": "("},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"minimum": "1"},
    ],
    ids=str,
)
async def test_what_is_no_schema_is_refused_before_anything(
    front: MakeFront, ask_chat: Ask, schema: dict[str, Any]
) -> None:
    """The place in the request is named; nothing is decided, asked or recorded, and nothing fetched."""
    engine = ScriptedEngine(KEPT)
    async with front(engine) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request(chat(schema=schema)))
        assert await made.receipts() == []
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "response_format.json_schema.schema")
    assert engine.asked == []


@pytest.mark.parametrize("text", ["7", "null", '"LL36 9DA"', KEPT, "[[]]"])
def test_a_schema_that_allows_anything_still_asks_for_json(text: str) -> None:
    """Every JSON value keeps it, and words do not."""
    anything = compiled({}, param="p")
    check_kept(anything, text)
    with pytest.raises(Unavailable):
        check_kept(anything, f"The answer is {text}")


@pytest.mark.parametrize("text", NOT_QUITE_JSON, ids=lambda text: ascii(text[:20]))
def test_what_only_python_takes_for_json_is_none(text: str) -> None:
    """Numbers that are none, half characters, depth and length without end: no other reader would agree."""
    assert json_value(text) is NOT_JSON
    with pytest.raises(Unavailable):
        check_kept(compiled({}, param="p"), text)


@given(st.text())
def test_no_text_is_an_exception(text: str) -> None:
    """A value that can be written again, or NOT_JSON."""
    value = json_value(text)
    assert value is NOT_JSON or json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def test_a_format_is_told_and_not_judged() -> None:
    """As JSON Schema 2020-12 has it: `format` describes, and breaks nothing."""
    check_kept(compiled({"format": "email"}, param="p"), '"not an address"')


@pytest.mark.parametrize("text", ["[1]", "7", "null", '"{}"'])
async def test_any_object_is_an_object(front: MakeFront, ask_chat: Ask, text: str) -> None:
    """`json_object`, which is an empty schema here, asks for an object and not for any JSON."""
    async with front(ScriptedEngine("{}")) as made:
        await ask_chat(made.gateway, request(chat(schema={})))
    async with front(ScriptedEngine(text)) as made:
        with pytest.raises(Unavailable) as caught:
            await ask_chat(made.gateway, request(chat(schema={}), id="r2"))
    assert caught.value.code == "schema_not_kept"


def test_schemas_that_take_long_to_compile_are_refused() -> None:
    """By their length and by their patterns, all schemas of a request together: the event loop compiles them."""
    schemas.check_size({"type": "object"}, {"pattern": "a"}, param="tools")
    many = {"anyOf": [{"pattern": f"(\\w{{100}}|{number})"} for number in range(schemas.MAX_PATTERNS + 1)]}
    long = {"enum": ["x" * schemas.MAX_SCHEMA_CHARS]}
    half = {"enum": ["x" * (schemas.MAX_SCHEMA_CHARS // 2)]}
    for together in ((many,), (long,), (half, half)):
        with pytest.raises(Invalid) as caught:
            schemas.check_size(*together, param="tools")
        assert (caught.value.code, caught.value.param) == ("invalid_schema", "tools")
