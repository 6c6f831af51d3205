"""What judging clients' schemas may cost, whom it may keep waiting, and that each thing is computed once."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import pytest
from tests.serve.conftest import MakeFront, ScriptedEngine, answered, chat, request, streamed

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Sampling, Tool
from allod.serve import tools
from allod.serve.schemas.bounds import LIMITS, check_bounds
from allod.serve.schemas.judge import Judge, JudgeLimits, SchemaQuestion
from allod.serve.schemas.judging import JudgingProcess
from allod.serve.schemas.process import _NICE, _validator, serve
from allod.serve.schemas.size import check_size

DEAR = {"anyOf": [{"pattern": rf"^{number}\p{{L}}{{1,70}}$"} for number in range(250)]}
ANSWER = Tool("answer", "", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})


@pytest.fixture
async def judge() -> AsyncIterator[Judge]:
    made = Judge()
    yield made
    await made.close()


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every question that reaches a process, which finds all well."""
    asked: list[dict[str, Any]] = []

    def answer(_: JudgingProcess, line: bytes) -> None:
        asked.append(json.loads(line))

    monkeypatch.setattr(JudgingProcess, "answer", answer)
    return asked


@pytest.fixture
def slow_questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """When a process, which finds all well after a while, has begun and ended."""
    seen: list[str] = []

    def answer(_: JudgingProcess, __: bytes) -> None:
        seen.append("begin")
        time.sleep(0.3)
        seen.append("end")

    monkeypatch.setattr(JudgingProcess, "answer", answer)
    return seen


async def check(judge: Judge, tenant: str, *schemas: dict[str, Any]) -> None:
    await judge.check(tenant, [SchemaQuestion(schema, "p", is_grammar=True) for schema in schemas])


def called(arguments: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "answer", "arguments": arguments}}],
    }


def shown(*arguments: str) -> list[str]:
    """Earlier calls as the model is shown them."""
    messages = tuple(map(called, arguments))
    return [message["content"] for message in tools.prepare(Chat("m", messages, Sampling(seed=1))).messages]


# Whom it keeps waiting


async def test_honest_traffic_comes_first(judge: Judge) -> None:
    """Judging is lower in priority, and in the gateway's session: Linux shares the processor among sessions first."""
    await check(judge, "local", {"type": "string"})
    process = judge._free[-1]._process
    assert process is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
    assert os.getsid(process.pid) == os.getsid(0)
    assert os.getpgid(process.pid) != os.getpgid(0)  # what the terminal interrupts is the gateway, which ends it


async def test_judging_has_a_bound_in_memory(judge: Judge) -> None:
    """The kernel's, so that no library has to keep it; and what breaks leaves no clients' words on the disk."""
    await check(judge, "local", {"type": "string"})
    process = judge._free[-1]._process
    assert process is not None
    assert resource.prlimit(process.pid, resource.RLIMIT_AS)[0] == JudgeLimits().memory_bytes
    assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
    assert Path(f"/proc/{process.pid}/fd/2").readlink() == Path(os.devnull)


async def test_judging_knows_nothing_of_the_gateways_environment(judge: Judge) -> None:
    """Only where its own code is."""
    await check(judge, "local", {"type": "string"})
    process = judge._free[-1]._process
    assert process is not None
    assert Path(f"/proc/{process.pid}/environ").read_bytes().count(b"=") == 1


def test_nothing_is_fetched() -> None:
    """Nor would be if a reference had not been refused before."""
    with pytest.raises(jsonschema_rs.ValidationError, match="not followed"):
        _validator('{"$ref": "https://example.org/a"}')


def test_a_questions_clock_stops_with_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of one's time is not the next one's."""
    clock: list[float] = []
    monkeypatch.setattr("allod.serve.schemas.process.signal.setitimer", lambda _, seconds: clock.append(seconds))
    monkeypatch.setattr("allod.serve.schemas.process.resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("allod.serve.schemas.process.os.nice", lambda _: 0)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=[b'{"schema": {}, "is_grammar": true}\n']))
    serve(1.5, 1)
    assert clock == [1.5, 0]


async def test_a_dear_schema_is_not_another_tenants_wait(judge: Judge) -> None:
    """There is a second process, and nobody has both."""
    dear = [asyncio.create_task(check(judge, "rude", {**DEAR, "title": str(number)})) for number in range(2)]
    await asyncio.sleep(0)
    await check(judge, "kind", {"type": "string"})
    assert not any(each.done() for each in dear)
    found = await asyncio.gather(*dear, return_exceptions=True)
    assert all(isinstance(each, Invalid) for each in found)


async def test_the_line_of_a_tenant_is_bounded(questions: list[dict[str, Any]]) -> None:
    """More schemas at a time than it may have in line are refused at once; another tenant's is answered."""
    judge = Judge(JudgeLimits(num_in_line=3))
    found = await asyncio.gather(
        *(check(judge, "rude", {"title": str(number)}) for number in range(5)), return_exceptions=True
    )
    refused = [each for each in found if isinstance(each, Unavailable)]
    assert [(each.code, each.retry_after_s) for each in refused] == [("overloaded", 1)] * 2
    await check(judge, "kind", {"title": "0"})
    await check(judge, "rude", {"title": "4"})  # the line is free again
    assert len(questions) == 5


async def test_the_wait_for_a_turn_is_bounded(slow_questions: list[str]) -> None:
    """Who has not been asked by then hears when to ask again."""
    judge = Judge(JudgeLimits(turn_s=0.05))
    found = await asyncio.gather(*(check(judge, "a", {"title": str(n)}) for n in range(2)), return_exceptions=True)
    assert [each.code for each in found if isinstance(each, Unavailable)] == ["overloaded"]
    assert len(slow_questions) == 2  # the beginning and the end of one


async def test_who_leaves_takes_no_process_that_still_answers(slow_questions: list[str]) -> None:
    """The next question waits, or two would read each other's answers."""
    judge = Judge(JudgeLimits(processes=1))
    leaving = asyncio.create_task(judge.verdict("a", {}, "1", False))
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await judge.verdict("b", {}, "2", False)
    assert slow_questions == ["begin", "end"] * 2


# What is computed, and how often


async def test_a_schema_that_is_being_judged_is_not_judged_again(questions: list[dict[str, Any]]) -> None:
    """Who asks meanwhile waits for the same answer."""
    judge = Judge()
    await asyncio.gather(*(check(judge, "a", {"type": "string"}) for _ in range(3)))
    assert len(questions) == 1


async def test_what_is_remembered_is_bounded(questions: list[dict[str, Any]]) -> None:
    """The oldest goes first."""
    judge = Judge(JudgeLimits(num_remembered=2))
    for title in "abcc":
        await check(judge, "a", {"title": title})
    assert len(questions) == 3
    await check(judge, "a", {"title": "a"})
    assert len(questions) == 4


async def test_a_schema_is_judged_once_for_a_tenant(questions: list[dict[str, Any]]) -> None:
    """And anew for another: the time of an answer tells nobody what others ask."""
    judge, schema = Judge(), {"type": "string"}
    await check(judge, "a", schema, schema)
    await check(judge, "a", schema)
    assert questions == [{"schema": schema, "is_grammar": True, "is_arguments": False}]
    await check(judge, "b", schema)
    assert len(questions) == 2


@pytest.mark.parametrize("ask", [answered, streamed])
async def test_the_schema_of_a_forced_call_is_made_once(
    front: MakeFront, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    """It is checked, given to the engine and held against the answer, the same each time."""
    made_schemas, real = list[Any](), tools._schema_of_choice

    def noted(asked: Chat) -> Any:
        made_schemas.append(real(asked))
        return made_schemas[-1]

    monkeypatch.setattr(tools, "_schema_of_choice", noted)
    engine = ScriptedEngine('{"name": "answer", "arguments": {"a": 1}}')
    async with front(engine) as made:
        await ask(made.gateway, request(chat(tools=(ANSWER,), tool_choice="required")))
    assert len(made_schemas) == 1
    (asked,) = engine.asked
    assert isinstance(asked, Chat)
    assert asked.schema is made_schemas[0]


async def test_names_that_are_said_again_at_each_place_are_counted() -> None:
    """A long name over many schemas is small to write, and hundreds of megabytes once every place is written out."""
    many = {"type": "object", "properties": {f"p{number}": {} for number in range(1900)}}
    with pytest.raises(Invalid, match="names too long"):
        await check_size({"properties": {"x" * 200_000: many}}, param="p")
    await check_size({"properties": {"x" * 1000: many}}, param="p")


def test_a_refusal_is_short_whatever_it_names() -> None:
    """The beginning, which is the keyword, and the end."""
    with pytest.raises(Invalid) as caught:
        check_bounds({"properties": {"x" * 100_000: {"minLength": 2, "maxLength": 1}}})
    assert "minLength (2)" in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("size", ["values", "characters", "depth"])
async def test_size_is_bounded_before_anything_reads_further(size: str) -> None:
    """By what is written, each in its own words."""
    schema: Any = {"enum": [0] * LIMITS.values} if size == "values" else {"title": "x" * LIMITS.characters}
    if size == "depth":
        schema = json.loads('{"not":' * LIMITS.depth + "{}" + "}" * LIMITS.depth)
    with pytest.raises(Invalid) as caught:
        await check_size(schema, param="p")
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "p")
    assert ("deep" if size == "depth" else str(LIMITS.values)) in caught.value.message


# Earlier calls, and long answers


def test_earlier_calls_are_written_as_models_write_json() -> None:
    """However the client wrote them; what is no object is shown as an empty one."""
    assert shown('{"a":"\\u00e9"}') == ['<tool_call>\n{"name": "answer", "arguments": {"a": "é"}}\n</tool_call>']
    assert ["{}}" in each for each in shown("[1]", '{"a":NaN}', "")] == [True] * 3


def test_long_earlier_calls_stay_as_they_were_written() -> None:
    """Reading and writing 3 MB of small numbers takes half a second; seeing that they are JSON takes 10 ms."""
    long = '{"a":[%s0]}' % ("0," * tools.EVENED_CHARS)
    wrong = long.replace("]", "")
    first, second, third = shown(long, wrong, '{"a":1}')
    assert long in first
    assert second.endswith('"arguments": {}}\n</tool_call>')
    assert '{"a":1}' in third  # the sum decides, not the one


async def test_an_answer_too_long_to_be_searched_for_calls_is_text() -> None:
    """Nobody holds up the loop with an answer either."""

    async def kept(*_: Any) -> Any:
        return "kept"

    for size, num_calls in ((100, 1), (tools.MAX_CALL_CHARS, 0)):
        text = json.dumps({"name": "answer", "arguments": {"a": "x" * size}})
        assert len(await tools._find_calls((ANSWER,), text, kept)) == num_calls


async def test_an_answer_of_too_many_calls_is_text() -> None:
    """Each would be held to its schema."""

    async def kept(*_: Any) -> Any:
        return "kept"

    call = '<tool_call>{"name": "answer", "arguments": {}}</tool_call>'
    for number, num_calls in ((tools.MAX_CALLS, tools.MAX_CALLS), (tools.MAX_CALLS + 1, 0)):
        assert len(await tools._find_calls((ANSWER,), call * number, kept)) == num_calls
