"""Tools: a forced call is enforced, an offered one is found, and no call leaves that breaks its tool's schema."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import pydantic_function_tool

from allod.core.errors import Invalid
from allod.core.requests import Chat, Completion, Sampling, Tool, ToolCall, Usage
from allod.serve import tools
from allod.serve.schemas.judge import Judge

WEATHER = Tool(
    "weather",
    "The weather of a town",
    {
        "type": "object",
        "properties": {"town": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["town"],
        "additionalProperties": False,
    },
)
JUDGE = Judge()
CLOCK = Tool("clock", "The time", {"type": "object"})
QUESTION = {"role": "user", "content": "Will it rain in Tywyn?"}


class Place(pydantic.BaseModel):
    town: str
    near: Place | None


class Trip(pydantic.BaseModel):
    start: Place
    stops: list[Place]


class Home(pydantic.BaseModel):
    place: Place


def chat(*offered: Tool, choice: str = "auto", messages: tuple[Any, ...] = (QUESTION,)) -> Chat:
    return Chat("m", messages, Sampling(seed=1), tools=offered, tool_choice=choice)


@pytest.fixture(scope="module", autouse=True)
def judge_is_ended() -> Iterator[None]:
    """One process judges for all of these tests."""
    yield
    asyncio.run(JUDGE.close())


def interpreted(asked: Chat, completion: Completion) -> Completion:
    schema = tools.prepare(asked).schema
    return asyncio.run(tools.interpret(asked, completion, schema=schema, judged=partial(JUDGE.verdict, "local")))


def checked(asked: Chat) -> None:
    """What a gateway does before it asks a model."""
    asyncio.run(tools.check_tools(asked))
    asyncio.run(JUDGE.check("local", tools.schemas_of(asked, tools.prepare(asked))))


def answered(text: str, *, finish: Any = "stop") -> Completion:
    return Completion(text, finish, Usage(3, 5))


def written(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def called(completion: Completion) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in completion.tool_calls]


# What the engine is asked


@pytest.mark.parametrize("choice", ["auto", "required", "weather", "none"])
def test_no_engine_ever_sees_tools(choice: str) -> None:
    """They are accepted by engines and not kept; so they become a prompt and a schema."""
    prepared = tools.prepare(chat(WEATHER, CLOCK, choice=choice))
    assert prepared.tools == ()
    assert prepared.tool_choice == "none"


@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"const": 5}, "const at #"),
        ({"enum": ["a", 1, None]}, "enum at #"),
        ({"enum": []}, "enum at #"),
        ({"type": "object", "const": []}, "const at #"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "anyOf at #"),
        ({"oneOf": [{"const": "a"}, {"enum": [1]}]}, "oneOf at #"),
        ({"allOf": [{"type": "object"}, {"type": ["array", "null"]}]}, "type at #/allOf/1"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, "const at #/$defs/a"),
        ({"anyOf": [{"$ref": "#a"}, False], "$defs": {"a": {"$anchor": "a", "type": "number"}}}, "anyOf at #"),
        ({"$ref": "#/$defs/no", "$defs": {"no": False}}, "false at #/$defs/no"),
    ],
    ids=str,
)
def test_arguments_that_could_never_be_an_object_are_refused(
    parameters: dict[str, Any], reason: str, choice: str
) -> None:
    """Before a model is asked, however the tool is offered, with the tool's own place."""
    with pytest.raises(Invalid) as caught:
        checked(chat(CLOCK, Tool("weather", "", parameters), choice=choice))
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "tools[1].function.parameters")
    assert reason in caught.value.message


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"const": {"a": 1}},
        {"enum": ["a", {"a": 1}]},
        {"anyOf": [{"type": "string"}, {"properties": {"a": {"const": 5}}}]},
        {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "object"}, "b": {"const": 1}}},
        {"properties": {"const": {"enum": [1]}}, "default": {"const": 5}},
        {"properties": {"a": {"$ref": "#"}}},
    ],
    ids=str,
)
def test_arguments_that_may_be_an_object_need_not_say_so(parameters: dict[str, Any]) -> None:
    """What only some ways, properties or examples say refuses nothing."""
    for choice in ("auto", "required", "weather"):
        checked(chat(Tool("weather", "", parameters), choice=choice))


def test_a_forced_named_tool_becomes_its_schema() -> None:
    """The engine can write nothing but that tool's arguments."""
    assert tools.prepare(chat(CLOCK, WEATHER, choice="weather")).schema == WEATHER.parameters


def test_a_required_call_becomes_one_of_the_tools() -> None:
    """Each alternative ties a tool's name to that tool's own arguments."""
    schema = tools.prepare(chat(WEATHER, CLOCK, choice="required")).schema
    assert schema is not None
    alternatives = {item["properties"]["name"]["const"]: item for item in schema["anyOf"]}
    assert set(alternatives) == {"weather", "clock"}
    assert alternatives["weather"]["properties"]["arguments"] == WEATHER.parameters
    assert alternatives["weather"]["required"] == ["name", "arguments"]


def pointed(schema: Any, reference: str) -> Any:
    """What a reference within a document means."""
    for step in reference.removeprefix("#").split("/")[1:]:
        schema = schema[int(step)] if isinstance(schema, list) else schema[step.replace("~1", "/").replace("~0", "~")]
    return schema


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [reference for item in value for reference in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [reference for item in value.values() for reference in references(item)]


def test_the_references_of_each_tool_lead_into_that_tool() -> None:
    """Two tools may define the same name, refer to themselves, to a property, by an anchor or by their own address."""
    definitions = {"$defs": {"A": {"type": "string"}, "B": {"$anchor": "b", "type": "null"}}, "type": "object"}
    first = Tool("first", "", {**definitions, "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": "#b"}}})
    other = {**definitions, "$defs": {"A": {"type": "integer"}}, "$id": "https://example.org/t"}
    uses = {"a": {"$ref": "https://example.org/t#/$defs/A"}, "again": {"$ref": "#/properties/a"}, "self": {"$ref": "#"}}
    schema = tools.prepare(chat(first, Tool("second", "", {**other, "properties": uses}), choice="required")).schema
    assert schema is not None
    met = [pointed(schema, reference) for reference in references(schema)]
    assert [each.get("type") for each in met] == ["string", "null", "integer", None, "object"]
    assert met[-1] is schema["anyOf"][1]["properties"]["arguments"]


@pytest.mark.parametrize("names", [("Trip", "Home"), ("Trip",)])
def test_nested_pydantic_models_are_tools(names: tuple[str, ...]) -> None:
    """As openai's `pydantic_function_tool` writes them, forced in either way."""
    offered = []
    models: dict[str, type[pydantic.BaseModel]] = {"Trip": Trip, "Home": Home}
    for name in names:
        function: Any = pydantic_function_tool(models[name])["function"]
        offered.append(Tool(function["name"], "", function["parameters"]))
    for choice in ("required", "auto", names[0]):
        checked(chat(*offered, choice=choice))
    arguments = {"start": {"town": "Tywyn", "near": None}, "stops": []}
    answer = answered(written("Trip", **arguments))
    assert called(interpreted(chat(*offered, choice="required"), answer)) == [("Trip", arguments)]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_an_offer_leaves_the_answers_schema_alone(choice: str) -> None:
    """Only a forced call may replace what the client asked for."""
    asked = replace(chat(WEATHER, choice=choice), schema={"type": "array"})
    assert tools.prepare(asked).schema == {"type": "array"}


@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
def test_the_model_is_told_of_the_tools(choice: str) -> None:
    """Name, description and parameters are in a system message before the question."""
    first, *rest = tools.prepare(chat(WEATHER, choice=choice)).messages
    assert first["role"] == "system"
    for word in ("weather", WEATHER.description, '"minimum": 1'):
        assert word in first["content"]
    assert rest == [QUESTION]


def test_the_clients_own_instructions_stay() -> None:
    """One system message, theirs first: many templates allow no second one."""
    own = {"role": "system", "content": "Answer in Welsh."}
    prepared = tools.prepare(chat(WEATHER, messages=(own, QUESTION)))
    assert [message["role"] for message in prepared.messages] == ["system", "user"]
    assert prepared.messages[0]["content"].startswith("Answer in Welsh.\n\n# Tools")


def test_tools_that_may_not_be_called_are_not_mentioned() -> None:
    """With "none" the prompt is the client's and nothing else."""
    assert tools.prepare(chat(WEATHER, choice="none")).messages == (QUESTION,)


def test_earlier_calls_and_results_are_text() -> None:
    """Engines whose template knows no tools still see what was called and what came back."""
    call = {"function": {"name": "weather", "arguments": '{"town": "Tywyn"}'}}
    messages = (
        QUESTION,
        {"role": "assistant", "content": "Let me look.", "tool_calls": [call, call]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    )
    _, spoken, silent, result = tools.prepare(chat(choice="none", messages=messages)).messages
    tagged = '<tool_call>\n{"name": "weather", "arguments": {"town": "Tywyn"}}\n</tool_call>'
    assert spoken == {"role": "assistant", "content": f"Let me look.\n{tagged}\n{tagged}"}
    assert silent == {"role": "assistant", "content": tagged}
    assert result == {"role": "user", "content": "<tool_response>\nrain\n</tool_response>"}


def test_a_conversation_without_tools_is_passed_on_as_it_is() -> None:
    """Preparing adds nothing where nothing was asked for."""
    plain = chat(choice="none", messages=({"role": "system", "content": "Be brief."}, QUESTION))
    assert tools.prepare(plain) == plain


# What the client is told


@pytest.mark.parametrize(
    "text",
    [
        written("weather", town="Tywyn"),
        f"  \n{written('weather', town='Tywyn')}\n",
        f"<tool_call>\n{written('weather', town='Tywyn')}\n</tool_call>",
        f"<tool_call>{written('weather', town='Tywyn')}</tool_call>",
        f"I shall look it up.\n<tool_call>\n{written('weather', town='Tywyn')}\n</tool_call>",
        f"```json\n{written('weather', town='Tywyn')}\n```",
        f"```\n{written('weather', town='Tywyn')}\n```",
    ],
    ids=["bare", "bare with space", "tagged", "tagged tightly", "tagged after text", "fenced as json", "fenced"],
)
def test_an_offered_call_is_found(text: str) -> None:
    """In the forms that models write it in; the text is then no content."""
    completion = interpreted(chat(WEATHER, CLOCK), answered(text))
    assert called(completion) == [("weather", {"town": "Tywyn"})]
    assert completion.content is None
    assert completion.finish == "tool_calls"
    assert completion.usage == Usage(3, 5)


def test_several_calls_are_found_in_their_order() -> None:
    """Each in its own tags."""
    text = f"<tool_call>{written('clock')}</tool_call>\n<tool_call>{written('weather', town='Tywyn')}</tool_call>"
    assert called(interpreted(chat(WEATHER, CLOCK), answered(text))) == [
        ("clock", {}),
        ("weather", {"town": "Tywyn"}),
    ]


def test_arguments_may_contain_what_ends_a_call() -> None:
    """The end is where the JSON ends, not where its text says so."""
    text = f"<tool_call>{written('weather', town='</tool_call> }{')}</tool_call>"
    assert called(interpreted(chat(WEATHER), answered(text))) == [("weather", {"town": "</tool_call> }{"})]


@pytest.mark.parametrize(
    "text",
    [
        "It will rain.",
        "",
        "{",
        "[]",
        "null",
        '"weather"',
        '{"town": "Tywyn"}',
        '{"name": "weather"}',
        '{"name": "weather", "arguments": "{}"}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": 7, "arguments": {}}',
        written("weather"),
        written("weather", town=7),
        written("weather", town="Tywyn", days=0),
        written("weather", town="Tywyn", extra=1),
        written("lottery"),
        f"<tool_call>{written('clock')}</tool_call><tool_call>{written('weather')}</tool_call>",
        "<tool_call>{broken}</tool_call>",
        "<tool_call>",
        f"<tool_call>{written('clock')}",
        '{"name": "clock", "arguments": ' + "[" * 100_000,
        '{"name": "clock", "arguments": {"a": ' + "9" * 10_000 + "}}",
        '{"name": "clock", "arguments": {"a": NaN}}',
        '{"name": "clock", "arguments": {"a": -Infinity}}',
        '{"name": "clock", "arguments": {"a": "\\ud800"}}',
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_valid_call_is_content(text: str) -> None:
    """The client never gets a call that its own schema forbids: it gets the words, unchanged."""
    completion = answered(text)
    assert interpreted(chat(WEATHER, CLOCK), completion) is completion


@pytest.mark.parametrize("calls", ["<tool_call>{", f"<tool_call>{written('clock')}</tool_call>x"])
def test_many_beginnings_of_calls_cost_little(calls: str) -> None:
    """Found in one pass: what a model repeats ten thousand times does not hold up everybody else."""
    begin = time.process_time()
    interpreted(chat(WEATHER), answered(calls * 10_000))
    assert time.process_time() - begin < 1


def test_one_call_at_most_where_only_one_was_asked_for() -> None:
    """`parallel_tool_calls: false`: the first call of several, in whatever order the tools were offered."""
    text = f"<tool_call>{written('clock')}</tool_call><tool_call>{written('weather', town='Tywyn')}</tool_call>"
    asked = replace(chat(WEATHER, CLOCK), parallel_tool_calls=False)
    completion = interpreted(asked, answered(text))
    assert called(completion) == [("clock", {})]
    assert (completion.content, completion.finish) == (None, "tool_calls")


def test_nothing_is_found_where_nothing_was_offered() -> None:
    """The same words are content when tools are absent or "none"."""
    completion = answered(written("weather", town="Tywyn"))
    assert interpreted(chat(choice="none"), completion) is completion
    assert interpreted(chat(WEATHER, choice="none"), completion) is completion


def test_a_forced_answer_is_wrapped_up_as_the_call() -> None:
    """The engine wrote arguments; the client gets a call of the tool that it named."""
    completion = interpreted(chat(WEATHER, CLOCK, choice="weather"), answered('{"town": "Tywyn"}'))
    assert completion.tool_calls == (ToolCall("weather", '{"town": "Tywyn"}'),)
    assert (completion.content, completion.finish) == (None, "tool_calls")


def test_a_required_answer_is_a_call_of_the_chosen_tool() -> None:
    """The engine chose; the name comes out of its answer."""
    completion = interpreted(chat(WEATHER, CLOCK, choice="required"), answered(written("clock")))
    assert called(completion) == [("clock", {})]


def test_what_a_required_call_is_held_to_is_judged_whole() -> None:
    """The tools' schemas may each be good, and too much together."""
    asked = chat(WEATHER, CLOCK, choice="required")
    prepared = tools.prepare(asked)
    last = tools.schemas_of(asked, prepared)[-1]
    assert (last.schema, last.param, last.is_grammar) == (prepared.schema, "tools", True)


@pytest.mark.parametrize("text", ["It will rain.", "{}", '{"town": 7}', "[]", "", "{"])
@pytest.mark.parametrize("choice", ["weather", "required"])
def test_a_forced_call_that_breaks_its_schema_is_an_error(choice: str, text: str) -> None:
    """An engine that did not keep the schema must not be taken at its word; the client hears that it is our fault."""
    with pytest.raises(Invalid) as caught:
        interpreted(chat(WEATHER, CLOCK, choice=choice), answered(text))
    assert caught.value.code == "tool_call_invalid"
    assert caught.value.param == ("tools" if choice == "required" else "tools[0].function.parameters")
    assert caught.value.hint is not None
    assert "does not help" in caught.value.hint


@pytest.mark.parametrize("choice", ["weather", "required"])
@pytest.mark.parametrize("text", ['{"', '{"town": "Ty', '{"name": "weather", "arguments": {"town": "Ty'])
def test_a_forced_call_that_was_cut_short_is_no_call(choice: str, text: str) -> None:
    """Nobody may act on half of the arguments: they are content, and `length` says why."""
    begun = answered(text, finish="length")
    if (choice == "required") != ("name" in text) and len(text) > 2:
        with pytest.raises(Invalid):  # it could not have become that call
            interpreted(chat(WEATHER, choice=choice), begun)
    else:
        assert interpreted(chat(WEATHER, choice=choice), begun) == begun


def test_a_forced_call_that_is_whole_is_a_call_whatever_ended_it() -> None:
    """The last token that was allowed may have been its last."""
    completion = interpreted(chat(WEATHER, choice="weather"), answered('{"town": "Tywyn"}', finish="length"))
    assert called(completion) == [("weather", {"town": "Tywyn"})]
    assert completion.finish == "tool_calls"


def test_an_offered_call_that_was_cut_short_is_content() -> None:
    """Also where a whole one stands before it."""
    text = f"<tool_call>{written('clock')}</tool_call><tool_call>{written('clock')[:-3]}"
    completion = answered(text, finish="length")
    assert interpreted(chat(CLOCK), completion) is completion


@given(st.text() | st.text('{}[]",:`<>/_toolcanme ', max_size=60))
def test_no_text_of_a_model_is_an_exception(text: str) -> None:
    """Whatever a model writes to an offer is content or a valid call."""
    completion = interpreted(chat(WEATHER, CLOCK), answered(text))
    assert completion.tool_calls or completion.content == text


# What must be held back while it streams


@pytest.mark.parametrize("text", [written("clock"), f"<tool_call>{written('clock')}</tool_call>", "```json\n{}"])
def test_every_beginning_of_a_call_is_held_back(text: str) -> None:
    """From the first character to the last, with or without space before it: nothing of a call is shown as text."""
    for length in range(len(text) + 1):
        assert tools.could_be_call(text[:length])
        assert tools.could_be_call("\n " + text[:length])


@pytest.mark.parametrize("text", ["I", "<b", "<tool_x", "`a", "``x", "[", "0", "a{"])
def test_what_cannot_become_a_call_is_shown_at_once(text: str) -> None:
    """An ordinary answer is not delayed."""
    assert not tools.could_be_call(text)


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_was_shown_is_never_taken_back(text: str, more: str) -> None:
    """Once a beginning cannot be a call, no continuation makes it one."""
    if not tools.could_be_call(text):
        assert not tools.could_be_call(text + more)


# What a client may offer


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "objekt"},
        {"type": 7},
        {"properties": []},
        {"properties": {"a": {"pattern": "("}}},
        {"$ref": "#/nowhere"},
        {"required": "town"},
        {"type": "string"},
        {"minimum": "1"},
    ],
    ids=str,
)
def test_a_tool_needs_a_json_schema(parameters: dict[str, Any]) -> None:
    """Refused before any work is done, and its place in the request is named."""
    with pytest.raises(Invalid) as caught:
        checked(chat(WEATHER, Tool("broken", "", parameters)))
    assert caught.value.param == "tools[1].function.parameters"


def test_a_schema_nested_without_end_is_refused() -> None:
    """Depth is bounded before anything recurses over it."""
    schema: dict[str, Any] = {}
    for _ in range(900):
        schema = {"properties": {"a": schema}}
    with pytest.raises(Invalid):
        checked(chat(Tool("deep", "", schema)))


@pytest.mark.parametrize("choice", ["lottery", "Weather", ""])
def test_a_choice_must_name_a_tool(choice: str) -> None:
    """A name that is not offered is the client's mistake, not "auto"."""
    with pytest.raises(Invalid) as caught:
        checked(chat(WEATHER, choice=choice))
    assert caught.value.param == "tool_choice"


def test_a_call_cannot_be_required_of_no_tools() -> None:
    """There would be nothing to call."""
    with pytest.raises(Invalid) as caught:
        checked(chat(choice="required"))
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_no_tools_and_no_demand_is_fine(choice: str) -> None:
    """An empty list of tools is what many clients send."""
    checked(chat(choice=choice))


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$schema"])
def test_a_schema_makes_the_gateway_fetch_nothing(keyword: str) -> None:
    """A reference to another document is never followed: a listener on loopback hears nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        heard: list[Any] = []

        def listen() -> None:
            try:
                heard.append(listener.accept())
            except TimeoutError:
                return

        thread = threading.Thread(target=listen)
        thread.start()
        refused: Invalid | None = None
        offered = Tool("spy", "", {keyword: f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"})
        try:
            checked(chat(offered))
            interpreted(chat(offered), answered(written("spy")))
        except Invalid as error:
            refused = error
        thread.join()
    assert not heard
    assert refused is not None or keyword == "$schema"


def test_a_schema_reads_no_file() -> None:
    """Nor is one on this machine looked up."""
    with pytest.raises(Invalid):
        checked(chat(Tool("spy", "", {"$ref": "file:///etc/hostname"})))
