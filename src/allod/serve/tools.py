"""Tool calls done right: forced ones are enforced by a schema, offered ones are found in the text, all are validated.

Engines accept `tool_choice` and do not keep it: llama.cpp does not enforce a forced call (ggml-org/llama.cpp#27217),
vLLM forces the name and not the arguments. So tools are described in the prompt (the form that Qwen and Hermes models
were trained on), a forced choice becomes the tool's JSON Schema, and the answer is wrapped up as a call again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Chat, Completion, Json, Tool, ToolCall
from allod.engine.schemas.grammar import call_schema
from allod.engine.schemas.refusal import refusal
from allod.serve.schemas.json_text import json_value
from allod.serve.schemas.judge import SchemaQuestion, Verdict
from allod.serve.schemas.size import check_size

Judged = Callable[[Json, str, bool], Awaitable[Verdict]]  # a schema, a text, whether the engine was held to the schema

MAX_CALLS = 128  # of one answer; each is held to its schema
MAX_CALL_CHARS = 128 << 10  # of an answer that is searched for calls: a longer one is text
EVENED_CHARS = 64 << 10  # of all earlier calls' arguments; beyond, they stay as they were written
_CALL_BEGINS = re.compile(r"<tool_call>\s*(?=\{)")
_CALL_ENDS = re.compile(r"\s*</tool_call>")
_FENCE = re.compile(r"\A```(?:json)?\s*(\{.*\})\s*```\Z", re.DOTALL)
_decoder = json.JSONDecoder()
_OPENINGS = ("{", "<tool_call>", "```")


async def check_tools(chat: Chat) -> None:
    """Raise Invalid for tools whose schemas are too large together, and for a choice that names no tool."""
    size = (0, 0)
    for index, tool in enumerate(chat.tools):
        param = _param_of(index)
        if tool.parameters.get("type", "object") != "object":
            raise refusal("type at #: the arguments of a tool are an object", param=param)
        size = await check_size(tool.parameters, param=param, num_before=size)
    if chat.tool_choice not in ("auto", "none", "required", *(tool.name for tool in chat.tools)):
        raise Invalid(f"tool_choice names {chat.tool_choice!r}, which is no tool here", param="tool_choice")
    if not chat.tools and chat.tool_choice not in ("auto", "none"):
        raise Invalid("tool_choice asks for a call and there are no tools", param="tool_choice")


def schemas_of(chat: Chat, prepared: Chat) -> list[SchemaQuestion]:
    """What is to be known good of the tools' schemas before a model is asked; those of forced calls as grammars."""
    asked = [
        SchemaQuestion(tool.parameters, _param_of(index), _is_grammar(chat, tool), is_arguments=True)
        for index, tool in enumerate(chat.tools)
    ]
    if is_forced(chat) and chat.tool_choice == "required" and prepared.schema is not None:
        asked.append(SchemaQuestion(prepared.schema, "tools", is_grammar=True))
    return asked


def _is_grammar(chat: Chat, tool: Tool) -> bool:
    return is_forced(chat) and chat.tool_choice in ("required", tool.name)


def _param_of(index: int) -> str:
    return f"tools[{index}].function.parameters"


def _param_of_choice(chat: Chat) -> str:
    return next((_param_of(index) for index, tool in enumerate(chat.tools) if tool.name == chat.tool_choice), "tools")


def offers_tools(chat: Chat) -> bool:
    """Whether the answer may be a call."""
    return bool(chat.tools) and chat.tool_choice != "none"


def is_forced(chat: Chat) -> bool:
    """Whether the answer must be a call."""
    return offers_tools(chat) and chat.tool_choice != "auto"


def prepare(chat: Chat) -> Chat:
    """The chat that an engine without tools answers in the same sense."""
    if not chat.tools and all(_is_plain(message) for message in chat.messages):
        return chat
    num_chars = sum(len(call["function"]["arguments"]) for message in chat.messages for call in _calls_in(message))
    messages = [_flat(message, is_evened=num_chars <= EVENED_CHARS) for message in chat.messages]
    if offers_tools(chat):
        messages = _with_instructions(messages, _instructions(chat))
    schema = _schema_of_choice(chat) if is_forced(chat) else chat.schema
    return replace(chat, messages=tuple(messages), schema=schema, tools=(), tool_choice="none")


def _is_plain(message: Json) -> bool:
    return message["role"] != "tool" and "tool_calls" not in message


def could_be_call(text: str) -> bool:
    """Whether text that begins like this may turn out to be a call, so that it must not be streamed yet."""
    start = text.lstrip()
    return any(start.startswith(opening) or opening.startswith(start) for opening in _OPENINGS)


async def interpret(chat: Chat, completion: Completion, *, schema: Json | None, judged: Judged) -> Completion:
    """The engine's text as what the client asked for: calls where it holds calls, otherwise unchanged.

    `schema` is the one that the engine was held to.
    """
    if is_forced(chat):
        return await _read_forced(chat, completion, schema or {}, judged)
    if not offers_tools(chat):
        return completion
    calls = await _find_calls(chat.tools, completion.content or "", judged)
    if not chat.parallel_tool_calls:
        calls = calls[:1]
    return replace(completion, content=None, tool_calls=calls, finish="tool_calls") if calls else completion


async def _read_forced(chat: Chat, completion: Completion, schema: Json, judged: Judged) -> Completion:
    """The call that was asked for. What was cut short is none: nobody may act on half of the arguments."""
    text = completion.content or ""
    verdict = await judged(schema, text, True)
    if is_broken(verdict, completion):
        message = "the model's call does not satisfy the tool's schema"
        raise not_kept(verdict, chat, message, code="tool_call_invalid", param=_param_of_choice(chat))
    if verdict != "kept":
        return completion
    call = ToolCall(chat.tool_choice, text) if chat.tool_choice != "required" else _call_of(_object(text))
    if call is None:
        raise Unavailable("the model's call is none", code="tool_call_invalid", is_recorded=True)
    return replace(completion, content=None, tool_calls=(call,), finish="tool_calls")


def is_broken(verdict: Verdict, completion: Completion) -> bool:
    """Whether an answer breaks its schema; what was cut short is only held to what it could still become."""
    return verdict != "kept" and (completion.finish != "length" or verdict == "not enforced")


def not_kept(verdict: Verdict, chat: Chat, message: str, *, code: str, param: str) -> AllodError:
    """The error for an answer that breaks its schema, which says whether asking again can help.

    `param` is where the schema stands. Only what the grammar lets pass is left to chance: an answer that ends early
    with no stop sequence in it, too, is one that the engine has not held to it.
    """
    if verdict == "cut" and chat.sampling.stop:
        hint = "a stop sequence ended it: asking again does not help"
        return Invalid(message, code=code, param="stop", hint=hint, is_recorded=True)
    if verdict != "broken":
        reason = "checking it takes too long" if verdict == "too dear" else "the engine gave up holding to it"
        hint = "asking again does not help; make the schema simpler"
        return Invalid(f"{message}: {reason}", code=code, param=param, hint=hint, is_recorded=True)
    if chat.sampling.temperature == 0:
        hint = "asking again does not help at temperature 0"
        return Invalid(message, code=code, param=param, hint=hint, is_recorded=True)
    return Unavailable(message, code=code, hint="ask again", is_recorded=True)


async def _find_calls(tools: tuple[Tool, ...], text: str, judged: Judged) -> tuple[ToolCall, ...]:
    """Every call in the text; none unless all of them are valid."""
    if len(text) > MAX_CALL_CHARS:
        return ()
    stripped = text.strip()
    fenced = _FENCE.match(stripped)
    texts = _split_tagged(stripped) or [fenced.group(1) if fenced else stripped]
    if len(texts) > MAX_CALLS:
        return ()
    calls = []
    for item in texts:
        call = _call_of(_object(item))
        tool = next((tool for tool in tools if call is not None and tool.name == call.name), None)
        if call is None or tool is None or await judged(tool.parameters, call.arguments, False) != "kept":
            return ()
        calls.append(call)
    return tuple(calls)


def _split_tagged(text: str) -> list[str]:
    """What stands in <tool_call> tags, found in one pass: a call ends where its JSON ends."""
    found, at = [], 0
    while begin := _CALL_BEGINS.search(text, at):
        try:
            _, at = _decoder.raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            return []
        if _CALL_ENDS.match(text, at) is None:
            return []
        found.append(text[begin.end() : at])
    return found


def _object(text: str) -> Mapping[str, Any] | None:
    value = json_value(text)
    return value if isinstance(value, dict) else None


def _call_of(value: Mapping[str, Any] | None) -> ToolCall | None:
    if value is None or not isinstance(value.get("name"), str) or not isinstance(value.get("arguments"), dict):
        return None
    return ToolCall(value["name"], json.dumps(value["arguments"], ensure_ascii=False))


def _schema_of_choice(chat: Chat) -> Json:
    """The arguments of the named tool, or a call of any of the tools."""
    for tool in chat.tools:
        if tool.name == chat.tool_choice:
            return _arguments(tool)
    return {
        "anyOf": [
            call_schema(tool.name, _arguments(tool), at=f"#/anyOf/{index}") for index, tool in enumerate(chat.tools)
        ]
    }


def _arguments(tool: Tool) -> Json:
    """Its parameters, which are an object whether they say so or not."""
    return {"type": "object", **tool.parameters}


def _instructions(chat: Chat) -> str:
    signatures = "\n".join(
        json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters})
        for tool in chat.tools
    )
    if chat.tool_choice in ("auto", "required"):
        how = (
            "To call a function, answer only with a JSON object within <tool_call></tool_call> tags:\n"
            '<tool_call>\n{"name": <function name>, "arguments": <arguments as a JSON object>}\n</tool_call>'
        )
        if chat.tool_choice == "required":
            how = 'Answer only with a JSON object {"name": <function name>, "arguments": <arguments as a JSON object>}.'
    else:
        how = f"Answer only with the arguments of {chat.tool_choice}, as a JSON object."
    return f"# Tools\n\nThese functions may be called:\n<tools>\n{signatures}\n</tools>\n\n{how}"


def _with_instructions(messages: list[Json], instructions: str) -> list[Json]:
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{instructions}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _calls_in(message: Json) -> Sequence[Json]:
    return message.get("tool_calls") or ()


def _flat(message: Json, *, is_evened: bool) -> Json:
    """Earlier calls and their results as text, for templates that know neither."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = _calls_in(message)
    if not calls:
        return {"role": message["role"], "content": message["content"]}
    texts = [message["content"]] if message.get("content") else []
    for call in calls:
        name = json.dumps(call["function"]["name"], ensure_ascii=False)
        arguments = _arguments_of(call["function"]["arguments"], is_evened=is_evened)
        texts.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return {"role": message["role"], "content": "\n".join(texts)}


def _arguments_of(text: str, *, is_evened: bool) -> str:
    """The JSON object in `text`, written as models write JSON; an empty one where it is none."""
    if is_evened:
        return json.dumps(_object(text) or {}, ensure_ascii=False)
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])  # looks at it and makes nothing of it: 3 ms a MB
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "{}"
    return text
