"""A server that speaks OpenAI's chat completions and embeddings, behind the engine port; `Dialect` is what is its own.

Every answer is streamed from it. Tools never reach it: servers accept a forced call and do not enforce it, so
`allod.serve.tools` has turned them into a schema before a chat comes here. Who leaves early closes the connection, and
what was computed is what the server had said by then, or at least what it had shown: no half-closed connection, which
not every server would notice, is kept to hear more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import msgspec

from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Pieces, Usage
from allod.engine.adapters.openai_answer import AnswerReading, Generation
from allod.engine.adapters.openai_wire import read_vectors
from allod.engine.adapters.prompt import plain_json
from allod.engine.engine import EngineInfo, Perimeter, Tally
from allod.engine.http import EngineHttp
from allod.engine.token_estimate import estimate_tokens

TEXTS_AT_ONCE = 32  # to embed in one exchange, so that reading the vectors holds nobody up
BYTES_AT_ONCE = 4 << 10  # of them, or one text: for who leaves early the engine goes on to the end of these
VECTOR_BYTES = 256 << 10  # of one, written out: some 10,000 numbers
TEMPLATE_TOKENS = 256  # that a template may add to a prompt, of which no token has less than a byte

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between servers that speak OpenAI's interface: names, paths, and what they want to be told.

    `answers_as` are the names that it may answer by (empty: any), `adapters` what it calls those that we name.
    `salt_field` of a request keeps what it computed for one salt from others; without one it knows no salts.
    `counts_bytes`: the server is not ours, and of a prompt it cannot count more tokens than there are bytes.
    """

    base_path: str = "/v1"
    model: str = ""  # as it calls it
    answers_as: frozenset[str] = frozenset()
    adapters: Mapping[str, str] = field(default_factory=dict)
    salt_field: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)  # of every chat's body
    probe_path: str = "/v1/models"  # says something at once
    counts_bytes: bool = False

    @property
    def chat_path(self) -> str:
        """Where a chat is sent."""
        return f"{self.base_path}/chat/completions"


class OpenAiEngine:
    """One running server. `info` is what whoever knows it says of it.

    `is_stuck` once it has not let go of work that nobody waited for any more: it is of no use then.
    """

    def __init__(self, info: EngineInfo, http: EngineHttp, dialect: Dialect, deadlines: Deadlines) -> None:
        self.info = info
        self.is_stuck = False
        self._http = http
        self._dialect = dialect
        self._deadlines = deadlines
        self._prompt_bytes = 0  # of all that it works on

    @property
    def heard_s(self) -> float:
        """When the engine last said anything to anybody, by the loop's clock."""
        return self._http.heard_s

    def check_ready(self) -> None:
        if self._http.is_closed:
            raise Unavailable("the engine was closed", code="engine_lost", retry_after_s=1)

    def evidence(self) -> tuple[Perimeter, ...]:
        """What it was told: whoever started the process can look at it."""
        self.check_ready()
        return (Perimeter(self.info.seal, self.info.seal_proof),)

    def keep_evidence(self) -> None:
        """Whoever started the process has it."""

    @property
    def steering(self) -> None:
        """It is not made of replicas."""

    def watch_slots(self, resize: Callable[[int], None]) -> None:
        """They stay as many."""

    async def stream(
        self, chat: Chat, *, salt: str, tally: Tally | None = None
    ) -> AsyncGenerator[Pieces | Completion, None]:
        async with await self._work_on(chat, salt, tally) as reading:
            while await reading.goes_on():
                yield reading.answer.take_pieces()
        yield reading.answer.completion()

    async def complete(self, chat: Chat, *, salt: str, tally: Tally | None = None) -> Completion:
        async with await self._work_on(chat, salt, tally) as reading:
            reading.is_gathered = True
            while await reading.goes_on():
                pass
        return reading.answer.completion()

    async def embed(self, embed: Embed, *, tally: Tally | None = None) -> Embeddings:
        if not self.info.can_embed:
            raise Invalid(
                f"{embed.model} answers chats and has no embeddings", code="unsupported_by_model", param="model"
            )
        tally = tally or Tally(self.info)
        tally.begin(self.info)
        vectors: list[tuple[float, ...]] = []
        try:
            async with asyncio.timeout(self._deadlines.answer_s):
                for texts in _groups(embed.texts):
                    vectors += await self._vectors(texts, tally)
        except TimeoutError:
            raise Unavailable("the engine took too long", code="engine_slow", retry_after_s=5) from None
        if len({len(vector) for vector in vectors}) > 1:
            raise Unavailable("the engine's vectors are not of one length", code="engine_response")
        return Embeddings(tuple(vectors), tally.usage or Usage())

    async def is_ready(self) -> bool:
        """Whether the server has loaded its model."""
        try:
            response = await self._http.request("GET", self._dialect.probe_path, first_s=self._deadlines.connect_s)
        except Unavailable:
            return False
        return response.status == 200

    async def probe(self) -> None:
        """Ask what is said at once. Raises Unavailable where it is not said in time."""
        await self._http.request("GET", self._dialect.probe_path, first_s=self._deadlines.hung_s)

    async def close(self) -> None:
        await self._http.close()

    async def _work_on(self, chat: Chat, salt: str, tally: Tally | None) -> Working:
        """Ask the engine; `async with` it while the engine works on the chat."""
        tally = tally or Tally(self.info)
        tally.begin(self.info)
        prompt = await plain_json(self.info.control_tokens.plain_messages, chat.messages)
        body = _encode(self._chat_body(chat, prompt, salt))
        self._prompt_bytes += len(body)
        try:
            first_s = self._deadlines.first_word_s(self._prompt_bytes)
            exchange = await self._http.begin("POST", self._dialect.chat_path, body, first_s=first_s)
        except BaseException:
            self._prompt_bytes -= len(body)
            raise
        answer = Generation(
            chat,
            self.info.context_tokens,
            tally,
            estimated_tokens=estimate_tokens(prompt),
            most_prompt_tokens=len(prompt) + TEMPLATE_TOKENS if self._dialect.counts_bytes else 0,
        )
        reading = AnswerReading(
            exchange,
            answer,
            first_s=first_s,
            silence_s=self._deadlines.silence_s,
            models=self._dialect.answers_as,
        )
        return Working(self, reading, body)

    def _chat_body(self, chat: Chat, prompt: bytes, salt: str) -> dict[str, Any]:
        dialect = self._dialect
        body = chat_body(chat, prompt)
        body["model"] = dialect.adapters.get(chat.model, dialect.model)
        if dialect.salt_field:
            body[dialect.salt_field] = salt
        if chat.schema is not None:
            body["response_format"] = (
                {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": chat.schema}}
                if chat.schema
                else {"type": "json_object"}
            )
        return {**body, **dialect.more}

    async def _end(self, reading: AnswerReading, body: bytes, *, is_lost: bool) -> None:
        """Return when the engine is known to have let go of the work, or will hear that nobody waits for it."""
        if not reading.exchange.is_complete and (reading.has_begun or not is_lost):
            reading.answer.count_at_least()
        reading.exchange.end()
        self._prompt_bytes -= len(body)

    async def _vectors(self, texts: tuple[str, ...], tally: Tally) -> list[tuple[float, ...]]:
        """The vectors of a group. Who leaves waits for them: only with them the engine tells what was computed."""
        asking = asyncio.create_task(self._ask_for_vectors(texts, tally))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with suppress(TimeoutError, AllodError):
                async with asyncio.timeout(self._deadlines.let_go_s):
                    await asking
            raise

    async def _ask_for_vectors(self, texts: tuple[str, ...], tally: Tally) -> list[tuple[float, ...]]:
        plain = await plain_json(self.info.control_tokens.plain_texts, texts)
        body = b'{"model":%b,"encoding_format":"float","input":%b}' % (_encode(self._dialect.model), plain)
        self._prompt_bytes += len(body)
        try:
            first_s = self._deadlines.first_word_s(self._prompt_bytes)
            path, limit = f"{self._dialect.base_path}/embeddings", len(texts) * VECTOR_BYTES
            response = await self._http.request("POST", path, body, first_s=first_s, limit_bytes=limit)
        finally:
            self._prompt_bytes -= len(body)
        vectors, num_tokens = read_vectors(response, len(texts))
        most = len(texts) * self.info.context_tokens
        if self._dialect.counts_bytes:
            most = min(most, len(body) + TEMPLATE_TOKENS)
        num_tokens = min(max(num_tokens, len(texts)), most)  # none of them is empty
        tally.count(tally.prompt_tokens + num_tokens, 0, 0)
        return vectors


class Working:
    """While the engine works on a chat. Written out: a generator's context costs a short answer a twentieth."""

    __slots__ = ("_body", "_engine", "_reading")

    def __init__(self, engine: OpenAiEngine, reading: AnswerReading, body: bytes) -> None:
        self._engine = engine
        self._reading = reading
        self._body = body

    async def __aenter__(self) -> AnswerReading:
        return self._reading

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_lost = isinstance(error, AllodError) and error.code != "engine_slow"
        try:
            if error is None:
                await self._reading.last_word()
        finally:
            await self._engine._end(self._reading, self._body, is_lost=is_lost)


def chat_body(chat: Chat, prompt: bytes) -> dict[str, Any]:
    """What every server is told of a chat, whose messages are `prompt`."""
    sampling = chat.sampling
    body: dict[str, Any] = {
        "messages": msgspec.Raw(prompt),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = sampling.stop
    if chat.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": max(1, chat.top_logprobs)}  # with 0 llama.cpp gives none at all
    return body


def _groups(texts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Texts that are embedded together, in their order."""
    group: list[str] = []
    num_bytes = 0
    for text in texts:
        size = len(text.encode())
        if group and (len(group) == TEXTS_AT_ONCE or num_bytes + size > BYTES_AT_ONCE):
            yield tuple(group)
            group, num_bytes = [], 0
        group.append(text)
        num_bytes += size
    if group:
        yield tuple(group)
