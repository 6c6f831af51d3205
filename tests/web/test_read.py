"""From OpenAI's words to ours: what is understood is kept exactly; the rest is Invalid, and its place is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.requests import Chat, Embed, Sampling, Tool
from allod.web.openai.read import MAX_SEED, ChatCall, read_chat, read_embed

QUESTION = {"role": "user", "content": "Why?"}
FUNCTION = {"name": "f", "description": "does f", "parameters": {"type": "object"}}
ARGUMENTS = {"name": "f", "arguments": "{}"}
CALLED = {"id": "call_1", "type": "function", "function": ARGUMENTS}


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [QUESTION], "seed": 1, **changes}).encode()


def read(**changes: Any) -> ChatCall:
    return read_chat(body(**changes))


def refused(data: bytes, reader: Callable[[bytes], object] = read_chat) -> Invalid:
    with pytest.raises(Invalid) as caught:
        reader(data)
    return caught.value


def test_the_smallest_call_has_defaults() -> None:
    """One message and a model: not streamed, no tools, any text."""
    assert read() == ChatCall(Chat("m", (QUESTION,), Sampling(seed=1)), stream=False, include_usage=False)


def test_everything_that_is_said_is_kept() -> None:
    """Each field of the dialect that changes the answer arrives in the value that the engine gets."""
    call = read(
        temperature=0,
        top_p=0.5,
        seed=42,
        max_completion_tokens=7,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}},
    )
    assert call.task.sampling == Sampling(seed=42, temperature=0, top_p=0.5, max_tokens=7, stop=("a", "b"))
    assert call.task.schema == {"type": "array"}
    assert call.task.top_logprobs == 3
    assert (call.stream, call.include_usage) == (True, True)


@pytest.mark.parametrize("value", [0, 0.0, 1])
def test_both_ends_of_top_p_are_accepted(value: float) -> None:
    """0 keeps the likeliest token alone, and clients send it."""
    assert read(top_p=value).task.sampling.top_p == value


def test_null_means_not_said() -> None:
    """Clients send null for whatever their caller left out."""
    names = "stream stream_options temperature top_p max_tokens stop response_format logprobs top_logprobs tools"
    assert read(**dict.fromkeys(names.split())) == read()
    assert read(**dict.fromkeys(["tool_choice", "n", "logit_bias", "user", "metadata", "store"])) == read()


def test_a_seed_is_made_where_none_is_given() -> None:
    """Every receipt can record one, and two calls do not share it."""
    seeds = {read(seed=None).task.sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_becomes_one_that_the_engine_keeps(seed: int) -> None:
    """Within 32 bits, never the engine's "choose at random", and the same for the same."""
    found = read(seed=seed).task.sampling.seed
    assert 0 <= found <= MAX_SEED
    assert found == read(seed=seed).task.sampling.seed
    assert found == seed or not 0 <= seed <= MAX_SEED


def test_content_in_parts_is_one_text() -> None:
    """Text parts are joined without anything between them."""
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    assert read(messages=[{"role": "user", "content": parts}]).task.messages == (QUESTION,)


def test_a_developer_is_the_system() -> None:
    """OpenAI's newer word for the same role."""
    assert read(messages=[{"role": "developer", "content": "x"}]).task.messages[0]["role"] == "system"


def test_earlier_calls_keep_name_and_arguments() -> None:
    """What was called and what came back is part of the conversation."""
    called = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ]
    first, second = read(messages=messages).task.messages
    assert first["tool_calls"] == [{"function": {"name": "f", "arguments": '{"a":1}'}}]
    assert second == {"role": "tool", "content": "2"}


@pytest.mark.parametrize(
    ("given_choice", "choice"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "f"}}, "f"),
    ],
)
def test_the_choice_of_tools(given_choice: Any, choice: str) -> None:
    """Tools without a choice are offered; a named choice is the tool's name."""
    chat = read(tools=[{"type": "function", "function": FUNCTION}], tool_choice=given_choice).task
    assert chat.tools == (Tool("f", "does f", {"type": "object"}),)
    assert chat.tool_choice == choice


@pytest.mark.parametrize("name", ["auto", "none", "required"])
def test_a_tool_cannot_be_called_like_a_choice(name: str) -> None:
    """Choosing it by name and choosing freely would look the same."""
    tool = {"type": "function", "function": {**FUNCTION, "name": name}}
    error = refused(body(tools=[tool], tool_choice={"type": "function", "function": {"name": name}}))
    assert (error.code, error.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize(("said", "kept"), [(None, True), (True, True), (False, False)])
def test_many_calls_at_once_unless_said_otherwise(said: bool | None, kept: bool) -> None:
    """Only `false` asks for one call at most."""
    tool = {"type": "function", "function": FUNCTION}
    assert read(tools=[tool], parallel_tool_calls=said).task.parallel_tool_calls is kept


def test_without_tools_none_is_chosen() -> None:
    """An empty list is no offer."""
    assert read(tools=[]).task.tool_choice == "none"


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [(None, None), ({"type": "text"}, None), ({"type": "json_object"}, {})],
)
def test_kinds_of_answers(response_format: Any, schema: Any) -> None:
    """Any text, any JSON object."""
    assert read(response_format=response_format).task.schema == schema


@pytest.mark.parametrize(
    "field", [{"user": "u"}, {"safety_identifier": "s"}, {"metadata": {"a": "b"}}, {"store": False}, {"n": 1}]
)
def test_what_changes_nothing_is_accepted(field: dict[str, Any]) -> None:
    """Clients send these; the answer does not depend on them."""
    assert read(**field) == read()


@pytest.mark.parametrize(
    "field",
    [
        {"stop": ["x" * 256] * 4},
        {"stop": "x" * 256},
        {"metadata": {f"{number:064}": "x" * 512 for number in range(16)}},
        {"messages": [{"role": "assistant", "tool_calls": [CALLED] * 128}]},
    ],
    ids=lambda field: next(iter(field)),
)
def test_the_longest_lists_are_read(field: dict[str, Any]) -> None:
    """As many and as long as OpenAI's description allows, where it says so."""
    read(**field)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ],
)
def test_what_is_not_supported_is_refused(field: dict[str, Any], param: str) -> None:
    """It would change the answer, so it is not ignored."""
    error = refused(body(**field))
    assert (error.code, error.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [QUESTION, {"role": "king", "content": "x"}]}, "messages[1].role"),
        ({"messages": [QUESTION, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [QUESTION, {"role": "assistant", "content": None}]}, "messages[1].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{**QUESTION, "extra": 1}]}, "messages[0].extra"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": True}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": ["a", "x" * 257]}, "stop[1]"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALLED] * 129}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALLED, "function": {**ARGUMENTS, "name": "a b"}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "x" * 65}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f\n"}}]}, "tools[0].function.name"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {"a": "x" * 513}}, "metadata[...]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], param: str) -> None:
    """`param` is the path of the field; a developer must not have to guess."""
    error = refused(body(**changes))
    assert error.param == param
    assert "`$" not in error.message


@pytest.mark.parametrize("field", ["temprature", "best_of", "prompt"])
def test_an_unknown_field_is_refused_by_name(field: str) -> None:
    """A misspelt setting that is ignored changes the answer without a word."""
    assert f"`{field}`" in refused(body(**{field: 1})).message


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_what_is_missing_is_named(missing: str) -> None:
    """The two fields that every call needs."""
    call = {"model": "m", "messages": [QUESTION]}
    del call[missing]
    assert f"`{missing}`" in refused(json.dumps(call).encode()).message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"model": NaN}',
        b'{"temperature": Infinity}',
        b'{"seed": 01}',
        b"{'model': 1}",
        b"\xef\xbb\xbf{}",
        body() + b"{}",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_json_says_so(data: bytes) -> None:
    """Other encodings, lone surrogates, words that are not numbers, more than one value."""
    for reader in (read_chat, read_embed):
        assert refused(data, reader).code in ("invalid_json", "invalid")
    assert refused(data).code == "invalid_json"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("depth", [2_000, 500_000])
def test_nesting_without_end_is_refused(opening: bytes, depth: int) -> None:
    """In the one place that takes any JSON, and at the top; closed or not, the parser's stack is its own concern."""
    closing = opening.replace(b'{"a":', b"}").replace(b"[", b"]")[::-1]
    for nested in (opening * depth, opening * depth + b"1" + closing * depth):
        tool = body(tools=[{"type": "function", "function": {**FUNCTION, "parameters": {"x": "HERE"}}}])
        assert refused(tool.replace(b'"HERE"', nested)).code == "invalid_json"
        assert refused(nested).code in ("invalid_json", "invalid")


@pytest.mark.parametrize("data", [b"null", b"[]", b'"text"', b"7", b"true"])
def test_a_body_is_an_object(data: bytes) -> None:
    """Other JSON is JSON, and no call."""
    assert refused(data).code == "invalid"


def test_numbers_without_end_are_refused() -> None:
    """An integer of ten thousand digits, an exponent beyond a double."""
    for number in (b"9" * 10_000, b"1e999", b"-1e999"):
        for name in (b"seed", b"temperature", b"max_tokens"):
            assert refused(body()[:-1] + b',"' + name + b'":' + number + b"}").param in (name.decode(), None)


any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "seed", "max_tokens",
    "max_completion_tokens", "stop", "response_format", "logprobs", "top_logprobs", "tools", "tool_choice", "n",
    "logit_bias", "metadata", "input", "encoding_format", "dimensions",
]  # fmt: skip


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), any_json, max_size=6))
def test_no_json_is_an_exception(changes: dict[str, Any]) -> None:
    """Known fields with values of every shape: a call, or Invalid."""
    for reader in (read_chat, read_embed):
        with suppress(Invalid):
            reader(body(**changes))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.data())
def test_no_bytes_are_an_exception(data: bytes, draw: st.DataObject) -> None:
    """Noise, and a good body with noise in it."""
    good = body(tools=[{"type": "function", "function": FUNCTION}], stop=["a"], stream=True)
    at = draw.draw(st.integers(0, len(good)))
    for mixed in (data, good[:at] + data + good[at:], good[:at] + data + good[at + len(data) :]):
        for reader in (read_chat, read_embed):
            with suppress(Invalid):
                reader(mixed)


# Embeddings


def embedding(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "input": "a cat", **changes}).encode()


def test_one_text_or_many() -> None:
    """A single text is a list of one."""
    assert read_embed(embedding()).task == Embed("m", ("a cat",))
    assert read_embed(embedding(input=["a", "b"])).task == Embed("m", ("a", "b"))


def test_vectors_come_as_numbers_unless_asked_otherwise() -> None:
    """base64 is what OpenAI's own client asks for."""
    assert not read_embed(embedding()).base64
    assert read_embed(embedding(encoding_format="base64")).base64


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input[0]"),
        ({"input": [[1, 2]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 64}, "dimensions"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_embeddings_that_are_wrong_are_named(changes: dict[str, Any], param: str) -> None:
    """Token numbers, which another tokenizer made, are refused like other mistakes."""
    error = refused(embedding(**changes), read_embed)
    assert error.param is not None
    assert error.param.replace("[...]", "[0]") == param
