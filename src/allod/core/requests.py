"""What a client asks for and what an engine answers, in no dialect: the values that travel the main path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal, NamedTuple

from allod.core.canonical import canonical_json

Finish = Literal["stop", "length", "tool_calls"]
Json = Mapping[str, Any]


def new_request_id(now_ms: int) -> str:
    """32 hexadecimal digits: the time, so that an index of ids grows at its end, then 80 random bits.

    `now_ms` is milliseconds since 1970, of a clock that may be wrong. An entry of the log's index costs a fifth of what
    it costs at a random place.
    """
    return (now_ms % (1 << 48)).to_bytes(6, "big").hex() + token_hex(10)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. A seed is always set, so that every receipt can record one."""

    seed: int
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask the client to call; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: Json


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to continue.

    `messages` are {"role", "content", ...} as OpenAI writes them. `schema` restricts the answer to JSON: an empty
    mapping to any JSON object, None not at all. `tool_choice` is "auto", "none", "required" or the name of a tool;
    without `parallel_tool_calls` an answer has one call at most.
    `top_logprobs` is None for no log-probabilities, else how many alternatives each token carries (0 to 20).
    """

    model: str
    messages: tuple[Json, ...]
    sampling: Sampling
    schema: Json | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "none"
    parallel_tool_calls: bool = True
    top_logprobs: int | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What each message says, and the words of the schema."""
        said = tuple([message.get("content") or "" for message in self.messages])
        return said if self.schema is None else (*said, json.dumps(self.schema, ensure_ascii=False))

    def strings(self) -> Iterator[str]:
        """All that the caller says, each as it is before JSON is made of it: messages, calls, tools, schema, stop."""
        yield "\n".join(message.get("content") or "" for message in self.messages)
        for message in self.messages:
            for call in message.get("tool_calls") or ():
                yield call["function"]["name"]
                yield call["function"]["arguments"]
        for tool in self.tools:
            yield tool.name
            yield tool.description
            yield from _strings_of(tool.parameters)
        if self.schema is not None:
            yield from _strings_of(self.schema)
        yield from self.sampling.stop


def _strings_of(value: Any) -> Iterator[str]:
    """The keys, strings and numbers in JSON, in their order; an integer as its digits, however it was written."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left += [part for item in reversed(value.items()) for part in reversed(item)]  # type: ignore[call-overload]
        elif isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, float) and value.is_integer() and abs(value) < 1e20:
            yield str(int(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield str(value)


@dataclass(frozen=True, slots=True)
class Embed:
    """Texts to turn into vectors."""

    model: str
    texts: tuple[str, ...]

    def strings(self) -> Iterator[str]:
        """Each of them."""
        yield from self.texts


@dataclass(frozen=True, slots=True)
class Usage:
    """Language tokens. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class Piece(NamedTuple):
    """A part of an answer under way. `logprobs` has OpenAI's shape: one entry a token."""

    text: str
    logprobs: tuple[Json, ...] = ()


Pieces = Sequence[Piece]
"""Some that came together, in their order; never none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    content: str | None
    finish: Finish
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Json, ...] = ()

    def committed_bytes(self) -> bytes:
        """What the receipt commits to: the text and the tool calls, and nothing else (spec/receipt.md)."""
        return chat_answer(self.content, [{"arguments": call.arguments, "name": call.name} for call in self.tool_calls])


def chat_answer(content: str | None, tool_calls: Sequence[Mapping[str, str]] = ()) -> bytes:
    """The bytes that stand for a chat answer: its content, and each tool call's `name` and `arguments` as sent.

    Other keys of a tool call (its id, its index) are left out. Raises Invalid for a lone surrogate.
    """
    if not tool_calls:
        return b'{"content":%b,"tool_calls":[]}' % canonical_json(content)
    calls = [{"name": call["name"], "arguments": call["arguments"]} for call in tool_calls]
    return canonical_json({"content": content, "tool_calls": calls})


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector a text, in order."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = field(default_factory=Usage)
