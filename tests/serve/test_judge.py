"""What judging clients' schemas may cost, whom it may keep waiting, and that each thing is computed once."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.serve.conftest import MakeFront, ScriptedEngine, answered, chat, request, streamed

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Sampling, Tool
from allod.serve import tools
from allod.serve.schemas.bounds import LIMITS, check_bounds, check_size
from allod.serve.schemas.judge import Asked, Judge, JudgeLimits
from allod.serve.schemas.judging import JudgingProcess
from allod.serve.schemas.process import _NICE

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


async def check(judge: Judge, tenant: str, *schemas: dict[str, Any]) -> None:
    await judge.check(tenant, [Asked(schema, "p", is_grammar=True) for schema in schemas])


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
    """The kernel's, so that no library has to keep it."""
    await check(judge, "local", {"type": "string"})
    process = judge._free[-1]._process
    assert process is not None
    assert resource.prlimit(process.pid, resource.RLIMIT_AS)[0] == JudgeLimits().memory_bytes


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


# What is computed, and how often


async def test_a_schema_is_judged_once_for_a_tenant(questions: list[dict[str, Any]]) -> None:
    """And anew for another: the time of an answer tells nobody what others ask."""
    judge, schema = Judge(), {"type": "string"}
    await check(judge, "a", schema, schema)
    await check(judge, "a", schema)
    assert questions == [{"schema": schema, "is_grammar": True}]
    await check(judge, "b", schema)
    assert len(questions) == 2


@pytest.mark.parametrize("ask", [answered, streamed])
async def test_the_schema_of_a_forced_call_is_made_once(
    front: MakeFront, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    """It is checked, given to the engine and held against the answer, the same each time."""
    made_schemas, real = [], tools._forced_schema
    monkeypatch.setattr(tools, "_forced_schema", lambda asked: made_schemas.append(real(asked)) or made_schemas[-1])
    engine = ScriptedEngine('{"name": "answer", "arguments": {"a": 1}}')
    async with front(engine) as made:
        await ask(made.gateway, request(chat(tools=(ANSWER,), tool_choice="required")))
    assert len(made_schemas) == 1
    (asked,) = engine.asked
    assert isinstance(asked, Chat)
    assert asked.schema is made_schemas[0]


def test_names_that_are_said_again_at_each_place_are_counted() -> None:
    """A long name over many schemas is small to write, and hundreds of megabytes once every place is written out."""
    many = {"type": "object", "properties": {f"p{number}": {} for number in range(1900)}}
    with pytest.raises(Invalid, match="names too long"):
        check_size({"properties": {"x" * 200_000: many}}, param="p")
    check_size({"properties": {"x" * 1000: many}}, param="p")


def test_a_refusal_is_short_whatever_it_names() -> None:
    """The beginning, which is the keyword, and the end."""
    with pytest.raises(Invalid) as caught:
        check_bounds({"properties": {"x" * 100_000: {"minLength": 2, "maxLength": 1}}})
    assert "minLength (2)" in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("size", ["values", "characters", "depth"])
def test_size_is_bounded_before_anything_reads_further(size: str) -> None:
    """By what is written, each in its own words."""
    schema: Any = {"enum": [0] * LIMITS.values} if size == "values" else {"title": "x" * LIMITS.characters}
    if size == "depth":
        schema = json.loads('{"not":' * LIMITS.depth + "{}" + "}" * LIMITS.depth)
    with pytest.raises(Invalid) as caught:
        check_size(schema, param="p")
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
        assert len(await tools._found((ANSWER,), text, kept)) == num_calls
