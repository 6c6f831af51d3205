"""What llama.cpp's server says, read strictly: whatever is not an answer is a failed engine, never our own fault."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Json
from allod.engine.http import Response

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]  # of tokens: anything else is none
_Said = TypeVar("_Said")

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
    """What was computed by now: of the prompt without what was there before (`cache_n`), and of the answer."""

    cache_n: Count = 0
    prompt_n: Count = 0
    predicted_n: Count = 0

    def counts(self) -> tuple[int, int, int]:
        """As those of `TokenUsage`."""
        return self.cache_n + self.prompt_n, self.predicted_n, self.cache_n


class Progress(msgspec.Struct, gc=False):
    """How far the prompt is. `total`: its tokens."""

    total: Count = 0


class Failure(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: int = 500
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class Event(msgspec.Struct, gc=False):
    """One event of a streamed answer, or the body of a refusal."""

    choices: list[Choice] = []
    usage: TokenUsage | None = None
    timings: Timings | None = None
    prompt_progress: Progress | None = None
    error: Failure | None = None


class Slot(msgspec.Struct):
    """What a slot does, or did last. `n_prompt_tokens`: of the prompt and the answer, as far as they were computed."""

    id: int
    is_processing: bool = False
    n_prompt_tokens: Count = 0
    n_prompt_tokens_cache: Count = 0


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: TokenUsage | None = None


_events = msgspec.json.Decoder(Event)
_read_event = _events.decode
_slots = msgspec.json.Decoder(list[Slot])
_vectors = msgspec.json.Decoder(_Vectors)


def read_events(lines: Iterable[bytes], events: list[Event]) -> bool:
    """Add the events in some lines of a stream; whether they say that it is done, after which nothing counts.

    Raises the error that an event reports, Unavailable for what cannot be read; what came before it is in `events`.
    """
    try:
        for line in lines:
            if line.startswith(b"data: {"):
                event = _read_event(line[6:])
            elif line.startswith(b"error: {"):
                event = _read_event(line[7:])
            elif line.startswith(b"data: [DONE]"):
                return True
            else:
                continue
            if event.error is not None:
                raise _error(event.error)
            events.append(event)
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise _unreadable() from reason
    return False


def read_refusal(response: Response) -> AllodError:
    """The error that a response reports. Raises Unavailable for what cannot be read."""
    return _error(_decode(_events, response.body).error or Failure(code=response.status))


def read_slot(response: Response, number: int) -> Slot:
    """One slot of a response to `GET /slots`. Raises Unavailable where it is not there."""
    if response.status != 200:
        raise read_refusal(response)
    for slot in _decode(_slots, response.body):
        if slot.id == number:
            return slot
    raise Unavailable("the engine does not know its slot", code="engine_response")


def read_vectors(response: Response, num_texts: int) -> tuple[list[tuple[float, ...]], int]:
    """The vectors of so many texts, in their order, and how many tokens the engine says that those had.

    Raises Unavailable unless there is one for each, all of one length.
    """
    if response.status != 200:
        raise read_refusal(response)
    answer = _decode(_vectors, response.body)
    ordered = sorted(answer.data, key=lambda item: item.index)
    lengths = {len(item.embedding) for item in ordered}
    if [item.index for item in ordered] != list(range(num_texts)) or len(lengths) != 1 or 0 in lengths:
        raise Unavailable("the engine's vectors are not those that were asked for", code="engine_response")
    return [tuple(item.embedding) for item in ordered], answer.usage.prompt_tokens if answer.usage else 0


def openai_logprobs(logprobs: Logprobs | None, num_alternatives: int | None) -> tuple[Json, ...]:
    """llama.cpp's entries carry a token `id` that OpenAI's clients do not expect."""
    if logprobs is None:
        return ()
    return tuple(
        {**_entry(entry), "top_logprobs": [_entry(other) for other in entry.top_logprobs[:num_alternatives]]}
        for entry in logprobs.content or ()
    )


def _decode(decoder: msgspec.json.Decoder[_Said], body: bytes) -> _Said:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise _unreadable() from reason


def _unreadable() -> Unavailable:
    return Unavailable("the engine's answer is not readable", code="engine_response")


def _error(error: Failure) -> AllodError:
    """llama.cpp's error as one of ours."""
    if error.type == "exceed_context_size_error":
        reason = f"the prompt has {error.n_prompt_tokens} tokens and the context holds {error.n_ctx}"
        hint = "tools and schemas are part of a prompt"
        return Invalid(reason, code="context_length_exceeded", param="messages", hint=hint)
    if "too large to process" in error.message:  # of embeddings, as a 500
        return Invalid("a text is longer than the context", code="context_length_exceeded", param="input")
    if 400 <= error.code < 500:
        return Invalid(error.message, code="refused_by_engine")
    return Unavailable(error.message or "the engine failed", code="engine_failed", retry_after_s=1)


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes}
