"""An engine in memory that answers with the question: for tests, demonstrations and measuring everything else."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from hashlib import sha256
from typing import Any

from allod.core.canonical import digest_of
from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Finish, Json, Piece, Pieces, Usage
from allod.engine.engine import EngineInfo, EnginePlace, LoadedAdapter, Perimeter, Tally
from allod.engine.giving_way import give_way
from allod.engine.schemas.subschemas import target_of, targets

NOWHERE = EnginePlace("local", "ZZ")
CONTEXT_TOKENS = 4096
DIMENSIONS = 8
CHARS_A_TURN = 64 << 10  # counted, 0.7 ms or so, before others have their turn
MAX_WORD_CHARS = 1 << 10
MAX_FOLLOWED = 1000  # references in one schema: what refers to itself for ever has no value
MAX_DEPTH = 16  # of them, one through another


class EchoEngine:
    """Answers a chat with its last message, word by word; a schema with its smallest instance.

    Under an adapter the answer begins with the adapter's name. It keeps nothing of a prompt, so that every salt is as
    good.
    """

    def __init__(self, *, adapters: tuple[LoadedAdapter, ...] = (), place: EnginePlace = NOWHERE) -> None:
        self.info = EngineInfo(
            name="echo",
            build=digest_of("echo 1"),
            config=digest_of({"context_tokens": CONTEXT_TOKENS}),
            replay="exact",
            model_digest=digest_of("echo model"),
            template_digest=digest_of("echo template"),
            context_tokens=CONTEXT_TOKENS,
            slots=4,
            can_chat=True,
            can_embed=True,
            place=place,
            adapters=adapters,
            max_token_chars=MAX_WORD_CHARS,
        )
        self.running = 0
        self._closed = False

    @property
    def steering(self) -> None:
        """It is not made of replicas."""

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        """They stay as many."""

    async def stream(
        self, chat: Chat, *, salt: str, tally: Tally | None = None
    ) -> AsyncGenerator[Pieces | Completion, None]:
        tally = tally or Tally(self.info)
        tally.begin(self.info)
        prompt_tokens = 0
        for message in chat.messages:
            prompt_tokens += await _num_words(_text_of(message))
        if prompt_tokens > self.info.context_tokens:
            raise Invalid(
                f"the prompt has {prompt_tokens} tokens and the context holds {self.info.context_tokens}",
                code="context_length_exceeded",
                param="messages",
            )
        words, finish = _answer(chat, self._first_words(chat.model))
        self.running += 1
        tally.count(prompt_tokens, 0, 0)
        try:
            for word in words:
                await asyncio.sleep(0)
                self.check_ready()
                tally.completion_tokens += 1
                yield [Piece(word, _logprobs(word, chat.top_logprobs))]
        finally:
            self.running -= 1
        logprobs = tuple(entry for word in words for entry in _logprobs(word, chat.top_logprobs))
        yield Completion("".join(words), finish, Usage(prompt_tokens, len(words)), logprobs=logprobs)

    def check_ready(self) -> None:
        if self._closed:
            raise Unavailable("the engine was lost", code="engine_lost", retry_after_s=1)

    def evidence(self) -> tuple[Perimeter, ...]:
        self.check_ready()
        return (Perimeter(self.info.seal, self.info.seal_proof),)

    def keep_evidence(self) -> None:
        """There is none."""

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        async with aclosing(self.stream(chat, salt=salt, tally=tally)) as answer:
            async for item in answer:
                if isinstance(item, Completion):
                    return item
        raise Unavailable("the engine was lost", code="engine_lost")

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        self.check_ready()
        num_tokens = sum(len(text.split()) for text in embed.texts)
        if tally is not None:
            tally.begin(self.info)
            tally.count(num_tokens, 0, 0)
        return Embeddings(tuple(map(_vector, embed.texts)), Usage(num_tokens))

    async def close(self) -> None:
        self._closed = True

    def _first_words(self, model: str) -> str:
        return f"{model} " if any(adapter.name == model for adapter in self.info.adapters) else ""


def _text_of(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


async def _num_words(text: str) -> int:
    """As many as `text.split()` has; others have their turn where it is long."""
    num_words, is_within = 0, False
    for start in range(0, len(text), CHARS_A_TURN):
        if start:
            await give_way()
        part = text[start : start + CHARS_A_TURN]
        num_words += len(part.split()) - (is_within and not part[0].isspace())
        is_within = not part[-1].isspace()
    return num_words


def _answer(chat: Chat, opening: str) -> tuple[list[str], Finish]:
    text = (
        json.dumps(_Instances(chat.schema).of(chat.schema))
        if chat.schema is not None
        else opening + _text_of(chat.messages[-1])
    )
    for stop in chat.sampling.stop:
        text = text.split(stop, 1)[0]
    words = [word if index == 0 else " " + word for index, word in enumerate(text.split(" "))]
    limit = chat.sampling.max_tokens
    if limit is not None and len(words) > limit:
        return words[:limit], "length"
    return words, "stop"


class _Instances:
    """The smallest values that satisfy the plain part of a schema (type, const, enum, properties, anyOf, $ref)."""

    def __init__(self, schema: Json) -> None:
        self._targets = targets(schema)
        self._depth = 0
        self._left = MAX_FOLLOWED

    def of(self, schema: Mapping[str, Any] | bool) -> Any:
        if isinstance(schema, bool):
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        target = target_of(schema.get("$ref"), self._targets)
        if target is not None and self._depth < MAX_DEPTH and self._left:
            self._depth, self._left = self._depth + 1, self._left - 1
            found = self.of(target[1])
            self._depth -= 1
            return found
        if schema.get("anyOf"):
            return self.of(schema["anyOf"][0])
        return self._of_type(schema)

    def _of_type(self, schema: Mapping[str, Any]) -> Any:
        kind = schema.get("type", "object")
        if isinstance(kind, list):
            kind = kind[0]
        if kind == "object":
            properties = schema.get("properties", {})
            return {name: self.of(properties.get(name, {})) for name in schema.get("required", ())}
        return {"string": "", "integer": 0, "number": 0, "boolean": False, "array": [], "null": None}[kind]


def _logprobs(word: str, top: int | None) -> tuple[Json, ...]:
    if top is None:
        return ()
    entry = {"token": word, "logprob": 0.0, "bytes": list(word.encode())}
    return ({**entry, "top_logprobs": [entry] * min(top, 1)},)


def _vector(text: str) -> tuple[float, ...]:
    raw = [byte - 127.5 for byte in sha256(text.encode()).digest()[:DIMENSIONS]]
    length = math.hypot(*raw)
    return tuple(value / length for value in raw)
