"""A client's JSON Schema is bounded, judged aside and held to, whatever the engine's own grammar makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile.schemas import HONEST, HOSTILE, chain, fan, optional, patterned
from tests.serve.conftest import CALLER, Ask, MakeFront, ScriptedEngine, chat, request, streamed

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Completion, Tool, Usage
from allod.engine.schemas.grammar import check_enforced, grammar_of
from allod.govern.tenancy.tenants import Quota
from allod.serve.schemas.bounds import LIMITS, check_bounds
from allod.serve.schemas.json_text import NOT_JSON, json_value
from allod.serve.schemas.judge import Judge, JudgeLimits, SchemaQuestion
from allod.serve.schemas.repetition import expanded_size
from allod.serve.schemas.size import check_size

PLACE = "response_format.json_schema.schema"
POSTCODE = {
    "type": "object",
    "properties": {"postcode": {"type": "string", "pattern": r"^LL\d{2} \d[A-Z]{2}$"}},
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
    "[",
    "null",
    "",
    KEPT[:18],  # an engine that holds to the grammar cannot end here
]
NOT_QUITE_JSON = ["NaN", '{"a": Infinity}', '"\\ud800"', "{'a': 1}", "[" * 100_000, "9" * 10_000, "1 2", "\ufeff{}"]
DEAR = {
    "anyOf": [{"pattern": rf"^{number}\p{{L}}{{1,70}}$"} for number in range(250)]
}  # passes what is counted, and takes seconds
LIBRARIES_WORDS = [
    "no grammar can be made of it at",
    "satisfiable schema",
    "regex",
    "Regex",
    "Error",
    "json-schema:",
    "is not",
]


@pytest.fixture
async def judge() -> AsyncIterator[Judge]:
    made = Judge()
    yield made
    await made.close()


async def fault_of(judge: Judge, schema: dict[str, Any], *, tenant: str = "local") -> str | None:
    """What a client would be told of a schema, before any model is asked; None if it is accepted."""
    try:
        await check_size(schema, param="p")
        await judge.check(tenant, [SchemaQuestion(schema, "p", is_grammar=True)])
    except Invalid as error:
        return error.message if (error.code, error.param) == ("invalid_schema", "p") else "another error"
    return None


# What a schema may ask for


async def test_every_hostile_schema_has_an_answer(judge: Judge) -> None:
    """Each is accepted or refused, in our words; the refusals that reading alone can tell cost nothing."""
    for name, schema in HOSTILE:
        reason = await fault_of(judge, schema)
        assert reason is None or reason.startswith("the schema cannot be used: "), name
        assert [word for word in LIBRARIES_WORDS if word in (reason or "")] == [], name


@pytest.mark.parametrize(("name", "schema"), HONEST, ids=[name for name, _ in HONEST])
async def test_honest_schemas_are_accepted(judge: Judge, name: str, schema: dict[str, Any]) -> None:
    """Recursion, 5,000 codes, false properties and what pydantic writes among them."""
    assert await fault_of(judge, schema) is None


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "minLength": 9, "maxLength": 5}, ["minLength (9)", "maxLength (5)", "at #"]),
        ({"type": "array", "minItems": 3, "maxItems": 2}, ["minItems (3)", "maxItems (2)", "at #"]),
        ({"properties": {"a": {"minimum": 2, "maximum": 1}}}, ["minimum (2)", "maximum (1)", "at #/properties/a"]),
        ({"type": "integer", "minimum": 2**63 - 2, "maximum": 2**63 - 1}, ["maximum", "2^53", "at #"]),
        ({"items": {"pattern": "^((a{0,99}){0,99}){0,99}$"}}, ["pattern", "20000", "at #/items"]),
        ({"$defs": {"a": {"if": {}, "then": {}}}}, ["if", "at #/$defs/a"]),
        ({"type": "array", "uniqueItems": True}, ["uniqueItems", "at #"]),
        ({"type": "array", "minItems": 10**8}, ["minItems", "100000", "at #"]),
        ({"type": "string", "maxLength": 10**10}, ["maxLength: more than 1000000000 at #"]),
        ({"pattern": f"[{'a' * 30_000}]"}, ["pattern", "20000", "at #"]),
        ({"type": "integer", "multipleOf": 9007199}, ["multipleOf", "at #"]),
        ({"properties": {"a": {"pattern": r"\bLL"}}}, ["pattern", "at #/properties/a"]),
        ({"properties": {"a": {"pattern": "("}}}, ["pattern: ", "at #/properties/a/pattern"]),
        ({"required": ["x"], "additionalProperties": False, "type": "object"}, ["'x' is unsatisfiable", "at #"]),
        ({"$ref": "#"}, ["$ref", "refers to itself", "at #"]),
        ({"items": {"anyOf": [{"$ref": "#/items"}]}}, ["$ref", "refers to itself", "at #/items"]),
        ({"items": {"$ref": "#/nowhere"}}, ["$ref: '#/nowhere'", "at #/items"]),
        (
            {"items": {"$ref": "https://example.org/a"}},
            ["$ref: 'https://example.org/a'", "no other is fetched", "#/items"],
        ),
        (
            {"examples": [{"type": "array", "uniqueItems": True}], "$ref": "#/examples/0"},
            ["$ref: '#/examples/0'", "at #"],
        ),
        ({"items": {"$ref": "#", "minProperties": 1}}, ["$ref: other keywords", "at #/items"]),
        ({"items": {"$dynamicRef": "#"}}, ["$dynamicRef at #/items cannot be enforced"]),
        ({"properties": {"a/b": {"type": "objekt"}}}, ['"objekt" cannot stand at #/properties/a~1b/type']),
        ({"$id": "http://[bad"}, ["$id", "is no address"]),
        (chain(300), ["$ref: a chain of more than 100 at #"]),
        ({"allOf": [{"minLength": 9}, {"maxLength": 5}], "type": "string"}, ["minLength (9) is greater", "at #"]),
        ({"enum": []}, ["enum", "nothing is left to choose at #"]),
        ({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5}, ["minimum, maximum: no number"]),
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 1}, ["(1) is equal to exclusiveMaximum (1)"]),
        ({"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 7}, ["multipleOf: no multiple"]),
        ({"type": "string", "enum": [1]}, ["type: ", "at #"]),
        ({"type": "array", "minItems": 1, "items": False}, ["minItems: ", "at #"]),
        ({"type": "string", "pattern": "^a{10}$", "maxLength": 5}, ["pattern, format", "no text", "at #"]),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, ["pattern: back references", "at #/properties/a"]),
        ({"anyOf": [{"pattern": f"^{number}"} for number in range(257)]}, ["pattern: more than 256"]),
        ({"properties": {f"p{number}": {} for number in range(401)}}, ["properties: more than 400", "at #"]),
        ({"anyOf": [optional(390)] * 5}, ["too large for the engine's grammars at #"]),
        (fan(18, 3, "allOf"), ["schemas"]),
        (patterned(65, "^k%d_[a-z]{1,8}$"), ["patternProperties: more than 64", "at #"]),
        (patterned(2600, "^k%d_[a-z]{1,8}$"), ["more than 2000 schemas"]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_refusal_names_keyword_and_place(judge: Judge, schema: dict[str, Any], words: list[str]) -> None:
    """So that its author finds it."""
    reason = await fault_of(judge, schema)
    assert reason is not None
    assert [word for word in words if word not in reason] == []


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("(ab){3}", 6),
        ("((a{2}b){3}c){4}", 40),
        ("[a-z]{7}", 7),
        (r"\d{4}-\d{2}", 7),
        (r"a{99999999999999999999}", 9_999_999_999_999_999),
        ("(a?){1000}(a?){1000}", 2000),
        ("a{0}b", 2),
        (r"\{3}", 3),
        ("[^]]{3}", 3),
        ("[", 0),
        ("a{,3}", 5),
    ],
)
def test_repetition_is_what_it_expands_to(pattern: str, size: int) -> None:
    """{m,n} written out, groups within groups multiplied."""
    assert expanded_size(pattern) == min(size, 1 << 53)


@given(st.text(max_size=200) | st.text(r"()[]{}\,0123456789a?*+|^$", max_size=200))
def test_every_text_has_a_size(pattern: str) -> None:
    """Also what is no expression."""
    assert 0 <= expanded_size(pattern) <= 1 << 53


async def test_tools_are_measured_together() -> None:
    """Many small schemas are one large one."""
    half = {"enum": ["x" * (LIMITS.characters // 2)]}
    size = await check_size(half, param="p")
    with pytest.raises(Invalid):
        await check_size(half, param="p", num_before=size)


def test_what_is_data_is_no_schema() -> None:
    """A property called `if`, an example that refers, a default that contradicts itself: words, and nothing more."""
    data = {"$ref": "#/nowhere", "if": 1, "minLength": 9, "maxLength": 5}
    schema = {"type": "object", "properties": {name: {} for name in data}, "examples": [data], "default": data}
    check_bounds(schema)
    check_enforced(schema)


def test_a_grammar_is_what_the_engine_gets() -> None:
    """One line of its language; what a client says to the grammar's own options is not heard."""
    grammar = grammar_of({"x-guidance": {"lenient": True}, "minItems": 2.0, "format": "password", "uniqueItems": False})
    head, _, schema = grammar.partition("start: %json ")
    assert head == '%llguidance {"no_forcing": true}\n'
    read = json.loads(schema)
    assert read.pop("x-guidance")["whitespace_flexible"] is False
    assert json.dumps(read) == '{"minItems": 2}'


# What judging costs


async def test_what_takes_too_long_is_ended_and_remembered(judge: Judge) -> None:
    """By CPU time, in a process of its own; who asks for the same again has the answer without it."""
    assert "CPU time" in (await fault_of(judge, DEAR) or "")
    process = judge._free[-1]._process
    assert "CPU time" in (await fault_of(judge, DEAR) or "")
    assert judge._free[-1]._process is process  # nobody was asked
    assert await fault_of(judge, {"type": "string"}) is None  # and the next has a new process


async def test_the_event_loop_goes_on_meanwhile(judge: Judge) -> None:
    """Whatever a schema costs, it is not the loop that pays."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    beside = asyncio.create_task(tick())
    await fault_of(judge, DEAR)
    beside.cancel()
    assert ticks >= 10


async def test_one_question_of_a_tenant_is_in_line(judge: Judge) -> None:
    """Who asks ten dear things delays others by one of them."""
    dear = [fault_of(judge, {**DEAR, "title": str(number)}, tenant="rude") for number in range(4)]
    tasks = [asyncio.create_task(each) for each in dear]
    await asyncio.sleep(0)
    assert await fault_of(judge, {"type": "string"}, tenant="kind") is None
    assert sum(task.done() for task in tasks) <= 1
    await asyncio.gather(*tasks)


async def test_an_ended_process_is_replaced_and_judges_nothing(judge: Judge) -> None:
    """Somebody else's kill is no fault of the schema's."""
    assert await fault_of(judge, {"type": "string"}) is None
    process = judge._free[-1]._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert await fault_of(judge, {"type": "integer"}) is None


async def test_a_silent_process_is_unavailable() -> None:
    """Stopped, it is ended by the clock; nothing is learned of the schema, and the next question is answered."""
    judge = Judge(JudgeLimits(answer_s=1.0))
    try:
        assert await fault_of(judge, {"type": "string"}) is None
        process = judge._free[-1]._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable) as caught:
            await fault_of(judge, {"type": "integer"})
        assert caught.value.code == "schema_unchecked"
        assert await fault_of(judge, {"type": "integer"}) is None
    finally:
        await judge.close()


async def test_a_client_that_leaves_takes_nobodys_process(judge: Judge) -> None:
    """Its question is answered, and the answer kept."""
    leaving = asyncio.create_task(fault_of(judge, {"type": "string"}))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert await fault_of(judge, {"type": "string"}) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [(KEPT, "kept"), ('{"postcode": "LL', "cut"), ("", "cut"), ("Tywyn", "not enforced"), ("{}", "not enforced")],
)
async def test_a_verdict_says_what_the_grammar_would_have_done(judge: Judge, text: str, verdict: str) -> None:
    """So that the client hears whether asking again can help."""
    assert await judge.verdict("local", POSTCODE, text, True) == verdict


async def test_a_verdict_knows_what_no_grammar_holds(judge: Judge) -> None:
    """`oneOf` is any of them to the grammar, and exactly one to the client."""
    overlapping = {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}
    assert await judge.verdict("local", overlapping, '"ab"', True) == "kept"
    assert await judge.verdict("local", overlapping, '"abc"', True) == "broken"


async def test_a_hostile_pattern_does_not_outlast_its_time(judge: Judge) -> None:
    """Evaluating may be far dearer than compiling."""
    slow = {"type": "array", "items": {"pattern": "^" + "(a?){1000}" * 4 + "$"}}
    check_bounds(slow)
    assert await judge.verdict("local", slow, json.dumps(["a" * 3999] * 10), False) == "too dear"


# What becomes of a request


@pytest.mark.parametrize("text", BROKEN)
async def test_an_answer_that_breaks_its_schema_is_none(front: MakeFront, ask_chat: Ask, text: str) -> None:
    """An engine that gave up on the grammar is found out; asking again would not help, and the client hears so."""
    async with front(ScriptedEngine(text)) as made:
        with pytest.raises(AllodError) as caught:
            await ask_chat(made.gateway, request(chat(schema=POSTCODE)))
        (statement,) = await made.receipts()
    assert (caught.value.code, caught.value.param) == ("schema_not_kept", PLACE)
    assert isinstance(caught.value, Invalid)
    assert "does not help" in (caught.value.hint or "")
    assert statement.predicate["answer"]["finish"] == "error"


async def test_an_answer_that_a_stop_sequence_cut_says_so(front: MakeFront, ask_chat: Ask) -> None:
    """It is the client's own doing."""
    asked = chat(schema=POSTCODE)
    asked = replace(asked, sampling=replace(asked.sampling, stop=("9",)))
    async with front(ScriptedEngine(KEPT[:18])) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request(asked))
    assert (caught.value.code, caught.value.param) == ("schema_not_kept", "stop")


async def test_an_answer_that_only_chance_broke_may_be_asked_for_again(front: MakeFront, ask_chat: Ask) -> None:
    """503, unless the temperature is 0."""
    asked = chat(schema={"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]})
    for temperature, kind in ((0.7, Unavailable), (0.0, Invalid)):
        again = replace(asked, sampling=replace(asked.sampling, temperature=temperature))
        async with front(ScriptedEngine('"abc"')) as made:
            with pytest.raises(kind) as caught:
                await ask_chat(made.gateway, request(again, id=f"r{temperature}"))
        assert caught.value.code == "schema_not_kept"


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


async def test_an_answer_cut_short_must_have_begun_well(front: MakeFront, ask_chat: Ask) -> None:
    """An engine that answers without its grammar is found out also where it was stopped."""
    async with front(ScriptedEngine("Tywyn is", finish="length")) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request(chat(schema=POSTCODE)))
    assert caught.value.code == "schema_not_kept"


async def test_a_call_is_not_an_answer_that_a_schema_is_for(front: MakeFront, ask_chat: Ask) -> None:
    """With both asked for, calling is no breach: the call has the tool's own schema to keep."""
    offered = chat(schema=POSTCODE, tools=(Tool("clock", "", {"type": "object"}),), tool_choice="auto")
    async with front(ScriptedEngine('{"name": "clock", "arguments": {}}')) as made:
        await ask_chat(made.gateway, request(offered))
        (statement,) = await made.receipts()
    assert statement.predicate["answer"]["finish"] == "tool_calls"


async def test_a_forced_call_cut_short_is_shown_as_text(front: MakeFront) -> None:
    """The pieces that were held back come, and no call."""
    forced = chat(tools=(Tool("mark", "", POSTCODE),), tool_choice="mark")
    async with front(ScriptedEngine(KEPT[:9], KEPT[9:15], finish="length")) as made:
        *pieces, last = await streamed(made.gateway, request(forced))
    assert isinstance(last, Completion)
    assert (last.content, last.finish, last.tool_calls) == (KEPT[:15], "length", ())
    assert len(pieces) == 2


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"pattern": "("},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"minimum": "1"},
        {"not": {}},
        {"title": "x" * LIMITS.characters},
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_is_no_schema_is_refused_before_a_model_is_asked(
    front: MakeFront, ask_chat: Ask, schema: dict[str, Any]
) -> None:
    """The place in the request is named; nothing is asked or recorded, and nothing fetched."""
    engine = ScriptedEngine(KEPT)
    async with front(engine) as made:
        with pytest.raises(Invalid) as caught:
            await ask_chat(made.gateway, request(chat(schema=schema)))
        assert await made.receipts() == []
    assert (caught.value.code, caught.value.param) == ("invalid_schema", PLACE)
    assert engine.asked == []


async def test_a_schema_that_is_refused_is_a_request(front: MakeFront) -> None:
    """A tenant that sends nothing else is held to its requests as well, before anything is compiled again."""
    limited = replace(CALLER, tenant=replace(CALLER.tenant, quota=Quota(requests_per_minute=2)))
    async with front(ScriptedEngine("{}")) as made:
        for number, code in enumerate(("invalid_schema", "invalid_schema", "rate_limited")):
            asked = request(chat(schema={"type": "objekt", "title": str(number)}), id=f"r{number}")
            with pytest.raises(AllodError) as caught:
                await made.gateway.answer(replace(asked, caller=limited))
            assert caught.value.code == code


@pytest.mark.parametrize("text", ["[1]", "7", "null", '"{}"'])
async def test_any_object_is_an_object(front: MakeFront, ask_chat: Ask, text: str) -> None:
    """`json_object`, which is an empty schema here, asks for an object and not for any JSON."""
    async with front(ScriptedEngine("{}")) as made:
        await ask_chat(made.gateway, request(chat(schema={})))
    async with front(ScriptedEngine(text)) as made:
        with pytest.raises(AllodError) as caught:
            await ask_chat(made.gateway, request(chat(schema={}), id="r2"))
    assert caught.value.code == "schema_not_kept"


@pytest.mark.parametrize("text", NOT_QUITE_JSON, ids=lambda text: ascii(text[:20]))
async def test_what_only_python_takes_for_json_is_none(judge: Judge, text: str) -> None:
    """Numbers that are none, half characters, depth and length without end: no other reader would agree."""
    assert json_value(text) is NOT_JSON
    assert await judge.verdict("local", {}, text, False) == "broken"


@given(st.text())
def test_no_text_is_an_exception(text: str) -> None:
    """A value that can be written again, or NOT_JSON."""
    value = json_value(text)
    assert value is NOT_JSON or json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
