"""OpenAI's own client against a real gateway: what it reads, what it is refused, and the evidence it is handed."""

from __future__ import annotations

import http.client
import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Gateway

from allod.core.statements.receipt import ANSWER, REFUSAL, Statement, check_statement
from allod.prove.receipts.bundle import parse_bundle
from allod.prove.trust import Trust
from allod.prove.verify import verify

QUESTION: Any = {"role": "user", "content": "Will it rain in Tywyn?"}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, text: str = QUESTION["content"], **options: Any) -> Any:
    return client.chat.completions.create(model="echo", messages=[{"role": "user", "content": text}], **options)


def refusal(client: openai.OpenAI, **options: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": "echo", "messages": [QUESTION], **options})
    return caught.value


def bundle_of(gateway: Gateway, receipt_id: str) -> bytes:
    """The bundle as `GET /v1/receipts/{id}` hands it out, waited for: what broke off is recorded a moment later."""
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    try:
        for _ in range(200):
            connection.request("GET", f"/v1/receipts/{receipt_id}", headers=gateway.headers)
            response = connection.getresponse()
            data = response.read()
            if response.status == 200:
                return data
            time.sleep(0.02)
    finally:
        connection.close()
    raise AssertionError(f"no receipt {receipt_id}: {data!r}")


def statement_of(gateway: Gateway, receipt_id: str) -> Statement:
    """The statement of a receipt that verifies against the realm's own trust file."""
    data = bundle_of(gateway, receipt_id)
    verify(data, Trust.parse((gateway.home / "trust.policy").read_text()))
    return check_statement(parse_bundle(data).statement)


# Answers


def test_a_whole_answer(client: openai.OpenAI) -> None:
    """Text, reason, usage: the echo engine's answer is the question."""
    answer = ask(client, seed=1, temperature=0, max_tokens=50, user="someone")
    assert answer.choices[0].message.content == QUESTION["content"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens == 10
    assert answer.model == "echo"


def test_an_answer_at_its_limit_says_so(client: openai.OpenAI) -> None:
    """`length`, whole and streamed."""
    assert ask(client, max_tokens=2).choices[0].finish_reason == "length"
    reasons = [chunk.choices[0].finish_reason for chunk in ask(client, max_tokens=2, stream=True)]
    assert reasons == [None, None, None, "length"]


def test_a_stream_is_well_formed(client: openai.OpenAI) -> None:
    """Role first, then text, then the reason, with one id throughout and no usage that nobody asked for."""
    chunks = list(ask(client, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == QUESTION["content"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_and_only_when_asked_for(client: openai.OpenAI) -> None:
    """Without choices, as the dialect has it."""
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage.total_tokens == 10


def test_a_stream_ends_with_done_and_holds_nothing_else(gateway: Gateway) -> None:
    """On the wire: `data:` lines with JSON, blank lines between, and [DONE] at the very end."""
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    body = json.dumps({"model": "echo", "messages": [QUESTION], "stream": True})
    connection.request("POST", "/v1/chat/completions", body, gateway.headers)
    response = connection.getresponse()
    *events, done, rest = response.read().split(b"\n\n")
    connection.close()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(json.loads(event.removeprefix(b"data: "))["object"] == "chat.completion.chunk" for event in events)


def test_the_clients_own_accumulator_reads_it(client: openai.OpenAI) -> None:
    """The client's own accumulator arrives at the whole answer."""
    with client.chat.completions.stream(model="echo", messages=[QUESTION]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == QUESTION["content"]


def test_logprobs_come_when_asked_for(client: openai.OpenAI) -> None:
    """One entry a token, with alternatives; whole and streamed; and none otherwise."""
    entries = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == QUESTION["content"]
    assert all(len(entry.top_logprobs) == 1 for entry in entries)
    streamed = [
        entry
        for chunk in ask(client, logprobs=True, top_logprobs=1, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == entries
    assert ask(client).choices[0].logprobs is None


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    """`json_schema` leads to JSON with the required keys."""
    schema = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
    answer = ask(client, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    assert json.loads(answer.choices[0].message.content) == {"town": ""}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_is_a_call(client: openai.OpenAI, choice: Any, stream: bool) -> None:
    """Its arguments satisfy the tool's schema, and there is no text beside it."""
    answer: Any
    if stream:
        with client.chat.completions.stream(
            model="echo", messages=[QUESTION], tools=[WEATHER], tool_choice=choice
        ) as events:
            answer = events.get_final_completion()
    else:
        answer = ask(client, tools=[WEATHER], tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"town": ""}
    assert not answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_an_offered_call_is_found(client: openai.OpenAI, stream: bool) -> None:
    """A model that writes a call calls: nothing of it is shown as text, not even in a stream."""
    text = '<tool_call>\n{"name": "weather", "arguments": {"town": "Tywyn by the sea"}}\n</tool_call>'
    if stream:
        chunks = list(ask(client, text, tools=[WEATHER], stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    else:
        calls = ask(client, text, tools=[WEATHER]).choices[0].message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", {"town": "Tywyn by the sea"})
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_at_most_where_only_one_was_asked_for(client: openai.OpenAI, stream: bool) -> None:
    """`parallel_tool_calls: false` is kept, whole and streamed."""
    text = '<tool_call>{"name": "weather", "arguments": {"town": "Tywyn"}}</tool_call>' * 2
    for allowed in (True, False):
        asked = ask(client, text, tools=[WEATHER], parallel_tool_calls=allowed, stream=stream)
        if stream:
            calls = [call for chunk in asked for call in chunk.choices[0].delta.tool_calls or []]
        else:
            calls = asked.choices[0].message.tool_calls
        assert len(calls) == (2 if allowed else 1)


def test_text_that_only_looked_like_a_call_is_all_there(client: openai.OpenAI) -> None:
    """What was held back is streamed in full once it turns out to be text."""
    text = '{"name": "lottery", "arguments": {}} is no tool of mine'
    chunks = ask(client, text, tools=[WEATHER], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_embeddings_as_numbers_and_packed(client: openai.OpenAI) -> None:
    """The client's default (base64, unpacked by itself) and plain numbers agree to single precision."""
    packed = client.embeddings.create(model="echo", input=["a cat", "a dog"])
    plain = client.embeddings.create(model="echo", input=["a cat", "a dog"], encoding_format="float")
    assert [item.index for item in plain.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.isclose(math.hypot(*one.embedding), 1, abs_tol=1e-5)
    assert plain.usage.prompt_tokens == 4


def test_the_models_that_are_served(client: openai.OpenAI) -> None:
    """Listed and looked up by name; another name is not found."""
    (model,) = client.models.list().data
    assert model.id == "echo"
    assert client.models.retrieve("echo") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


# Errors


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    """404 with the name that there is; never another model's answer."""
    error = refusal(client, model="gpt-5")
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "'echo'" in error.message


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_request_is_told_where(
    client: openai.OpenAI, changes: dict[str, Any], param: str | None, stream: bool
) -> None:
    """400 with OpenAI's error, whole or to be streamed: the client raises its own class for it."""
    error = refusal(client, stream=stream, **changes)
    assert isinstance(error, openai.BadRequestError)
    assert error.type == "invalid_request_error"
    assert error.param == (param or "tools[0].function.parameters")
    assert isinstance(error.code, str)


def test_a_prompt_beyond_the_context_has_openais_code(client: openai.OpenAI) -> None:
    """Clients that shorten and try again look for it; streamed, it still comes as a status."""
    for stream in (False, True):
        error = refusal(client, messages=[{"role": "user", "content": "word " * 5000}], stream=stream)
        assert (error.status_code, error.code, error.param) == (400, "context_length_exceeded", "messages")


def test_a_wrong_key_is_an_authentication_error(gateway: Gateway) -> None:
    """The client's own class for 401."""
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="allod-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        stranger.models.list()
    assert caught.value.code == "invalid_api_key"


# Labels


@pytest.mark.parametrize("stream", [False, True])
def test_official_work_is_answered_under_its_label(gateway: Gateway, client: openai.OpenAI, stream: bool) -> None:
    """The receipt carries the label that was declared, and so does the answer itself."""
    headers = {"x-allod-tier": "OFFICIAL", "x-allod-purpose": "casework"}
    raw = client.chat.completions.with_raw_response.create(
        model="echo", messages=[QUESTION], extra_headers=headers, stream=stream
    )
    assert {name: raw.headers[name] for name in headers} == headers
    for _ in raw.parse() if stream else ():
        pass
    label = statement_of(gateway, raw.headers["x-allod-receipt"]).predicate["policy"]["label"]
    assert label == {"tier": "OFFICIAL", "markings": [], "jurisdictions": None, "purposes": ["casework"]}


def test_a_person_s_number_marks_the_request(gateway: Gateway, client: openai.OpenAI) -> None:
    """What the text holds counts as declared: nobody has to remember to say so. Marked, it needs a sealed engine."""
    question = {"role": "user", "content": "Who is 943 476 5919?"}  # the NHS number of no patient
    error = refusal(client, messages=[question])
    assert (error.status_code, error.code) == (403, "policy_denied")
    assert "needs-a-sealed-engine" in error.message
    policy = statement_of(gateway, error.response.headers["x-allod-receipt"]).predicate["policy"]
    assert (policy["label"]["markings"], policy["rules"]) == (["PERSONAL DATA"], ["needs-a-sealed-engine"])


def test_where_it_may_not_be_processed_it_is_not(client: openai.OpenAI) -> None:
    """The caveat leaves one country, and nobody has said that this site is there."""
    error = refusal(client, extra_headers={"x-allod-tier": "SECRET", "x-allod-markings": "UK EYES ONLY"})
    assert (error.status_code, error.code) == (403, "policy_denied")
    assert "outside-jurisdiction" in error.message


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_secret_is_refused_with_a_receipt(
    gateway: Gateway, client: openai.OpenAI, stream: bool, tmp_path: Path
) -> None:
    """403, the reason, and a bundle of the refusal that `allod verify` accepts."""
    error = refusal(client, stream=stream, extra_headers={"x-allod-tier": "TOP SECRET"})
    assert (error.status_code, error.code) == (403, "policy_denied")
    assert "above-accreditation" in error.message
    receipt_id = error.response.headers["x-allod-receipt"]
    file = tmp_path / "refusal.receipt.json"
    file.write_bytes(bundle_of(gateway, receipt_id))
    verified = gateway.allod("verify", str(file))
    assert verified.returncode == 0, verified.stdout
    assert verified.stdout.endswith("verified\n")
    statement = statement_of(gateway, receipt_id)
    assert (statement.kind, statement.id) == (REFUSAL, receipt_id)
    assert statement.predicate["policy"]["decision"] == "forbid"
    assert (statement.predicate["answer"], statement.predicate["model"]) == (None, None)


@pytest.mark.parametrize(
    "headers",
    [{"x-allod-tier": "COSMIC"}, {"x-allod-markings": "NOFORN"}, {"x-allod-purpose": "care"}],
    ids=str,
)
def test_an_unknown_label_is_refused(client: openai.OpenAI, headers: dict[str, str]) -> None:
    """400: a word that nobody knows is never taken for a low one."""
    error = refusal(client, extra_headers=headers)
    assert (error.status_code, error.code) == (400, "unknown_label")


# Receipts


def test_every_answer_names_its_receipt(gateway: Gateway, client: openai.OpenAI) -> None:
    """Chat whole and streamed, and embeddings: the header's receipt is in the log and is an answer's."""
    whole = client.chat.completions.with_raw_response.create(model="echo", messages=[QUESTION], seed=5)
    streamed = client.chat.completions.with_raw_response.create(model="echo", messages=[QUESTION], stream=True, seed=5)
    list(streamed.parse())
    embedded = client.embeddings.with_raw_response.create(model="echo", input="a cat")
    raws: list[Any] = [whole, streamed, embedded]
    ids = [raw.headers["x-allod-receipt"] for raw in raws]
    assert len(set(ids)) == 3
    for raw, receipt_id in zip(raws, ids, strict=True):
        assert raw.headers["x-request-id"] == receipt_id
        statement = statement_of(gateway, receipt_id)
        assert (statement.kind, statement.id) == (ANSWER, receipt_id)
    predicate = statement_of(gateway, ids[0]).predicate
    assert predicate["request"]["params"]["seed"] == 5
    assert (predicate["request"]["tokens"], predicate["answer"]["tokens"]) == (5, 5)


def test_an_answer_that_is_kept_back_names_its_receipt(gateway: Gateway, client: openai.OpenAI) -> None:
    """The engine has worked, the tenant is charged: the error says where that is written down."""
    schema = {"required": ["a"], "properties": {"a": {"oneOf": [{"type": "string"}]}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    error = refusal(client, response_format=wanted)
    assert (error.status_code, error.code) == (400, "schema_not_kept")
    receipt_id = error.response.headers["x-allod-receipt"]
    assert statement_of(gateway, receipt_id).id == receipt_id


def test_a_receipt_opens_with_what_was_sent_and_answered(gateway: Gateway) -> None:
    """The exact body and the exact answer verify; one character more in either does not."""
    body = json.dumps({"model": "echo", "messages": [QUESTION], "seed": 1})
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    connection.request("POST", "/v1/chat/completions", body, gateway.headers)
    response = connection.getresponse()
    content = json.loads(response.read())["choices"][0]["message"]["content"]
    connection.close()
    trust = Trust.parse((gateway.home / "trust.policy").read_text())
    bundle = json.loads(bundle_of(gateway, response.headers["x-allod-receipt"]))
    bundle["opening"] |= {"request": body, "answer": f'{{"content":{json.dumps(content)},"tool_calls":[]}}'}
    assert verify(json.dumps(bundle).encode(), trust).opened == ("request", "answer")
    for text in ("request", "answer"):
        changed = {**bundle, "opening": {**bundle["opening"], text: bundle["opening"][text] + " "}}
        with pytest.raises(Exception, match="committed"):
            verify(json.dumps(changed).encode(), trust)


def test_no_receipt_holds_a_word_of_question_or_answer(gateway: Gateway, client: openai.OpenAI) -> None:
    """Commitments only."""
    raw = client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": "xylophone"}], stop=["zither"], user="harpist"
    )
    statement = parse_bundle(bundle_of(gateway, raw.headers["x-allod-receipt"])).statement
    assert not [word for word in (b"xylophone", b"zither", b"harpist") if word in statement]


# Leaving


def requests_inside(gateway: Gateway) -> float:
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("allod_requests_inside ")))


def wait_until_inside(gateway: Gateway, number: float) -> None:
    for _ in range(200):
        if requests_inside(gateway) == number:
            return
        time.sleep(0.02)
    raise AssertionError(f"{requests_inside(gateway)} requests are inside, not {number}")


def test_a_client_that_leaves_frees_the_engine(gateway: Gateway) -> None:
    """Nobody computes for nobody: the turn is given back, and what was sent has a receipt that says `cancelled`."""
    text = " ".join(["x" * 1000] * 3900)  # more than the buffers on the way hold
    body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": text}], "stream": True}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        reader.settimeout(20)
        reader.connect((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: {len(body)}\r\n"
        reader.sendall(f"{head}authorization: Bearer {gateway.key}\r\n\r\n".encode() + body)
        began = reader.recv(4096)
        wait_until_inside(gateway, 1)
    wait_until_inside(gateway, 0)
    receipt_id = began.partition(b"x-allod-receipt: ")[2][:32].decode()
    answer = statement_of(gateway, receipt_id).predicate["answer"]
    assert (answer["finish"], answer["tokens"] > 0) == ("cancelled", True)  # the pieces that went out
