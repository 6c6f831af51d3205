"""One answer under way in llama.cpp's server: what it says, what it has computed, and how its work is ended.

Who leaves early hangs up, and what the engine had computed by then is known only once it has let go. It lets go within
a second or the batch that it computes, says so by hanging up too, and shows by its slot how far it came: the slot holds
the prompt and every token of the answer but the last, which was chosen and not computed on. Until then the slot takes
no other request.

No engine is believed: an answer that has more tokens than were asked for, or more bytes than these can hold, is cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain

from allod.core.errors import AllodError, Unavailable
from allod.core.requests import Chat, Completion, Finish, Json, Piece, Pieces
from allod.engine.adapters.llama_slots import SlotLease
from allod.engine.adapters.llama_wire import (
    Event,
    Slot,
    Timings,
    TokenUsage,
    openai_logprobs,
    read_events,
    read_refusal,
)
from allod.engine.engine import Tally
from allod.engine.http import Exchange, Response

MAX_LINE_BYTES = 1 << 20
TOKEN_BYTES = 1 << 10  # no token has more of text
EVENT_BYTES = 1 << 15  # nor does an event about one, with twenty alternatives, each with its bytes
FREE_EVENTS = 1 << 10  # that are not about a token of the answer
GATHERED_BYTES = 16 << 10  # of an answer that nobody reads as it comes, before they are looked at
LINES_AT_ONCE = 256  # to read before others have their turn, by a sleep of 0: what has come is not awaited
LAST_WORD_S = 1.0  # until a response ends that has said that it is done


class Generation:
    """An answer as its pieces make it, and what the engine says that it took. `is_cut`: the engine went on too long."""

    def __init__(self, chat: Chat, context_tokens: int, tally: Tally) -> None:
        self.max_tokens = min(chat.sampling.max_tokens or context_tokens, context_tokens)
        self.prompt_tokens = 0  # of the whole prompt, as the engine says
        self.is_cut = False
        self._context_tokens = context_tokens
        self._top_logprobs = chat.top_logprobs
        self._tally = tally
        self._texts: list[str] = []
        self._logprobs: list[tuple[Json, ...]] = []  # of each text, where they were asked for
        self._num_taken = 0
        self._num_bytes = 0
        self._finish: Finish | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything of the prompt or the answer is known to have been computed."""
        return self._tally.is_known

    @property
    def has_words(self) -> bool:
        """Whether the answer itself has begun."""
        return bool(self._texts) or self._tally.completion_tokens > 0

    def count(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """What the engine says that there is by now; what is impossible is not believed: more than was asked for,
        or less than it has shown."""
        if num_texts := len(self._texts):
            prompt_tokens = max(prompt_tokens, self.prompt_tokens, 1)
            completion_tokens = max(completion_tokens, num_texts - 1, 1)  # an event more than tokens is honest
        prompt_tokens = min(max(prompt_tokens, self._tally.prompt_tokens), self._context_tokens)
        completion_tokens = min(max(completion_tokens, self._tally.completion_tokens), self.max_tokens)
        self._tally.count(prompt_tokens, completion_tokens, min(cached_tokens, prompt_tokens))

    def count_in(self, slot: Slot) -> None:
        """What the slot holds of it when the engine works on it no more."""
        prompt_tokens = min(slot.n_prompt_tokens, self.prompt_tokens or slot.n_prompt_tokens)
        made = slot.n_prompt_tokens - self.prompt_tokens + 1 if 0 < self.prompt_tokens <= slot.n_prompt_tokens else 0
        self.count(prompt_tokens, made, self._tally.cached_tokens or slot.n_prompt_tokens_cache)

    def add(self, events: Iterable[Event]) -> bool:
        """Take up what events say of the work and the answer, up to where it is cut; whether they add text to it.

        What was computed is counted once for all of them, and before any text of theirs is passed on.
        """
        texts, most = self._texts, self.max_tokens
        num_before = num_texts = len(texts)
        used: TokenUsage | Timings | None = None
        for event in events:
            timings = event.timings
            if event.usage is not None and used is not None:
                self.count(*used.counts())  # the last word may be less than what was said before
            used = event.usage or timings or used
            if event.prompt_progress is not None:
                self.prompt_tokens = event.prompt_progress.total
            if not event.choices or self.is_cut:
                continue
            choice = event.choices[0]
            if choice.finish_reason is not None:
                self._finish = "length" if choice.finish_reason == "length" else "stop"
            if choice.delta is None or not (text := choice.delta.content):
                continue
            self._num_bytes += len(text) if text.isascii() else len(text.encode())
            # an event more than tokens is honest: what was held back because it might have been a stop sequence
            made = num_texts + 1 if timings is None else timings.predicted_n
            if num_texts > most or made > most or self._num_bytes > most * TOKEN_BYTES:
                self._finish, self.is_cut = "length", True
                continue
            texts.append(text)
            num_texts += 1
            if self._top_logprobs is not None:
                self._logprobs.append(openai_logprobs(choice.logprobs, self._top_logprobs))
        if used is not None:
            self.count(*used.counts())
        return num_texts > num_before

    def take_pieces(self) -> Pieces:
        """The pieces that were added since they were last taken."""
        start, self._num_taken = self._num_taken, len(self._texts)
        texts = self._texts[start:]
        return list(map(Piece, texts, self._logprobs[start:])) if self._logprobs else list(map(Piece, texts))

    def completion(self) -> Completion:
        """The whole answer. Raises Unavailable where it breaks off."""
        if self._finish is None:
            raise Unavailable("the engine was lost in mid-answer", code="engine_lost", retry_after_s=1)
        tally = self._tally
        made = tally.completion_tokens if tally.is_known else len(self._texts)  # it counts nothing: then what it said
        self.count(max(self.prompt_tokens, 1), made, tally.cached_tokens)
        usage = tally.usage
        assert usage is not None
        logprobs = tuple(chain.from_iterable(self._logprobs))
        return Completion("".join(self._texts), self._finish, usage, logprobs=logprobs)


class AnswerReading:
    """The pieces of an answer, read from its exchange as they come; `lease` is of the slot that it is made in.

    `is_gathered` where nobody waits for the parts: then much of the answer is looked at together.
    """

    def __init__(self, exchange: Exchange, answer: Generation, lease: SlotLease, *, silence_s: float) -> None:
        self.is_gathered = False
        self.exchange = exchange
        self.answer = answer
        self.lease = lease
        self._silence_s = silence_s
        self._lines: deque[bytes] = deque()  # that have come and were not looked at
        self._rest = b""
        self._num_bytes = 0
        self._max_bytes = (answer.max_tokens + FREE_EVENTS) * EVENT_BYTES
        self._is_done = False
        self._failure: AllodError | None = None

    async def goes_on(self) -> bool:
        """Whether more of its text has come. Raises the error that the engine reports."""
        if not self.lease.begun and (status := await self.exchange.status()) != 200:
            raise await self._refusal(status)
        if self._lines:
            await asyncio.sleep(0)
        while not self.answer.is_cut:
            if self._lines and self._understand():
                return True
            if self._lines:
                await asyncio.sleep(0)
            elif self._failure is not None:
                raise self._failure
            elif self._is_done or not (data := await self._read_more()):
                break
            else:
                self._take(data)
        return False

    async def _read_more(self) -> bytes:
        """What has come; more of it at once where the answer has begun and nobody waits for its parts."""
        if not self.answer.has_words:
            return await self.exchange.read()
        self.exchange.bound_silence(self._silence_s)
        return await self.exchange.read(GATHERED_BYTES if self.is_gathered else 1)

    async def last_word(self) -> None:
        """Wait a little for the end of a response that is done, so that its connection can be used again."""
        if self._is_done and not self.exchange.is_complete:
            self.exchange.bound_silence(LAST_WORD_S)
            with suppress(Unavailable):
                await self.exchange.read()

    async def hear_out(self) -> None:
        """Hear what is still said, for what it says of the work. Raises Unavailable when the engine hangs up."""
        while data := await self.exchange.read():
            self._take(data)
            while self._lines:
                self._understand()
                await asyncio.sleep(0)

    def _take(self, data: bytes) -> None:
        self.lease.begun = True
        self._num_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(filter(None, lines))
        if len(self._rest) > MAX_LINE_BYTES or self._num_bytes > self._max_bytes:
            raise Unavailable("the engine's answer has no end", code="engine_response")

    def _understand(self) -> bool:
        """Look at some lines; whether there was text in them. What is said after `[DONE]` is no part of the answer."""
        lines = [self._lines.popleft() for _ in range(min(len(self._lines), LINES_AT_ONCE))]
        events: list[Event] = []
        try:
            if read_events(lines, events):
                self._is_done = True
                self._lines.clear()
        except AllodError as error:  # for whoever has read what came before it
            self._failure = error
            self._lines.clear()
        return self.answer.add(events)

    async def _refusal(self, status: int) -> AllodError:
        body = b""
        while data := await self.exchange.read():
            body += data
            if len(body) > MAX_LINE_BYTES:
                raise Unavailable("the engine's answer has no end", code="engine_response")
        return read_refusal(Response(status, body))
