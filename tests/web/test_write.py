"""From our values to OpenAI's words: bodies, chunks and errors have the shapes that strict clients read."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.requests import Completion, Embeddings, Piece, ToolCall, Usage
from allod.web.http.errors import status_of
from allod.web.openai import write
from allod.web.openai.write import AnswerWriter

LOGPROB = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
CALLS = (ToolCall("f", '{"a":1}'), ToolCall("g", "{}"))


def writer(*, include_usage: bool = False) -> AnswerWriter:
    return AnswerWriter(
        id="chatcmpl-1", model="m", created_s=1_766_300_000, fingerprint="fp_1", include_usage=include_usage
    )


def events(data: bytes) -> list[Any]:
    """The JSON of each event, and the words of the last."""
    assert data.endswith(b"\n\n")
    lines = data.removesuffix(b"\n\n").split(b"\n\n")
    assert all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    texts = [line.removeprefix(b"data: ") for line in lines]
    return [text if text == b"[DONE]" else json.loads(text) for text in texts]


def chunks(completion: Completion, *, include_usage: bool = False) -> list[ChatCompletionChunk]:
    made = writer(include_usage=include_usage)
    *found, done = events(made.first() + made.pieces([Piece("Hi", (LOGPROB,))]) + made.last(completion))
    assert done == b"[DONE]"
    return [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in found]


def whole(completion: Completion) -> ChatCompletion:
    return ChatCompletion.model_validate(json.loads(writer().whole(completion)), strict=True)


def test_a_whole_answer_is_openais_object() -> None:
    """OpenAI's own model of it reads it strictly, and finds what was answered."""
    answer = whole(Completion("Hi", "stop", Usage(3, 1, 2), logprobs=(LOGPROB,)))
    (choice,) = answer.choices
    assert (answer.id, answer.model, answer.object) == ("chatcmpl-1", "m", "chat.completion")
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hi", "stop")
    assert choice.message.tool_calls is None
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert choice.logprobs.content[0].token == "Hi"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 1, 4)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_calls_are_openais_objects() -> None:
    """Ids differ from call to call, names and arguments are as the model wrote them, content is null."""
    (choice,) = whole(Completion(None, "tool_calls", Usage(), CALLS)).choices
    calls = choice.message.tool_calls or []
    assert choice.message.content is None
    assert [(call.function.name, call.function.arguments) for call in calls if call.type == "function"] == [
        ("f", '{"a":1}'),
        ("g", "{}"),
    ]
    assert len({call.id for call in calls}) == 2


def test_a_stream_is_a_role_then_text_then_a_reason() -> None:
    """Each chunk is OpenAI's, with one id and one time throughout."""
    first, piece, last = chunks(Completion("Hi", "length", Usage(3, 1)))
    assert first.choices[0].delta.role == "assistant"
    assert (piece.choices[0].delta.content, piece.choices[0].finish_reason) == ("Hi", None)
    assert last.choices[0].finish_reason == "length"
    assert last.choices[0].delta.content is None
    assert {(chunk.id, chunk.created, chunk.model) for chunk in (first, piece, last)} == {
        ("chatcmpl-1", 1_766_300_000, "m")
    }


def test_usage_comes_only_where_it_was_asked_for() -> None:
    """Then last, with no choices, and null in every chunk before it."""
    assert all(chunk.usage is None for chunk in chunks(Completion("Hi", "stop", Usage(3, 1))))
    *before, last = chunks(Completion("Hi", "stop", Usage(3, 1)), include_usage=True)
    assert all(chunk.usage is None and chunk.choices for chunk in before)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 4


def test_without_the_question_there_is_no_key_of_usage() -> None:
    """Some clients take a null for a promise."""
    assert "usage" not in events(writer().first())[0]
    assert events(writer(include_usage=True).first())[0]["usage"] is None


def test_streamed_calls_have_an_index() -> None:
    """Clients put streamed calls together by it; ids are those of the whole object."""
    completion = Completion(None, "tool_calls", Usage(), CALLS)
    _, _, calling, last = chunks(completion)
    calls = calling.choices[0].delta.tool_calls or []
    assert [call.index for call in calls] == [0, 1]
    assert last.choices[0].finish_reason == "tool_calls"
    assert [call.id for call in calls] == [call.id for call in whole(completion).choices[0].message.tool_calls or []]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_breaks_out_of_its_event(text: str) -> None:
    """Line ends, "data:" and [DONE] in an answer stay in it."""
    found = events(writer().pieces([Piece(text), Piece("and more")]))
    assert [event["choices"][0]["delta"]["content"] for event in found] == [text, "and more"]


def test_vectors_as_numbers_and_as_base64_are_the_same() -> None:
    """base64 holds little-endian float32, which is what clients unpack."""
    made = Embeddings(((0.25, -1.5), (3.0, 0.0)), Usage(5))
    plain = json.loads(write.embeddings("m", made, as_base64=False))
    packed = json.loads(write.embeddings("m", made, as_base64=True))
    CreateEmbeddingResponse.model_validate(plain, strict=True)
    assert [item["embedding"] for item in plain["data"]] == [[0.25, -1.5], [3.0, 0.0]]
    assert [struct.unpack("<2f", base64.b64decode(item["embedding"])) for item in packed["data"]] == [
        (0.25, -1.5),
        (3.0, 0.0),
    ]
    assert [item["index"] for item in packed["data"]] == [0, 1]
    assert plain["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_a_model_is_openais_object() -> None:
    """As `GET /v1/models` lists it."""
    assert Model.model_validate(write.model("m", created_s=1, owner="us"), strict=True).id == "m"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Invalid("x"), 400, "invalid_request_error"),
        (Denied("x", code="invalid_api_key"), 401, "authentication_error"),
        (Denied("x", code="policy_denied"), 403, "permission_error"),
        (Invalid("x", code="not_found"), 404, "invalid_request_error"),
        (Invalid("x", code="model_not_found"), 404, "invalid_request_error"),
        (Invalid("x", code="method_not_allowed"), 405, "invalid_request_error"),
        (Invalid("x", code="body_too_large"), 413, "invalid_request_error"),
        (Unavailable("x", code="overloaded"), 429, "rate_limit_error"),
        (Unavailable("x"), 503, "server_error"),
        (AllodError("x"), 500, "server_error"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_errors_have_their_status_and_type(error: AllodError, status: int, kind: str) -> None:
    """The class decides, a few codes refine it; `code` is always text."""
    assert status_of(error) == status
    body = json.loads(write.error(error))["error"]
    assert body == {"message": "x", "type": kind, "param": None, "code": error.code}


def test_an_errors_hint_is_part_of_its_message() -> None:
    """Clients show nothing else."""
    body = json.loads(write.error(Invalid("broken", hint="mend it", param="seed")))["error"]
    assert body["message"] == "broken (mend it)"
    assert body["param"] == "seed"


def test_no_error_is_as_long_as_a_clients_names() -> None:
    """The beginning and the end of it are enough."""
    said = write.error(Invalid("x" * 500_000 + " is unknown", param="x" * 500_000, hint="look it up"))
    assert len(said) < 4_000
    assert json.loads(said)["error"]["message"].endswith(" is unknown (look it up)")


def test_a_failure_inside_a_stream_is_an_event() -> None:
    """`data: {"error": ...}`, as clients of streams look for it."""
    (event,) = events(write.error_event(Unavailable("gone", code="engine_lost")))
    assert event["error"]["code"] == "engine_lost"


@given(st.text(), st.booleans())
def test_a_chunk_of_text_is_the_same_however_it_is_written(text: str, include_usage: bool) -> None:
    """With probabilities it is encoded whole, without them around its text: but for them the same object."""
    made = writer(include_usage=include_usage)
    (plain,), (full,) = events(made.pieces([Piece(text)])), events(made.pieces([Piece(text, (LOGPROB,))]))
    assert full["choices"][0].pop("logprobs") == {"content": [LOGPROB], "refusal": None}
    assert plain["choices"][0].pop("logprobs") is None
    assert plain == full
    assert plain["choices"][0]["delta"] == {"content": text}
