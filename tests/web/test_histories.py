"""What real clients send back is read: fields that say nothing pass, others are refused by their name."""

from __future__ import annotations

import asyncio
import json
import typing
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import embedding_create_params
from openai.types.chat import completion_create_params as params
from tests.conftest import Gateway
from tests.hostile import histories
from tests.web.test_asgi import Wire

from allod.core.errors import Invalid
from allod.engine.giving_way import LONG_BYTES
from allod.web.http import bodies
from allod.web.http.bodies import BYTES_AT_ONCE, MAX_DEPTH, MAX_NUMBER, MAX_PARTS, check_keys
from allod.web.openai import wire, write
from allod.web.openai.read import read_chat, read_embed

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
REFUSAL = {"type": "refusal", "refusal": "no"}
TOOL = {"type": "function", "function": {"name": "f", "description": "does f", "parameters": SCHEMA}}


def encoded(body: dict[str, Any] | bytes) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def code_of(data: bytes) -> tuple[str, str | None]:
    try:
        asyncio.run(check_keys(data))
        read_chat(data)
    except Invalid as error:
        return ("invalid" if error.code == "invalid_json" else error.code), error.param
    return "ok", None


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_what_stands_in_one_another(opening: bytes, closing: bytes) -> None:
    """Five hundred, and no more; side by side there may be thousands."""
    body = b"[%s]"
    deep = opening * (MAX_DEPTH - 1) + b"1" + closing * (MAX_DEPTH - 1)
    asyncio.run(check_keys(body % deep))
    asyncio.run(check_keys(body % b",".join([opening + b"1" + closing] * 9_000)))
    with pytest.raises(Invalid, match="in one another") as refused:
        asyncio.run(check_keys(body % (opening + deep + closing)))
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("part", [b'"a"', b"[]", b"{}"])
def test_parts_are_counted_once(part: bytes) -> None:
    """The list around them is one, too."""
    asyncio.run(check_keys(b"[" + b",".join([part] * (MAX_PARTS - 1)) + b"]"))
    with pytest.raises(Invalid) as refused:
        asyncio.run(check_keys(b"[" + b",".join([part] * MAX_PARTS) + b"]"))
    assert refused.value.code == "body_too_large"


@pytest.mark.parametrize(
    ("body", "expected"), [case[1:] for case in histories.CASES], ids=[c[0] for c in histories.CASES]
)
def test_bodies_are_read_or_refused_as_they_should(body: dict[str, Any] | bytes, expected: str) -> None:
    """One by one."""
    assert code_of(encoded(body))[0] == expected


@pytest.mark.parametrize("place", histories.FIELDS)
def test_what_is_refused_is_named_in_param(place: str) -> None:
    """With its place, so that nobody has to guess."""
    for field, (_, refused) in histories.FIELDS[place].items():
        for value in refused:
            param = code_of(encoded(histories.chat(place, field, value)))[1] or ""
            assert param.startswith(f"{histories.PATHS[place]}{field}"), (place, field, value)


def _neutral(place: str) -> str:
    """A field of that place whose null is known to say nothing."""
    return {"body": "user", "question": "name", "answer": "name"}.get(place, "cache_control")


UNSUPPORTED = {name for fields in wire.WITHOUT_EFFECT.values() for name in fields}


@pytest.mark.parametrize("place", [place for place, fields in histories.FIELDS.items() if UNSUPPORTED & fields.keys()])
def test_what_says_nothing_changes_nothing(place: str) -> None:
    """Null, empty and the documented default of what is not supported all make the same call."""
    plain = read_chat(encoded({**histories.chat(place, _neutral(place), None), "seed": 1}))
    for field in UNSUPPORTED & histories.FIELDS[place].keys():
        for value in histories.FIELDS[place][field][0]:
            made = read_chat(encoded({**histories.chat(place, field, value), "seed": 1}))
            assert made == plain, (field, value)


def test_the_table_has_every_field_that_the_client_knows() -> None:
    """A new release of the client that has more makes this red."""
    published = set(typing.get_type_hints(params.CompletionCreateParamsNonStreaming))
    assert published - {"model", "messages"} == histories.FIELDS["body"].keys() - {"cache_salt", "cache_control"}
    embedding = set(typing.get_type_hints(embedding_create_params.EmbeddingCreateParams))
    assert embedding == {"input", "model", "dimensions", "encoding_format", "user"}


@pytest.mark.parametrize("field", ["dimensions", "encoding_format", "user", "cache_control"])
def test_embeddings_take_null(field: str) -> None:
    """As if it were not said."""
    plain = {"model": "echo", "input": "a"}
    assert read_embed(encoded({**plain, field: None})) == read_embed(encoded(plain))


def test_a_refusal_is_what_the_assistant_said() -> None:
    """As a field without content, and as a part."""
    for said in ({"content": None, "refusal": "no"}, {"content": [{"type": "refusal", "refusal": "no"}]}):
        body = {"model": "echo", "messages": [histories.QUESTION, {"role": "assistant", **said}]}
        assert read_chat(encoded(body)).task.messages[1] == {"role": "assistant", "content": "no"}


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_nobody_else_refuses(role: str) -> None:
    """A part of that kind is named where another's message has it."""
    message = {"role": role, "tool_call_id": "c" if role == "tool" else "", "content": [REFUSAL]}
    assert code_of(encoded({"model": "echo", "messages": [message]})) == ("invalid", "messages[0].content[0].refusal")


def test_a_null_that_nobody_knows_takes_nothing_else_away() -> None:
    """What is any JSON keeps its nulls, what must be said must be said, and another unknown field is named."""
    schema = {"type": "object", "properties": {"a": {"const": None}}, "default": None}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "extra": None}}
    body = histories.chat("body", "response_format", wanted)
    assert read_chat(encoded(body)).task.schema == schema
    assert code_of(encoded({**body, "model": None, "extra": None})) == ("invalid", "model")
    assert code_of(encoded({**body, "extra": None, "other": 0})) == ("invalid", "other")


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"b": {"a": 1}}, "b"),
        ({"b.a": 1}, '["b.a"]'),
        ({"messages[0]": 1}, '["messages[0]"]'),
        ({"a\nb": 1}, r'["a\nb"]'),
        ({"": 1}, '[""]'),
        ({"na\u00efve": 1}, r'["na\u00efve"]'),
        ({"stream_options": {"a": 1}}, "stream_options.a"),
        ({"stream_options.a": 1}, '["stream_options.a"]'),
        ({"messages": [{"role": "user", "content": "", 'a"]': 1}]}, r'messages[0]["a\"]"]'),
        ({"messages": [{"role": "user", "content": "", "a` - at `b": 1}]}, 'messages[0]["a` - at `b"]'),
        ({"metadata": {"x" * 65: "a"}}, "metadata"),
    ],
    ids=ascii,
)
def test_a_field_is_told_from_others_by_its_place(extra: dict[str, Any], param: str) -> None:
    """Whatever it is called: what is no plain name is quoted."""
    assert code_of(encoded({**histories.chat("body", "model", "echo"), **extra})) == ("invalid", param)


def test_a_null_of_any_name_passes() -> None:
    """Nobody knows it, and it says nothing."""
    assert read_chat(encoded(histories.chat("body", "a\n` - at `b", None)))


def test_a_repeated_key_is_named() -> None:
    """By the keys above it."""
    repeated = (
        (b'{"a":1,"a":2}', "a"),
        (b'{"m":[{"b":{"c":1,"d":{},"c":2}}]}', "m.b.c"),
        (b'{"m.b":{"c d":1,"c\\u0020d":2}}', '["m.b"]["c d"]'),
    )
    for data, param in repeated:
        with pytest.raises(Invalid) as caught:
            asyncio.run(check_keys(data))
        assert (caught.value.code, caught.value.param) == ("repeated_key", param)


@pytest.mark.parametrize("before", [0, BYTES_AT_ONCE - 50, BYTES_AT_ONCE + 7])
def test_a_long_number_is_refused_and_a_long_text_of_digits_is_none(before: int) -> None:
    """Python takes a time for an integer that grows with the square of its digits. Wherever the number is."""
    lead = b'{"b":"' + b"x" * LONG_BYTES + b'",' + b" " * before
    for number in (b"9" * MAX_NUMBER, b'"%b"' % (b"9" * 5000), b"[%b]" % b",".join([b"9" * MAX_NUMBER] * 3)):
        asyncio.run(check_keys(lead + b'"a":' + number + b"}"))
    for number in (b"9" * 2 * MAX_NUMBER, b"[1,-" + b"9" * 2 * MAX_NUMBER + b"]"):
        with pytest.raises(Invalid) as caught:
            asyncio.run(check_keys(lead + b'"a":' + number + b"}"))
        assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 8192, 20_000])
def test_keys_are_found_after_strings_of_any_length(length: int) -> None:
    """A string is looked at in pieces; none of them ends it early."""
    for text in ("\\n" * length, '\\"' * length, "{" * length, "\\\\" * length):
        asyncio.run(check_keys(b'{"a":"' + text.encode() + b'","b":{"a":1}}'))
        with pytest.raises(Invalid):
            asyncio.run(check_keys(b'{"a":"' + text.encode() + b'","b":1,"a":2}'))


async def test_others_have_their_turn_while_a_body_is_looked_at() -> None:
    """Once for so many parts."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await check_keys(b"[" + b"{}," * 10 * bodies.PARTS_A_TURN + b"{}]")
    counting.cancel()
    assert turns >= 19


# The real client


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("choice", ["none", "required"])
def test_an_answer_goes_back_as_it_came(client: openai.OpenAI, is_streamed: bool, choice: Any) -> None:
    """`messages.append(message.model_dump())`, whole and accumulated, text and call."""
    messages: list[Any] = [{"role": "user", "content": "Why?"}]
    asked = {"model": "echo", "tools": [TOOL], "tool_choice": choice}
    if is_streamed:
        with client.chat.completions.stream(messages=messages, **asked) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = client.chat.completions.create(messages=messages, **asked)
    assert isinstance(answer.system_fingerprint, str)
    message = answer.choices[0].message
    messages.append(message.model_dump())
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls or ()]
    messages.append({"role": "user", "content": "And then?"})
    assert client.chat.completions.create(model="echo", messages=messages).choices[0].message.content


# HTTP


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/echo", "/v1/trust", "/healthz", "/nowhere"])
def test_head_has_the_head_of_get(gateway: Gateway, path: str) -> None:
    """The same status, type and length, and no body."""
    with Wire(gateway) as wire:
        got, head = (wire.ask(wire.head(method, path), method=method) for method in ("GET", "HEAD"))
        assert head.status == got.status
        assert head.body == b""
        for name in ("content-type", "content-length"):
            assert head.headers[name] == got.headers[name]


def test_head_of_what_is_only_posted_is_not_allowed(gateway: Gateway) -> None:
    """With the method that is."""
    with Wire(gateway) as wire:
        reply = wire.ask(wire.head("HEAD", "/v1/chat/completions"), method="HEAD")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip", "nonsense"])
def test_a_packed_body_is_told_so(gateway: Gateway, encoding: str) -> None:
    """415, whatever packs it."""
    with Wire(gateway) as wire:
        reply = wire.ask(wire.post(b"\x1f\x8b", f"content-encoding: {encoding}"))
        assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")
        assert reply.error["param"] == "content-encoding"


@pytest.mark.parametrize(
    ("shape", "letter"),
    [("{%s}", "k"), ("{%s}", "\\"), ("{%s}", "\U0001f600"), ('{"messages":[{"role":"user","content":"x",%s}]}', "k")],
    ids=ascii,
)
def test_a_long_key_is_not_said_back(shape: str, letter: str) -> None:
    """Its ends are, of an unknown one and of one that is repeated, in the message and in `param`."""
    key = json.dumps(letter * ((2 << 20) // len(letter.encode())), ensure_ascii=False)
    for wrong in (f"{key}:1", f"{key}:1,{key}:2", f'{key}:{{"a":1,"a":2}}'):
        data = (shape % wrong).encode()
        with pytest.raises(Invalid) as caught:
            asyncio.run(check_keys(data))
            read_chat(data)
        assert len(caught.value.message) < 300
        assert caught.value.param
        assert len(write.error(caught.value)) < (1024 if letter == "k" else 2048)


@pytest.mark.parametrize("word", ["unknown field `", " - at `$.a", " - at `key` in `$."])
def test_a_value_that_speaks_as_an_error_does_is_told_in_a_time_that_grows_as_it_does(word: str) -> None:
    """Looked for at each place where it might begin, its end would be sought a hundred thousand times: for hours."""
    message = {"role": word * 100_000, "content": "x"}
    with pytest.raises(Invalid, match="Invalid enum value") as caught:
        read_chat(json.dumps({"model": "m", "messages": [message]}).encode())
    assert caught.value.param == "messages[0].role"
    assert len(write.error(caught.value)) < 1024


def test_a_repeated_key_is_refused_over_http(gateway: Gateway) -> None:
    """400 with its name."""
    with Wire(gateway) as wire:
        reply = wire.ask(wire.post(b'{"model":"echo","messages":[],"model":"other"}'))
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "repeated_key", "model")
