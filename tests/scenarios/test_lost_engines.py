"""The engine stops, or is killed, under two hundred streams: everybody is told, it comes back, and the counts agree."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY, Gateway
from tests.scenarios.test_metering import agree, receipts_of

from allod.serve.fair_queue import cost_of

pytestmark = [pytest.mark.slow, pytest.mark.long]
Start = Callable[..., AbstractContextManager[Gateway]]
SETTINGS = """
[model]
slots = 8
context_tokens = 256
[tenants]
max_wait_s = 600
[deadlines]
probe_s = 1
hung_s = 5
"""
NUM_STREAMS = 200
MAX_TOKENS = 12
DEADLINE_S = 400  # for all of them; what is asked of each is that it ends, and how


def get(gateway: Gateway, path: str, key: str = "") -> tuple[int, Any]:
    request = urllib.request.Request(f"{gateway.url}{path}", headers={"authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


async def stream_once(gateway: Gateway) -> str:
    """How one stream ends: `whole`, or the status or place and the code of its error. Anything else is a failure."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(
        {
            "model": TINY,
            "stream": True,
            "max_tokens": MAX_TOKENS,
            "messages": [{"role": "user", "content": "Tell a story."}],
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {gateway.key}\r\n"
    writer.write(f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        assert b"retry-after" in head.lower(), head
        return f"{head[9:12].decode()} {json.loads(body)['error']['code']}"
    assert body.endswith(b"0\r\n\r\n"), body[-200:]  # the response itself is whole
    if b"data: [DONE]" in body:
        return "whole"
    (error,) = [line for line in body.split(b"\n") if line.startswith(b'data: {"error"')]
    return f"event {json.loads(error[6:])['error']['code']}"


async def harmed(gateway: Gateway, number: signal.Signals) -> tuple[Counter[str], set[int]]:
    """How two hundred streams end whose engine gets that signal while it answers, and what /readyz said meanwhile."""
    streams = [asyncio.create_task(stream_once(gateway)) for _ in range(NUM_STREAMS)]
    before = len(receipts_of(gateway))
    while len(receipts_of(gateway)) < before + 8:  # noqa: ASYNC110 (some have ended, eight are being answered, the others wait)
        await asyncio.sleep(0.05)
    _, seal = await asyncio.to_thread(get, gateway, "/v1/seal", gateway.key)
    os.kill(seal["engine"]["pid"], number)
    ready: set[int] = set()
    for _ in range(10 * DEADLINE_S):
        status, _ = await asyncio.to_thread(get, gateway, "/readyz")
        ready.add(status)
        if 503 in ready and status == 200:
            break
        await asyncio.sleep(0.1)
    return Counter(await asyncio.gather(*streams)), ready


def test_an_engine_that_stops_or_dies_under_two_hundred_streams(start_gateway: Start, tmp_path: Path) -> None:
    """SIGSTOP and kill -9, twice each: every stream ends as streams do, service is back by itself, the log says which
    answers broke off, and receipts, ledger and fair turns agree to the token."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "allod.toml").write_text(SETTINGS)
    with start_gateway(TINY) as gateway:
        num_broken = 0
        for number in (signal.SIGSTOP, signal.SIGKILL) * 2:
            began_s = time.monotonic()
            ends, ready = asyncio.run(asyncio.wait_for(harmed(gateway, number), DEADLINE_S))
            print(number.name, dict(ends), ready, f"{time.monotonic() - began_s:.0f} s")
            assert ready == {200, 503}
            assert set(ends) <= {"whole", "event engine_lost", "503 engine_starting", "503 engine_lost"}
            assert ends["event engine_lost"] <= 8  # those that had begun; who had no word was answered by the next
            assert ends["whole"] >= NUM_STREAMS - 16
            assert sum(ends.values()) == NUM_STREAMS
            num_broken += NUM_STREAMS - ends["whole"]
        assert num_broken > 0
        agree(gateway, at_least=4 * NUM_STREAMS)
        receipts = receipts_of(gateway)
        assert sum(one["answer"]["finish"] == "error" for one in receipts) == num_broken
        admin_key = (home / "admin.key").read_text().strip()
        _, shares = get(gateway, "/v1/governance/shares", admin_key)
        spent = sum(cost_of(one["request"]["tokens"] or 0, one["answer"]["tokens"] or 0) for one in receipts)
        assert sum(one["service"] for one in shares["data"]) == spent
    log = (home / "gateway.out").read_text() if (home / "gateway.out").exists() else ""
    assert "said nothing for 5 s although it was asked and is being started again" in log
