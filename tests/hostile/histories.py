"""Bodies as clients send them: (name, body of a chat as a value or as bytes, "ok" or the error's code).

`FIELDS` goes through the request that OpenAI's client publishes: for each optional field, by its place, values that ask
for nothing and pass, and values that are refused by name because they ask for what is not done here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Case = tuple[str, dict[str, Any] | bytes, str]
EPHEMERAL = {"type": "ephemeral"}
QUESTION = {"role": "user", "content": "Why?"}
FUNCTION = {"name": "f", "description": "does f", "parameters": {"type": "object"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"name": "n", "schema": {"type": "object"}}

# place → field → (values that pass, values that are refused)
FIELDS: dict[str, dict[str, tuple[list[Any], list[Any]]]] = {
    "body": {
        "audio": ([None, {}, {"voice": None}], [{"voice": "ash", "format": "wav"}]),
        "frequency_penalty": ([None, 0, 0.0], [0.5]),
        "function_call": ([None, "none", "auto"], [{"name": "f"}]),
        "functions": ([None, []], [[FUNCTION]]),
        "logit_bias": ([None, {}], [{"50256": -100}]),
        "logprobs": ([None, False, True], ["yes"]),
        "max_completion_tokens": ([None, 5], [0]),
        "max_tokens": ([None, 5], [0]),
        "metadata": ([None, {}, {"a": "b"}], [{"a": 1}]),
        "modalities": ([None, [], ["text"]], [["text", "audio"], ["audio"]]),
        "moderation": ([None, {}], [{"model": "omni-moderation-latest"}]),
        "n": ([None, 1], [0, 2]),
        "parallel_tool_calls": ([None, True, False], ["no"]),
        "prediction": ([None, {}], [{"type": "content", "content": "x"}]),
        "presence_penalty": ([None, 0, 0.0], [-1]),
        "prompt_cache_key": ([None, ""], ["mine"]),
        "prompt_cache_options": ([None, {}, {"mode": "implicit"}], [{"mode": "explicit"}]),
        "prompt_cache_retention": ([None], ["24h"]),
        "reasoning_effort": ([None], ["high"]),
        "response_format": ([None, {"type": "text"}, {"type": "json_object"}], [7]),
        "safety_identifier": ([None, "", "s"], [7]),
        "seed": ([None, 0, -1], [1.5]),
        "service_tier": ([None, "auto", "default"], ["flex", "priority"]),
        "stop": ([None, [], ["a"], "a"], [""]),
        "store": ([None, False, True], ["yes"]),
        "stream": ([None, False], ["yes"]),
        "stream_options": ([None, {}, {"include_usage": None}, {"include_usage": False}], [{"include_usage": True}]),
        "temperature": ([None, 0, 1, 2], [3]),
        "tool_choice": ([None, "none", "auto"], ["always"]),
        "tools": ([None, []], [7]),
        "top_logprobs": ([None, 0], [3]),
        "top_p": ([None, 0, 1], [2]),
        "user": ([None, "", "u"], [7]),
        "verbosity": ([None, "medium"], ["low"]),
        "web_search_options": ([None, {}], [{"search_context_size": "low"}]),
        "cache_salt": ([None], ["mine"]),
        "cache_control": ([None], [EPHEMERAL]),
    },
    "question": {
        "name": ([None, "", "Ann"], [7]),
        "cache_control": ([None, {}, EPHEMERAL], [{"type": "ephemeral", "ttl": "1h"}]),
        "temperature": ([None], [1]),
        "tool_calls": ([None, []], [[CALL]]),
        "tool_call_id": ([None, ""], ["call_1"]),
        "refusal": ([None, ""], ["no"]),
        "annotations": ([None, []], [[{"type": "url_citation"}]]),
    },
    "part": {
        "cache_control": ([None, {}, EPHEMERAL, {**EPHEMERAL, "ttl": None}], [{"type": "ephemeral", "ttl": "1h"}]),
        "prompt_cache_breakpoint": ([None, {}], [{"mode": "explicit"}]),
        "extra": ([None], [1]),
    },
    "answer": {
        "annotations": ([None, []], [[{"type": "url_citation"}]]),
        "audio": ([None], [{"id": "audio_1"}]),
        "function_call": ([None], [{"name": "f", "arguments": "{}"}]),
        "name": ([None, "f"], [7]),
        "parsed": ([None, {"a": 1}], []),
        "refusal": ([None, ""], ["no"]),
        "tool_call_id": ([None], [7, "call_1"]),
        "tool_calls": ([None, []], [7]),
        "reasoning": ([None, ""], ["hm"]),
        "reasoning_content": ([None, ""], ["hm"]),
    },
    "call": {"index": ([None, 0, 3], ["a"]), "extra": ([None], [1])},
    "called": {"parsed_arguments": ([None, {}, {"a": 1}], []), "extra": ([None], [1])},
    "tool": {"cache_control": ([None, {}, EPHEMERAL], [{"type": "other"}]), "extra": ([None], [1])},
    "function": {
        "description": ([None, "", "x"], [7]),
        "parameters": ([None, {}, {"type": "object"}], [7]),
        "strict": ([None, False, True], ["yes"]),
        "extra": ([None], [1]),
    },
    "schema": {"description": ([None, "", "x"], [7]), "strict": ([None, False, True], ["yes"]), "extra": ([None], [1])},
    "format": {"extra": ([None], [1])},
    "choice": {"extra": ([None], [1])},
    "chosen": {"extra": ([None], [1])},
    "stream": {
        "include_usage": ([None, False], ["yes"]),
        "include_obfuscation": ([None, False, True], ["yes"]),
        "extra": ([None], [1]),
    },
}
PATHS = {
    "body": "",
    "question": "messages[0].",
    "part": "messages[0].content[0].",
    "answer": "messages[1].",
    "call": "messages[1].tool_calls[0].",
    "called": "messages[1].tool_calls[0].function.",
    "tool": "tools[0].",
    "function": "tools[0].function.",
    "schema": "response_format.json_schema.",
    "format": "response_format.",
    "choice": "tool_choice.",
    "chosen": "tool_choice.function.",
    "stream": "stream_options.",
}
"""Where each place is in a body: what `param` begins with."""


def chat(place: str = "", field: str = "", value: Any = None) -> dict[str, Any]:
    """A body with `value` in the field of that place."""
    said = {field: value} if place else {}

    def at(name: str) -> dict[str, Any]:
        return said if name == place else {}

    body: dict[str, Any] = {"model": "echo", "messages": [{**QUESTION, **at("question")}], "max_tokens": 4}
    if place == "part":
        body["messages"][0]["content"] = [{"type": "text", "text": "Why?", **said}]
    if place == "answer":
        body["messages"] += [{"role": "assistant", "content": "So.", **said}, QUESTION]
    if place in ("call", "called"):
        call = {**CALL, **at("call"), "function": {**CALL["function"], **at("called")}}  # type: ignore[dict-item]
        result = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
        body["messages"] += [{"role": "assistant", "content": None, "tool_calls": [call]}, result]
    if place in ("tool", "function"):
        body["tools"] = [{"type": "function", "function": {**FUNCTION, **at("function")}, **at("tool")}]
    if place == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {**SCHEMA, **said}}
    if place == "format":
        body["response_format"] = {"type": "json_object", **said}
    if place in ("choice", "chosen"):
        body["tools"] = [{"type": "function", "function": FUNCTION}]
        body["tool_choice"] = {"type": "function", "function": {"name": "f", **at("chosen")}, **at("choice")}
    if place == "stream":
        body["stream_options"] = said
    return {**body, **at("body")}


def _code(place: str, field: str, value: Any) -> str:
    """Of a value that is refused: unsupported where the field is known, and has no type of its own here."""
    known = {
        "body": "audio frequency_penalty function_call functions logit_bias modalities moderation n prediction "
        "presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort service_tier "
        "verbosity web_search_options",
        "question": "cache_control annotations",
        "part": "cache_control prompt_cache_breakpoint",
        "answer": "annotations audio function_call reasoning reasoning_content",
        "tool": "cache_control",
    }
    return "unsupported_parameter" if field in known.get(place, "").split() else "invalid"


def raw(text: str | bytes, at: bytes = b'"max_tokens": 4') -> bytes:
    """A body in which `text` stands in the place of `at`."""
    return json.dumps(chat()).encode().replace(at, text.encode() if isinstance(text, str) else text)


def _cases() -> Iterator[Case]:
    for place, fields in FIELDS.items():
        for field, (passing, refused) in fields.items():
            for value in passing:
                yield f"{place}.{field} = {json.dumps(value)}", chat(place, field, value), "ok"
            for value in refused:
                name = f"{place}.{field} = {json.dumps(value)}"
                yield name, chat(place, field, value), _code(place, field, value)
    twice = {
        "in the body": raw('"model": "other", "max_tokens": 4'),
        "in a message": raw('"content": "Why?", "content": "How?"', b'"content": "Why?"'),
        "behind an escape": raw('"content": "Why?", "cont\\u0065nt": "How?"', b'"content": "Why?"'),
        "in a schema": raw('"tools": [{"type":"function","function":{"name":"f","parameters":{"a":{"b":1,"b":2}}}}]'),
        "after a quoted quote": raw('"user": "a\\\\\\"{", "seed": 1, "seed" : 2'),
    }
    for name, body in twice.items():
        yield f"a key twice {name}", body, "repeated_key"
    no_json = {
        "a lone surrogate": raw('"user": "\\ud800"'),
        "NaN": raw('"temperature": NaN'),
        "Infinity": raw('"temperature": -Infinity'),
        "a number without end": raw('"temperature": 1e999'),
        "ten thousand digits": raw('"seed": ' + "9" * 10_000),
        "no UTF-8": raw(b'"user": "\xff"'),
        "UTF-16": json.dumps(chat()).encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + json.dumps(chat()).encode(),
        "nothing": b"",
        "two values": json.dumps(chat()).encode() * 2,
        "an open string": json.dumps(chat()).encode()[:-3] + b'"',
        "objects without end": b'{"a":' * 100_000,
        "lists without end": raw('"tools": ' + "[" * 50_000),
    }
    for name, body in no_json.items():
        yield f"no JSON: {name}", body, "invalid"
    yield "long integers", raw('"metadata": [' + ",".join(["9" * 4000] * 900) + "]"), "invalid"
    yield "numbers without end", raw('"metadata": [' + "1," * 1_900_000 + "1]"), "body_too_large"
    yield "parts without end", raw('"metadata": [' + "{}," * 250_000 + "{}]"), "body_too_large"
    yield "braces and escapes in strings", chat("question", "content", '{"a": {"a": "\\" {{{{ \\\\"}, "a": 1}'), "ok"


CASES: list[Case] = list(_cases())
