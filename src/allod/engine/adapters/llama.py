"""llama.cpp's server behind the engine port, over a Unix socket.

Tools never reach it: llama.cpp accepts a forced tool call and does not enforce it (ggml-org/llama.cpp#27217), so
`allod.serve.tools` has turned them into a schema before a chat comes here. Nor do salts: it has none, so each chat
names its slot (`llama_slots.py`). Every chat says of each adapter whether it applies, and slots keep what adapters
computed apart as they keep salts apart: a prompt has other keys and values under another adapter.

Every answer is streamed from it, so that it tells what it computes while it computes it (`llama_generation.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Chat, Completion, Embed, Embeddings, Pieces, Usage
from allod.engine.adapters.llama_generation import AnswerReading, Generation
from allod.engine.adapters.llama_prompt import plain_json
from allod.engine.adapters.llama_slots import SlotLease, SlotQueue, Slots
from allod.engine.adapters.llama_wire import read_slot, read_vectors
from allod.engine.address import UnixAddress
from allod.engine.engine import EngineInfo, Perimeter, Tally
from allod.engine.http import EngineHttp
from allod.engine.schemas.grammar import grammar_of

CHAT_PATH = "/v1/chat/completions"
TEXTS_AT_ONCE = 32  # to embed in one exchange, so that reading the vectors holds nobody up
BYTES_AT_ONCE = 4 << 10  # of them, or one text: for who leaves early the engine goes on to the end of these
POLL_S = 0.02

_encode = msgspec.json.Encoder().encode


class _Applied(NamedTuple):
    """What an adapter, or none, adds to a chat's body, and to the salt that its slots are chosen by."""

    body: bytes
    salt: str


class LlamaEngine:
    """One started llama.cpp server. `info` is what its launcher knows of it, `slots` what they hold (None: nothing).

    `is_stuck` once it has not let go of work that nobody waited for any more: it is of no use then.
    """

    def __init__(
        self, info: EngineInfo, socket_path: str, slots: Slots | None = None, deadlines: Deadlines | None = None
    ) -> None:
        self.info = info
        self.is_stuck = False
        self._bare = _Applied(_lora(info, ""), "")
        self._adapters = {each.name: _Applied(_lora(info, each.name), f" {each.digest}") for each in info.adapters}
        self._deadlines = deadlines or Deadlines()
        self._http = EngineHttp(UnixAddress(socket_path), self._deadlines)
        self._slots = SlotQueue(slots or Slots(info.slots))
        self._prompt_bytes = 0  # of all that it works on
        self._endings: set[asyncio.Task[None]] = set()

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
        return Embeddings(tuple(vectors), tally.usage or Usage())

    async def is_ready(self) -> bool:
        """Whether the server has loaded its model."""
        try:
            return (await self._http.request("GET", "/health", first_s=self._deadlines.connect_s)).status == 200
        except Unavailable:
            return False

    async def probe(self) -> None:
        """Ask what only the part that computes can say. Raises Unavailable where it does not say it in time."""
        await self._http.request("GET", "/metrics", first_s=self._deadlines.hung_s)

    async def close(self) -> None:
        self._slots.close()
        await self._http.close()
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _work_on(self, chat: Chat, salt: str, tally: Tally | None) -> _Working:
        """Ask the engine, in a slot; `async with` it while the engine works on the chat."""
        tally = tally or Tally(self.info)
        tally.begin(self.info)
        prompt = await plain_json(self.info.control_tokens.plain_messages, chat.messages)
        applied = self._adapters.get(chat.model, self._bare)
        body = applied.body + _encode(_chat_body(chat, prompt))[1:]
        lease = await self._slots.take(salt + applied.salt, prompt)
        body = _with_slot(body, lease)
        self._prompt_bytes += len(body)
        try:
            first_s = self._deadlines.first_word_s(self._prompt_bytes)
            exchange = await self._http.begin("POST", CHAT_PATH, body, first_s=first_s)
        except BaseException:
            self._free(lease, len(body))
            raise
        answer = Generation(chat, self.info.context_tokens, tally)
        return _Working(self, AnswerReading(exchange, answer, lease, silence_s=self._deadlines.silence_s), len(body))

    async def _end(self, reading: AnswerReading, num_bytes: int, *, is_lost: bool) -> None:
        """Return when the engine has let go of the work.

        Who leaves early waits for that, to know what was computed; who has lost the engine does not.
        """
        if reading.exchange.is_complete:
            reading.exchange.end()
            self._free(reading.lease, num_bytes)
            return
        ending = asyncio.create_task(self._leave(reading, num_bytes))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        if not is_lost:
            await asyncio.shield(ending)

    async def _leave(self, reading: AnswerReading, num_bytes: int) -> None:
        """Hang up, and learn what was computed."""
        try:
            reading.exchange.hang_up(self._deadlines.let_go_s)
            await self._hear_out(reading)
        finally:
            reading.exchange.end()
            self._free(reading.lease, num_bytes)

    async def _hear_out(self, reading: AnswerReading) -> None:
        try:
            await reading.hear_out()
        except AllodError as error:
            if error.code in ("engine_slow", "engine_silent"):
                self.is_stuck = True
                return
        with suppress(TimeoutError, AllodError):
            async with asyncio.timeout(self._deadlines.let_go_s):
                await self._learn(reading)

    async def _learn(self, reading: AnswerReading) -> None:
        """Ask the slot how far it came. One that never worked on the request holds another's."""
        is_ours = reading.answer.has_begun
        while True:
            slot = read_slot(await self._http.request("GET", "/slots"), reading.lease.slot)
            if not slot.is_processing:
                break
            is_ours = True
            await asyncio.sleep(POLL_S)
        if is_ours:
            reading.answer.count_in(slot)

    def _free(self, lease: SlotLease, num_bytes: int) -> None:
        self._prompt_bytes -= num_bytes
        self._slots.give_back(lease)

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
        body = b'{"input":%b}' % await plain_json(self.info.control_tokens.plain_texts, texts)
        self._prompt_bytes += len(body)
        try:
            first_s = self._deadlines.first_word_s(self._prompt_bytes)
            response = await self._http.request("POST", "/v1/embeddings", body, first_s=first_s)
        finally:
            self._prompt_bytes -= len(body)
        vectors, num_tokens = read_vectors(response, len(texts))
        num_tokens = min(max(num_tokens, len(texts)), len(texts) * self.info.context_tokens)  # none of them is empty
        tally.count(tally.prompt_tokens + num_tokens, 0, 0)
        return vectors


class _Working:
    """While the engine works on a chat. Written out: a generator's context costs a short answer a twentieth."""

    __slots__ = ("_engine", "_num_bytes", "_reading")

    def __init__(self, engine: LlamaEngine, reading: AnswerReading, num_bytes: int) -> None:
        self._engine = engine
        self._reading = reading
        self._num_bytes = num_bytes

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
            await self._engine._end(self._reading, self._num_bytes, is_lost=is_lost)


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


def _with_slot(body: bytes, lease: SlotLease) -> bytes:
    """The rest of a chat's `body`, begun with the slot that it takes and whether what that holds may be reused."""
    return b'{"id_slot":%d,"cache_prompt":%b,%b' % (lease.slot, b"true" if lease.reuse else b"false", body)


def _lora(info: EngineInfo, name: str) -> bytes:
    """The part of a body that applies the adapter `name` and no other: nothing is left to the server's default."""
    if not info.adapters:
        return b""
    scales = [{"id": number, "scale": float(each.name == name)} for number, each in enumerate(info.adapters)]
    return b'"lora":%b,' % _encode(scales)


def _chat_body(chat: Chat, prompt: bytes) -> dict[str, Any]:
    sampling = chat.sampling
    body: dict[str, Any] = {
        "messages": msgspec.Raw(prompt),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
        "return_progress": True,
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = sampling.stop
    if chat.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": max(1, chat.top_logprobs)}  # with 0 it gives none at all
    if chat.schema is not None:
        body["grammar"] = grammar_of(chat.schema)
    return body
