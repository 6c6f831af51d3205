"""The shapes of OpenAI's requests, read strictly: an unknown field or a wrong type is an error that says where.

Source: OpenAI's published OpenAPI description, chat completions and embeddings. Fields that change nothing here
(`user`, `metadata`, `store`) are accepted because clients send them; fields that would change the answer and are not
supported are refused by `allod.web.openai.read`, never ignored, unless they say nothing (`WITHOUT_EFFECT`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=4_000_000)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
ModelName = Annotated[str, Meta(max_length=256)]
StopText = Annotated[str, Meta(max_length=256)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class TextPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: Text
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


class RefusalPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    refusal: Text


class Function(Struct, forbid_unknown_fields=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function
    cache_control: Any = None


class CalledFunction(Struct, forbid_unknown_fields=True):
    name: Name
    arguments: str
    parsed_arguments: Any = None  # the same again, as OpenAI's client reads it


class MadeCall(Struct, forbid_unknown_fields=True):
    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None  # of a streamed answer


class Message(Struct, forbid_unknown_fields=True, omit_defaults=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: Annotated[list[MadeCall], Meta(max_length=128)] | None = None
    tool_call_id: str | None = None
    refusal: Text | None = None
    reasoning: Any = None  # of other servers' answers, as the next
    reasoning_content: Any = None
    parsed: Any = None  # the content again, as OpenAI's client reads it
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    cache_control: Any = None


class FunctionName(Struct, forbid_unknown_fields=True):
    name: str


class NamedChoice(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionName


class JsonSchema(Struct, forbid_unknown_fields=True):
    name: Name
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    pass


class JsonSchemaFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    json_schema: JsonSchema


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(Struct, forbid_unknown_fields=True):
    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1, max_length=10_000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=4)] | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[ToolDefinition], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    service_tier: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class EmbeddingsBody(Struct, forbid_unknown_fields=True):
    model: ModelName
    input: Text | Annotated[list[Text], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


_EPHEMERAL = ({"type": "ephemeral"},)  # the one kind there is of what some clients put on every message

WITHOUT_EFFECT: dict[type[Struct], dict[str, tuple[Any, ...]]] = {
    ChatBody: {
        "audio": (),
        "frequency_penalty": (),
        "function_call": ("none", "auto"),
        "functions": (),
        "logit_bias": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "presence_penalty": (),
        "prompt_cache_key": (),
        "prompt_cache_options": ({"mode": "implicit"},),
        "prompt_cache_retention": (),
        "reasoning_effort": (),
        "service_tier": ("auto", "default"),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    Message: {
        "annotations": (),
        "audio": (),
        "cache_control": _EPHEMERAL,
        "function_call": (),
        "reasoning": (),
        "reasoning_content": (),
    },
    TextPart: {"cache_control": _EPHEMERAL, "prompt_cache_breakpoint": ()},
    ToolDefinition: {"cache_control": _EPHEMERAL},
}
"""Fields that are not supported, and the values of each, besides null and what is empty, that ask for nothing."""

chat_bodies = msgspec.json.Decoder(ChatBody)
embeddings_bodies = msgspec.json.Decoder(EmbeddingsBody)
