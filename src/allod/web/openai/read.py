"""From OpenAI's words to ours: step 1 of the main path."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from allod.core.errors import Invalid
from allod.core.requests import Chat, Embed, Sampling, Tool
from allod.web.http.bodies import decode
from allod.web.openai import wire

MAX_SEED = 2**32 - 2  # 2^32 - 1 is llama.cpp's "choose one at random"


_EFFECTS = {kind: attrgetter(*names, *names) for kind, names in wire.WITHOUT_EFFECT.items()}
_DEFAULTS = Sampling(seed=0)
_ROLES = {"tool_calls": "assistant", "refusal": "assistant", "tool_call_id": "tool"}  # who alone says it


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat and how its answer is to be delivered."""

    task: Chat
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """Texts and how their vectors are to be written."""

    task: Embed
    base64: bool


def read_chat(body: bytes) -> ChatCall:
    """The call in a body of `POST /v1/chat/completions`. Raises Invalid naming what is wrong by its `param`."""
    read = decode(wire.chat_bodies, body)
    _refuse_unsupported(read)
    chat = Chat(
        model=read.model,
        messages=tuple(_message(message, index) for index, message in enumerate(read.messages)),
        sampling=_read_sampling(read),
        schema=_schema(read.response_format),
        tools=tuple(_tool(tool) for tool in read.tools or ()),
        tool_choice=_tool_choice(read),
        parallel_tool_calls=read.parallel_tool_calls is not False,
        top_logprobs=(read.top_logprobs or 0) if read.logprobs else None,
    )
    options = read.stream_options
    return ChatCall(chat, bool(read.stream), options is not None and bool(options.include_usage))


def read_embed(body: bytes) -> EmbedCall:
    """The call in a body of `POST /v1/embeddings`."""
    read = decode(wire.embeddings_bodies, body)
    if read.dimensions is not None:
        raise Invalid("dimensions cannot be chosen here", param="dimensions", code="unsupported_parameter")
    texts = (read.input,) if isinstance(read.input, str) else tuple(read.input)
    if not all(texts):
        raise Invalid("an input is empty", param="input")
    return EmbedCall(Embed(read.model, texts), base64=read.encoding_format == "base64")


def _refuse_unsupported(body: wire.ChatBody) -> None:
    if body.n not in (None, 1):
        raise Invalid("only one answer at a time: n must be 1", param="n", code="unsupported_parameter")
    _refuse_effects(body, "")
    for index, tool in enumerate(body.tools or ()):
        _refuse_effects(tool, f"tools[{index}].")
    if body.stream_options is not None and body.stream_options.include_usage and not body.stream:
        raise Invalid("stream_options goes with stream", param="stream_options")
    if body.top_logprobs and not body.logprobs:
        raise Invalid("top_logprobs goes with logprobs", param="top_logprobs")


def _refuse_effects(part: msgspec.Struct, param: str) -> None:
    """Refuse what `part` asks for in fields that are not supported."""
    if not any(_EFFECTS[type(part)](part)):  # as nearly always
        return
    for name, plain in wire.WITHOUT_EFFECT[type(part)].items():
        value = _without_nulls(getattr(part, name))
        if value and value not in plain:
            raise Invalid(f"{name} is not supported", param=param + name, code="unsupported_parameter")


def _without_nulls(value: Any) -> Any:
    """`value` without the names to which it says null."""
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value


def _read_sampling(body: wire.ChatBody) -> Sampling:
    stop = () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if not all(stop):
        raise Invalid("a stop sequence is empty", param="stop")
    return Sampling(
        seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed % (MAX_SEED + 1),
        temperature=_DEFAULTS.temperature if body.temperature is None else round(body.temperature, 3),
        top_p=_DEFAULTS.top_p if body.top_p is None else round(body.top_p, 3),  # as exact as a receipt says it
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=stop,
    )


def _message(message: wire.Message, index: int) -> dict[str, Any]:
    param = f"messages[{index}]"
    _refuse_effects(message, f"{param}.")
    for name, role in _ROLES.items():
        if message.role != role and getattr(message, name):
            raise Invalid(f"only a message of role {role!r} has {name}", param=f"{param}.{name}")
    content = message.content
    if isinstance(content, list):
        role = message.role
        content = "".join(_part(part, role, f"{param}.content[{number}].") for number, part in enumerate(content))
    if message.refusal:
        if content:
            raise Invalid("a message has both content and a refusal", param=f"{param}.refusal")
        content = message.refusal  # what the assistant said instead
    if content is None and not (message.role == "assistant" and message.tool_calls):
        raise Invalid("a message has no content", param=f"{param}.content")
    if message.role == "tool" and message.tool_call_id is None:
        raise Invalid("a tool's message needs the call that it answers", param=f"{param}.tool_call_id")
    read: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": content}
    if message.tool_calls:
        read["tool_calls"] = [
            {"function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]
    return read


def _part(part: wire.TextPart | wire.RefusalPart, role: str, param: str) -> str:
    if isinstance(part, wire.RefusalPart):
        if role != _ROLES["refusal"]:
            raise Invalid(f"only a message of role {_ROLES['refusal']!r} has a refusal", param=f"{param}refusal")
        return part.refusal
    _refuse_effects(part, param)
    return part.text


def _schema(response_format: wire.TextFormat | wire.JsonObjectFormat | wire.JsonSchemaFormat | None) -> Any:
    if isinstance(response_format, wire.JsonSchemaFormat):
        return response_format.json_schema.schema
    return {} if isinstance(response_format, wire.JsonObjectFormat) else None


def _tool(tool: wire.ToolDefinition) -> Tool:
    if tool.function.name in ("auto", "none", "required"):
        raise Invalid(f"a tool cannot be called {tool.function.name!r}", param="tools", code="unsupported_parameter")
    return Tool(tool.function.name, tool.function.description or "", tool.function.parameters or {"type": "object"})


def _tool_choice(body: wire.ChatBody) -> str:
    if isinstance(body.tool_choice, wire.NamedChoice):
        return body.tool_choice.function.name
    return body.tool_choice or ("auto" if body.tools else "none")
