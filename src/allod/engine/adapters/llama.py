"""llama.cpp's server behind the engine port, over a Unix socket.

It has no salts, so each chat names its slot (`llama_slots.py`). Every chat says of each adapter whether it applies, and
slots keep what adapters computed apart as they keep salts apart: a prompt has other keys and values under another
adapter. It tells what it computes while it computes it.

Who leaves early hangs up, and what the engine had computed by then is known only once it has let go. It lets go within
a second or the batch that it computes, says so by hanging up too, and shows by its slot how far it came: the slot holds
the prompt and every token of the answer but the last, which was chosen and not computed on. Until then the slot takes
no other request.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from allod.core.deadlines import Deadlines
from allod.core.errors import AllodError
from allod.core.requests import Chat
from allod.engine.adapters.llama_slots import SlotLease, SlotQueue, Slots
from allod.engine.adapters.llama_wire import Slot, read_slot
from allod.engine.adapters.openai import Dialect, OpenAiEngine, Working, chat_body
from allod.engine.adapters.openai_answer import AnswerReading, Generation
from allod.engine.adapters.prompt import plain_json
from allod.engine.address import UnixAddress
from allod.engine.engine import EngineInfo, Tally
from allod.engine.http import EngineHttp, Exchange
from allod.engine.schemas.grammar import grammar_of

# It says how far it is all the while. Only the part that computes can say its metrics.
LLAMA = Dialect(more={"timings_per_token": True, "return_progress": True}, probe_path="/metrics")
CHAT_PATH = LLAMA.chat_path
POLL_S = 0.02

_encode = msgspec.json.Encoder().encode


class _Applied(NamedTuple):
    """What an adapter, or none, adds to a chat's body, and to the salt that its slots are chosen by."""

    body: bytes
    salt: str


class LlamaEngine(OpenAiEngine):
    """One started llama.cpp server. `info` is what its launcher knows of it, `slots` what they hold (None: nothing)."""

    def __init__(
        self, info: EngineInfo, socket_path: str, slots: Slots | None = None, deadlines: Deadlines | None = None
    ) -> None:
        deadlines = deadlines or Deadlines()
        super().__init__(info, EngineHttp(UnixAddress(socket_path), deadlines), LLAMA, deadlines)
        self._bare = _Applied(_lora(info, ""), "")
        self._applied = {each.name: _Applied(_lora(info, each.name), f" {each.digest}") for each in info.adapters}
        self._slots = SlotQueue(slots or Slots(info.slots))
        self._endings: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        self._slots.close()
        await super().close()
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _work_on(self, chat: Chat, salt: str, tally: Tally | None) -> Working:
        """Ask the engine, in a slot; `async with` it while the engine works on the chat."""
        tally = tally or Tally(self.info)
        tally.begin(self.info)
        prompt = await plain_json(self.info.control_tokens.plain_messages, chat.messages)
        applied = self._applied.get(chat.model, self._bare)
        body = applied.body + _encode(_slot_body(chat, prompt))[1:]
        lease = await self._slots.take(salt + applied.salt, prompt)
        body = _with_slot(body, lease)
        self._prompt_bytes += len(body)
        try:
            first_s = self._deadlines.first_word_s(self._prompt_bytes)
            exchange = await self._http.begin("POST", CHAT_PATH, body, first_s=first_s)
        except BaseException:
            self._free(lease, body)
            raise
        answer = Generation(chat, self.info.context_tokens, tally)
        reading = _SlotReading(exchange, answer, lease, first_s=first_s, silence_s=self._deadlines.silence_s)
        return Working(self, reading, body)

    async def _end(self, reading: AnswerReading, body: bytes, *, is_lost: bool) -> None:
        """Return when the engine has let go of the work.

        Who leaves early waits for that, to know what was computed; who has lost the engine does not.
        """
        assert isinstance(reading, _SlotReading)
        if reading.exchange.is_complete:
            reading.exchange.end()
            self._free(reading.lease, body, has_begun=reading.has_begun)
            return
        ending = asyncio.create_task(self._leave(reading, body))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        if not is_lost:
            await asyncio.shield(ending)

    async def _leave(self, reading: _SlotReading, body: bytes) -> None:
        """Hang up, and learn what was computed."""
        try:
            reading.exchange.hang_up(self._deadlines.let_go_s)
            await self._hear_out(reading)
        finally:
            reading.exchange.end()
            self._free(reading.lease, body, has_begun=reading.has_begun)

    async def _hear_out(self, reading: _SlotReading) -> None:
        try:
            await reading.hear_out()
        except AllodError as error:
            if error.code in ("engine_slow", "engine_silent"):
                self.is_stuck = True
                return
        with suppress(TimeoutError, AllodError):
            async with asyncio.timeout(self._deadlines.let_go_s):
                await self._learn(reading)

    async def _learn(self, reading: _SlotReading) -> None:
        """Ask the slot how far it came. One that never worked on the request holds another's."""
        is_ours = reading.answer.has_begun
        while True:
            slot = read_slot(await self._http.request("GET", "/slots"), reading.lease.slot)
            if not slot.is_processing:
                break
            is_ours = True
            await asyncio.sleep(POLL_S)
        if is_ours:
            _count_in(slot, reading.answer)

    def _free(self, lease: SlotLease, body: bytes, *, has_begun: bool = False) -> None:
        self._prompt_bytes -= len(body)
        lease.begun = has_begun
        self._slots.give_back(lease)


class _SlotReading(AnswerReading):
    """`lease` is of the slot that the answer is made in."""

    def __init__(
        self, exchange: Exchange, answer: Generation, lease: SlotLease, *, first_s: float, silence_s: float
    ) -> None:
        super().__init__(exchange, answer, first_s=first_s, silence_s=silence_s)
        self.lease = lease


def _count_in(slot: Slot, answer: Generation) -> None:
    """What the slot holds of the answer when the engine works on it no more."""
    there, prompt_tokens = slot.n_prompt_tokens, answer.prompt_tokens
    made = there - prompt_tokens + 1 if 0 < prompt_tokens <= there else 0
    answer.count(min(there, prompt_tokens or there), made, answer.cached_tokens or slot.n_prompt_tokens_cache)


def _with_slot(body: bytes, lease: SlotLease) -> bytes:
    """The rest of a chat's `body`, begun with the slot that it takes and whether what that holds may be reused."""
    return b'{"id_slot":%d,"cache_prompt":%b,%b' % (lease.slot, b"true" if lease.reuse else b"false", body)


def _lora(info: EngineInfo, name: str) -> bytes:
    """The part of a body that applies the adapter `name` and no other: nothing is left to the server's default."""
    if not info.adapters:
        return b""
    scales = [{"id": number, "scale": float(each.name == name)} for number, each in enumerate(info.adapters)]
    return b'"lora":%b,' % _encode(scales)


def _slot_body(chat: Chat, prompt: bytes) -> dict[str, Any]:
    body = {**chat_body(chat, prompt), **LLAMA.more}
    if chat.schema is not None:
        body["grammar"] = grammar_of(chat.schema)
    return body
