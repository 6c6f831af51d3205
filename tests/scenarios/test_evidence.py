"""A receipt must say what was so: of the answer as the client got it, of the model that ran, of the seal it ran in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Gateway
from tests.scenarios.test_answers import http_get

from allod.core.canonical import JsonValue, canonical_json, digest_of
from allod.core.statements.receipt import check_statement
from allod.prove.receipts.bundle import parse_bundle
from allod.prove.trust import Trust
from allod.prove.verify import verify

Start = Callable[..., AbstractContextManager[Gateway]]
WEATHER: Any = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def test_a_call_after_text_is_committed_to_as_it_was_streamed(gateway: Gateway) -> None:
    """Text that has gone out before a tool call is part of the answer, and the receipt opens with both."""
    said = 'Let me look. <tool_call>{"name": "weather", "arguments": {"city": "Tywyn"}}</tool_call>'
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="echo",
            messages=[{"role": "user", "content": said}],
            tools=[{"type": "function", "function": WEATHER}],
            stream=True,
        )
        chunks: Any = raw.parse()
        text, calls = "", []
        for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            calls += [call.function for call in chunk.choices[0].delta.tool_calls or ()]
    assert text == said
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("weather", {"city": "Tywyn"})]
    bundle = json.loads(http_get(gateway, f"/v1/receipts/{raw.headers['x-allod-receipt']}"))
    made: list[JsonValue] = [{"name": call.name, "arguments": call.arguments} for call in calls]
    bundle["opening"]["answer"] = canonical_json({"content": text, "tool_calls": made}).decode()
    verify(json.dumps(bundle).encode(), Trust.parse(http_get(gateway, "/v1/trust")))


def test_headers_without_end_are_cut_off(gateway: Gateway) -> None:
    """Whoever has no key cannot make the gateway keep what they send: past 64 KiB the connection is closed."""
    where, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((where, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ")
        with pytest.raises(OSError, match=r"reset|pipe"):
            for _ in range(1000):
                connection.sendall(b"a" * 8192)
                time.sleep(0.001)


@pytest.mark.slow
def test_digests_in_a_receipt_can_be_looked_up(start_gateway: Start, weights: Path) -> None:
    """The seal's proof and the engine's configuration are digests of files that the realm keeps."""
    with start_gateway("smollm2-135m") as gateway:
        seal = json.loads(http_get(gateway, "/v1/seal"))
        request = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
            raw = client.chat.completions.with_raw_response.create(**request)  # type: ignore[call-overload]
        statement = parse_bundle(http_get(gateway, f"/v1/receipts/{raw.headers['x-allod-receipt']}").encode()).statement
    predicate = check_statement(statement).predicate
    assert predicate["seal"] == {"kind": "sealed", "proof": digest_of(seal["evidence"])}
    for digest in (predicate["seal"]["proof"], predicate["engine"]["config"]):
        kept = gateway.home / "evidence" / f"{digest.removeprefix('sha256:')}.json"
        assert digest_of(json.loads(kept.read_text())) == digest


@pytest.mark.slow
def test_another_model_in_the_files_place_is_not_served(start_gateway: Start, weights: Path, tmp_path: Path) -> None:
    """An engine that must be started again finds the very file that receipts name, or is not started."""
    own, other = tmp_path / "own.gguf", tmp_path / "other.gguf"
    shutil.copyfile(weights, own)
    data = bytearray(weights.read_bytes())
    data[-4096:] = bytes(4096)
    other.write_bytes(data)
    with start_gateway(str(own)) as gateway:
        engine = json.loads(http_get(gateway, "/v1/seal"))["engine"]["pid"]
        other.replace(own)
        os.kill(engine, signal.SIGKILL)
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            for _ in range(100):
                time.sleep(0.1)
                try:
                    client.chat.completions.create(
                        model="own", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
                    )
                except openai.InternalServerError as error:
                    if "SHA-256" in str(error):
                        return
    pytest.fail("the other model was served, or the reason was never said")
