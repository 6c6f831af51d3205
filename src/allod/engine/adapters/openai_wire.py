"""What a server that speaks OpenAI's interface says, read strictly: whatever is not an answer is a failed engine, never
our own fault. Servers say more than the interface does, and write errors in several ways; all are known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Json
from allod.core.shown_text import make_plain
from allod.engine.http import Response

CLIENTS_FAULT = (400, 413, 422)  # of an error: the request is wrong; every other one is the engine's, or our settings'
SHOWN_CHARS = 500  # of what an engine says went wrong
MAX_ENTRIES = 64  # log-probabilities in one event, which is about a token or a few
NOT_READABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # as JSON of the shape that it should have
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]  # of tokens: anything else is none
Said = TypeVar("Said")

# Nothing in an event can refer to itself, so the collector need not know of what each of them is made (`gc=False`).


class Delta(msgspec.Struct, gc=False):
    content: str | None = None


class TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TokenLogprob] = []


class Logprobs(msgspec.Struct):
    content: list[TokenLogprob] | None = None


class Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None
    delta: Delta | None = None
    logprobs: Logprobs | None = None


class CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: Count = 0


class TokenUsage(msgspec.Struct, gc=False):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: CachedTokens | None = None

    def counts(self) -> tuple[int, int, int]:
        """Tokens of the prompt, of the answer, and those of the prompt that were there before."""
        details = self.prompt_tokens_details
        return self.prompt_tokens, self.completion_tokens, details.cached_tokens if details else 0


class Timings(msgspec.Struct, gc=False):
    """llama.cpp: what was computed by now, of the prompt (without what was there before, `cache_n`) and the answer."""

    cache_n: Count = 0
    prompt_n: Count = 0
    predicted_n: Count = 0

    def counts(self) -> tuple[int, int, int]:
        """As those of `TokenUsage`."""
        return self.cache_n + self.prompt_n, self.predicted_n, self.cache_n


class Progress(msgspec.Struct, gc=False):
    """llama.cpp: how far the prompt is. `total`: its tokens."""

    total: Count = 0


class Failure(msgspec.Struct):
    """`code` is a word of OpenAI's, or a status (llama.cpp, vLLM); the last two fields are llama.cpp's."""

    message: str = ""
    type: str | None = None
    code: int | str | None = None
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class Event(msgspec.Struct, gc=False):
    """One event of a streamed answer, or the body of a refusal. `model`: the name that it is answered by."""

    model: str | None = None
    choices: list[Choice] = []
    usage: TokenUsage | None = None
    timings: Timings | None = None
    prompt_progress: Progress | None = None
    error: Failure | str | None = None


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: TokenUsage | None = None


_events = msgspec.json.Decoder(Event)
_read_event = _events.decode
_vectors = msgspec.json.Decoder(_Vectors)


def read_events(lines: Iterable[bytes], events: list[Event]) -> bool:
    """Add the events in some lines of a stream; whether they say that it is done, after which nothing counts.

    Raises the error that an event reports, Unavailable for what cannot be read; what came before it is in `events`.
    """
    try:
        for line in lines:
            if line.startswith(b"data: {"):
                event = _read_event(line[6:])
            elif line.startswith((b"error: {", b"data:{")):
                event = _read_event(line[line.index(b"{") :])
            elif line.startswith((b"data: [DONE]", b"data:[DONE]")):
                return True
            elif line.startswith(b"{"):  # no stream at all: an error that calls itself an answer
                event = _read_event(line)
                event.choices, event.usage = [], None
            else:
                continue
            if event.error is not None:
                raise _error_of(event.error)
            events.append(event)
    except NOT_READABLE as reason:
        raise unreadable() from reason
    return False


def read_refusal(response: Response) -> AllodError:
    """The error that a response reports, by its status where its body says nothing that can be read."""
    try:
        error = _read_event(response.body).error
    except NOT_READABLE:
        error = None
    return _error_of(error or Failure(), response.status)


def read_vectors(response: Response, num_texts: int) -> tuple[list[tuple[float, ...]], int]:
    """The vectors of so many texts, in their order, and how many tokens the engine says that those had.

    Raises Unavailable unless there is one for each, all of one length.
    """
    if response.status != 200:
        raise read_refusal(response)
    answer = decode(_vectors, response.body)
    ordered = sorted(answer.data, key=lambda item: item.index)
    lengths = {len(item.embedding) for item in ordered}
    if [item.index for item in ordered] != list(range(num_texts)) or len(lengths) != 1 or 0 in lengths:
        raise Unavailable("the engine's vectors are not those that were asked for", code="engine_response")
    return [tuple(item.embedding) for item in ordered], answer.usage.prompt_tokens if answer.usage else 0


def openai_logprobs(logprobs: Logprobs | None, num_alternatives: int | None) -> tuple[Json, ...]:
    """Without what OpenAI's clients do not expect (llama.cpp's entries carry a token `id`), and no more alternatives
    than were asked for. Raises Unavailable for more entries than there may be."""
    if logprobs is None or not logprobs.content:
        return ()
    if len(logprobs.content) > MAX_ENTRIES:
        raise unreadable()
    return tuple(
        {**_entry(entry), "top_logprobs": [_entry(other) for other in entry.top_logprobs[:num_alternatives]]}
        for entry in logprobs.content
    )


def decode(decoder: msgspec.json.Decoder[Said], body: bytes) -> Said:
    """The body of a response. Raises Unavailable for what cannot be read."""
    try:
        return decoder.decode(body)
    except NOT_READABLE as reason:
        raise unreadable() from reason


def unreadable() -> Unavailable:
    """What is said is no answer."""
    return Unavailable("the engine's answer is not readable", code="engine_response")


def _error_of(failure: Failure | str, status: int = 200) -> AllodError:
    """An engine's error as one of ours."""
    error = Failure(failure) if isinstance(failure, str) else failure
    if status < 400:  # the error came in an answer
        status = error.code if isinstance(error.code, int) else 500
    said = make_plain(error.message, limit=SHOWN_CHARS)
    if error.type == "exceed_context_size_error":
        reason = f"the prompt has {error.n_prompt_tokens} tokens and the context holds {error.n_ctx}"
        hint = "tools and schemas are part of a prompt"
        return Invalid(reason, code="context_length_exceeded", param="messages", hint=hint)
    if "too large to process" in said:  # llama.cpp, of embeddings, as a 500
        return Invalid("a text is longer than the context", code="context_length_exceeded", param="input")
    if status in CLIENTS_FAULT:
        if error.code == "context_length_exceeded" or "maximum context length" in said:  # the latter is vLLM's
            return Invalid(said, code="context_length_exceeded", param="messages")
        return Invalid(said or "the engine refuses this", code="refused_by_engine")
    if status in (401, 403):
        return Unavailable("the engine does not accept this gateway's key", code="engine_failed")  # it may quote it
    if status == 429:
        return Unavailable(said or "the engine has too much to do", code="engine_busy", retry_after_s=1)
    return Unavailable(said or f"the engine failed ({status})", code="engine_failed", retry_after_s=1)


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes}
