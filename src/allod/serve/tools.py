"""Tool calls done right: forced ones are enforced by a schema, offered ones are found in the text, all are validated.

Engines accept `tool_choice` and do not keep it: llama.cpp does not enforce a forced call (ggml-org/llama.cpp#27217),
vLLM forces the name and not the arguments. So tools are described in the prompt (the form that Qwen and Hermes models
were trained on), a forced choice becomes the tool's JSON Schema, and the answer is wrapped up as a call again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Json, Tool, ToolCall
from allod.serve.schemas import check_size, compiled, json_value

_CALL_BEGINS = re.compile(r"<tool_call>\s*(?=\{)")
_CALL_ENDS = re.compile(r"\s*</tool_call>")
_FENCE = re.compile(r"\A```(?:json)?\s*(\{.*\})\s*```\Z", re.DOTALL)
_decoder = json.JSONDecoder()
_OPENINGS = ("{", "<tool_call>", "```")


def check_tools(chat: Chat) -> None:
    """Raise Invalid for a tool whose schema is no JSON Schema, and for a choice that names no tool."""
    check_size(*(tool.parameters for tool in chat.tools), param="tools")
    for index, tool in enumerate(chat.tools):
        compiled(tool.parameters, param=f"tools[{index}].function.parameters")
    if chat.tool_choice not in ("auto", "none", "required", *(tool.name for tool in chat.tools)):
        raise Invalid(f"tool_choice names {chat.tool_choice!r}, which is no tool here", param="tool_choice")
    if not chat.tools and chat.tool_choice not in ("auto", "none"):
        raise Invalid("tool_choice asks for a call and there are no tools", param="tool_choice")


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
    messages = [_flat(message) for message in chat.messages]
    if offers_tools(chat):
        messages = _with_instructions(messages, _instructions(chat))
    schema = _forced_schema(chat) if is_forced(chat) else chat.schema
    return replace(chat, messages=tuple(messages), schema=schema, tools=(), tool_choice="none")


def _is_plain(message: Json) -> bool:
    return message["role"] != "tool" and "tool_calls" not in message


def could_be_call(text: str) -> bool:
    """Whether text that begins like this may turn out to be a call, so that it must not be streamed yet."""
    start = text.lstrip()
    return any(start.startswith(opening) or opening.startswith(start) for opening in _OPENINGS)


def interpret(chat: Chat, completion: Completion) -> Completion:
    """The engine's text as what the client asked for: calls where it holds calls, otherwise unchanged."""
    if is_forced(chat):
        return _forced(chat, completion)
    if not offers_tools(chat):
        return completion
    calls = _found(chat.tools, completion.content or "")
    if not chat.parallel_tool_calls:
        calls = calls[:1]
    return replace(completion, content=None, tool_calls=calls, finish="tool_calls") if calls else completion


def _forced(chat: Chat, completion: Completion) -> Completion:
    text = completion.content or ""
    named = next((tool for tool in chat.tools if tool.name == chat.tool_choice), None)
    if completion.finish == "length":  # cut short: as OpenAI does, what there is of the arguments, marked as such
        name = named.name if named else chat.tools[0].name
        return replace(completion, content=None, tool_calls=(ToolCall(name, text),))
    call = ToolCall(named.name, text) if named else _call_of(_object(text))
    if call is None or not _is_valid(chat.tools, call):
        raise Unavailable("the model's call does not satisfy the tool's schema", code="tool_call_invalid")
    return replace(completion, content=None, tool_calls=(call,), finish="tool_calls")


def _found(tools: tuple[Tool, ...], text: str) -> tuple[ToolCall, ...]:
    """Every call in the text; none unless all of them are valid."""
    stripped = text.strip()
    fenced = _FENCE.match(stripped)
    texts = _tagged(stripped) or [fenced.group(1) if fenced else stripped]
    calls = [_call_of(_object(item)) for item in texts]
    if any(call is None or not _is_valid(tools, call) for call in calls):
        return ()
    return tuple(call for call in calls if call is not None)


def _tagged(text: str) -> list[str]:
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


def _is_valid(tools: tuple[Tool, ...], call: ToolCall) -> bool:
    arguments = _object(call.arguments)
    tool = next((tool for tool in tools if tool.name == call.name), None)
    return tool is not None and arguments is not None and compiled(tool.parameters, param="tools").is_valid(arguments)


def _forced_schema(chat: Chat) -> Json:
    """The arguments of the named tool, or a call of any of the tools."""
    for tool in chat.tools:
        if tool.name == chat.tool_choice:
            return tool.parameters
    return {"anyOf": [_call_schema(tool) for tool in chat.tools]}


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


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


def _flat(message: Json) -> Json:
    """Earlier calls and their results as text, for templates that know neither."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return {"role": message["role"], "content": message["content"]}
    texts = [message["content"]] if message.get("content") else []
    for call in calls:
        function = {"name": call["function"]["name"], "arguments": _object(call["function"]["arguments"]) or {}}
        texts.append(f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(texts)}
