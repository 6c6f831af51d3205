"""One answer under way at an engine that speaks OpenAI's interface: what it says, and what it has computed.

No engine is believed. An answer that has more tokens than were asked for, or more bytes than these can hold, is cut; no
usage is beyond what was asked, or below what was shown; and whoever says nothing of the answer, however much else, is
silent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain

from allod.core.errors import AllodError, Unavailable
from allod.core.requests import Chat, Completion, Finish, Json, Piece, Pieces
from allod.core.shown_text import make_plain
from allod.engine.adapters.openai_wire import (
    Event,
    Timings,
    TokenUsage,
    openai_logprobs,
    read_events,
    read_refusal,
)
from allod.engine.engine import Tally
from allod.engine.http import Exchange

MAX_LINE_BYTES = 1 << 17  # of one event, or of a refusal
TOKEN_BYTES = 1 << 10  # no token has more of text
EVENT_BYTES = 1 << 15  # nor does an event about one, with twenty alternatives, each with its bytes
FREE_EVENTS = 1 << 10  # that are about no token of the prompt or the answer
GATHERED_BYTES = 16 << 10  # of an answer that nobody reads as it comes, before they are looked at
LINES_AT_ONCE = 256  # to read before others have their turn, by a sleep of 0: what has come is not awaited
BYTES_AT_ONCE = 1 << 17  # of them, or one line
LAST_WORD_S = 1.0  # until a response ends that has said that it is done


class Generation:
    """An answer as its pieces make it, and what the engine says that it took. `is_cut`: the engine went on too long.

    The prompt has `most_prompt_tokens` at most, where that can be told (0: whatever the context holds), and about
    `estimated_tokens`.
    """

    def __init__(
        self, chat: Chat, context_tokens: int, tally: Tally, *, estimated_tokens: int = 0, most_prompt_tokens: int = 0
    ) -> None:
        self.max_tokens = min(chat.sampling.max_tokens or context_tokens, context_tokens)
        self.prompt_tokens = 0  # of the whole prompt, as the engine says
        self.is_cut = False
        self.most_prompt_tokens = min(most_prompt_tokens or context_tokens, context_tokens)
        self._estimated_tokens = estimated_tokens
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
    def cached_tokens(self) -> int:
        """Of the prompt, as far as the engine has said."""
        return self._tally.cached_tokens

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
        prompt_tokens = min(max(prompt_tokens, self._tally.prompt_tokens), self.most_prompt_tokens)
        completion_tokens = min(max(completion_tokens, self._tally.completion_tokens), self.max_tokens)
        self._tally.count(prompt_tokens, completion_tokens, min(cached_tokens, prompt_tokens))

    def count_at_least(self) -> None:
        """It ends early, and the engine has counted nothing: then what it has shown, and an estimate of the prompt."""
        if not self._tally.is_known:
            self.count(self._estimated_tokens, len(self._texts), 0)

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
    """The pieces of an answer, read from its exchange as they come. It may be answered by one of `models` (none: by any
    name). `silence_s` is how long no event may come once it has words, `first_s` before.

    `is_gathered` where nobody waits for the parts: then much of the answer is looked at together. `has_begun` once the
    engine has begun to answer.
    """

    def __init__(
        self,
        exchange: Exchange,
        answer: Generation,
        *,
        first_s: float,
        silence_s: float,
        models: frozenset[str] = frozenset(),
    ) -> None:
        self.is_gathered = False
        self.has_begun = False
        self.exchange = exchange
        self.answer = answer
        self._first_s = first_s
        self._silence_s = silence_s
        self._models = models
        self._waited_s = 0.0  # since the last event
        self._now_s = asyncio.get_running_loop().time
        self._lines: deque[bytes] = deque()  # that have come and were not looked at
        self._rest = b""
        self._num_bytes = 0
        self._max_bytes = (answer.max_tokens + FREE_EVENTS) * EVENT_BYTES
        self._num_events = 0
        self._max_events = answer.max_tokens + answer.most_prompt_tokens + FREE_EVENTS
        self._is_done = False
        self._failure: AllodError | None = None

    async def goes_on(self) -> bool:
        """Whether more of its text has come. Raises the error that the engine reports."""
        if not self.has_begun and (status := await self.exchange.status()) != 200:
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
            elif self._is_done:
                break
            elif data := await self._read_more():
                self._take(data)
            elif not self._take_rest():
                break
        return False

    async def _read_more(self) -> bytes:
        """What has come; more of it at once where the answer has begun and nobody waits for its parts."""
        enough, patience_s = 1, self._first_s
        if self.answer.has_words:
            self.exchange.bound_silence(self._silence_s)
            enough, patience_s = GATHERED_BYTES if self.is_gathered else 1, self._silence_s
        if self._waited_s > patience_s:  # all that came were signs of life from beside the work
            raise Unavailable(
                f"the engine said nothing of the answer for {patience_s:.0f} s", code="engine_silent", retry_after_s=5
            )
        begin_s = self._now_s()
        data = await self.exchange.read(enough)
        self._waited_s += self._now_s() - begin_s
        return data

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
        self.has_begun = True
        self._num_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(filter(None, lines))
        if len(self._rest) > MAX_LINE_BYTES or self._num_bytes > self._max_bytes:
            raise _endless()

    def _take_rest(self) -> bool:
        """The response has ended, perhaps without the end of its last line."""
        rest, self._rest = self._rest, b""
        if rest:
            self._lines.append(rest)
        return bool(rest)

    def _understand(self) -> bool:
        """Look at some lines; whether there was text in them. What is said after `[DONE]` is no part of the answer."""
        if self._is_done:
            self._lines.clear()
            return False
        lines: list[bytes] = []
        num_bytes = 0
        while self._lines and len(lines) < LINES_AT_ONCE and num_bytes < BYTES_AT_ONCE:
            lines.append(self._lines.popleft())
            num_bytes += len(lines[-1])
        events: list[Event] = []
        try:
            if read_events(lines, events):
                self._is_done = True
                self._lines.clear()
            self._check_models(events)
        except AllodError as error:  # for whoever has read what came before it
            self._failure = error
            self._lines.clear()
        if events:
            self._waited_s = 0.0
            self._num_events += len(events)
            if self._num_events > self._max_events:
                raise _endless()
        return self.answer.add(events)

    def _check_models(self, events: list[Event]) -> None:
        """Raise Unavailable where one is of another model, and leave it and what follows out."""
        if not self._models:
            return
        for place, event in enumerate(events):
            if event.model and event.model not in self._models:
                del events[place:]
                raise Unavailable(
                    f"the engine answers as {make_plain(event.model, limit=100)}, which is not what was asked",
                    code="engine_response",
                )

    async def _refusal(self, status: int) -> AllodError:
        body = b""
        while data := await self.exchange.read():
            body += data
            if len(body) > MAX_LINE_BYTES:
                raise _endless()
        return read_refusal(self.exchange.response(status, body))


def _endless() -> Unavailable:
    return Unavailable("the engine's answer has no end", code="engine_response")
