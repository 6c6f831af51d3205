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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY, Gateway
from tests.scenarios.test_metering import agree, made, receipts_of

from allod.app.home import Home
from allod.core.times import day_of
from allod.prove.receipts.day_keys import DayKeys
from allod.serve.fair_queue import cost_of

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(4 * 900 + 600)]
Start = Callable[..., AbstractContextManager[Gateway]]
SETTINGS = """
[model]
slots = 8
context_tokens = 256
[tenants]
max_wait_s = 600
"""
NUM_STREAMS = 200
MAX_TOKENS = 12
NUM_TENANTS, KEYS_EACH = 2, 2
DEADLINE_S = 900  # for all of them; what is asked of each is that it ends, and how
NOTICED_S = 30  # ten seconds of standing still, and a busy machine; a word is not waited for as long as that
PLENTY = 10_000_000
ASKED = {"model": TINY, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": "Tell a story."}]}


@dataclass(frozen=True)
class Key:
    """One of a tenant's, and its secret."""

    tenant: str
    id: str
    secret: str


def said(gateway: Gateway, path: str, key: str = "", body: dict[str, Any] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{gateway.url}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


async def stream_once(gateway: Gateway, key: Key, begun: asyncio.Event) -> str:
    """How one stream ends: `whole`, or the status or place and the code of its error. Anything else is a failure.

    `begun` is set at its first word.
    """
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    asked = json.dumps({**ASKED, "stream": True}).encode()
    asking = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {key.secret}\r\n"
    writer.write(f"{asking}connection: close\r\ncontent-length: {len(asked)}\r\n\r\n".encode() + asked)
    answer = b""
    while more := await reader.read(1 << 16):
        answer += more
        if answer.count(b"data: ") == 1:
            begun.set()
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


async def harmed(gateway: Gateway, keys: list[Key], number: signal.Signals) -> tuple[Counter[str], float]:
    """How two hundred streams end whose engine gets that signal while it answers, and how soon /readyz said so; it has
    said that all is well again by then."""
    before = len(receipts_of(gateway))
    begun = asyncio.Event()
    streams = [asyncio.create_task(stream_once(gateway, keys[each % len(keys)], begun)) for each in range(NUM_STREAMS)]
    _, seal = await asyncio.to_thread(said, gateway, "/v1/seal", gateway.key)
    while len(receipts_of(gateway)) < before + 8:  # noqa: ASYNC110 (some have ended, eight are being answered, the others wait)
        await asyncio.sleep(0.05)
    begun.clear()
    await begun.wait()  # there is one that has had a word, and most of its answer is to come
    os.kill(seal["engine"]["pid"], number)
    began_s, noticed_s = time.monotonic(), 0.0
    while time.monotonic() - began_s < DEADLINE_S:
        status, _ = await asyncio.to_thread(said, gateway, "/readyz")
        if status == 503:
            noticed_s = noticed_s or time.monotonic() - began_s
        elif noticed_s:
            return Counter(await asyncio.gather(*streams)), noticed_s
        await asyncio.sleep(0.1)
    raise AssertionError("the engine was not missed, or did not come back")


def as_receipts_say(gateway: Gateway, keys: list[Key]) -> dict[str, tuple[int, int, int]]:
    """Requests and tokens of prompts and answers of each key, added up by nothing but this loop."""
    day_keys = DayKeys(Home(gateway.home).day_keys)
    sums = {key.id: (0, 0, 0) for key in keys}
    for one in receipts_of(gateway):
        day = day_of(one["at"]["start_ms"])
        (id,) = [key.id for key in keys if day_keys.key_name(key.tenant, day, key.id) == one["meter"]["key"]]
        requests, prompt, completion = sums[id]
        sums[id] = (requests + 1, prompt + (one["request"]["tokens"] or 0), completion + (one["answer"]["tokens"] or 0))
    return sums


def as_the_ledger_says(gateway: Gateway, admin_key: str) -> dict[str, tuple[int, int, int]]:
    """The same by the administration interface."""
    since_s = int(time.time()) // 86_400 * 86_400 - 86_400
    path = f"/v1/organization/usage/completions?start_time={since_s}&bucket_width=1d&limit=3&group_by=api_key_id"
    _, usage = said(gateway, path, admin_key)
    sums: Counter[tuple[str, str]] = Counter()
    for one in (one for bucket in usage["data"] for one in bucket["results"]):
        for name in ("num_model_requests", "input_tokens", "output_tokens"):
            sums[one["api_key_id"], name] += one[name]
    ids = {id for id, _ in sums}
    return {id: (sums[id, "num_model_requests"], sums[id, "input_tokens"], sums[id, "output_tokens"]) for id in ids}


def limit(gateway: Gateway, tenant: str, num_tokens: int) -> None:
    done = gateway.allod("tenant", "set", tenant, "--budget", f"day tokens={num_tokens}")
    assert done.returncode == 0, done.stderr


def has_used_exactly(gateway: Gateway, key: Key, num_tokens: int) -> None:
    """Whether the limit itself counts so many tokens of the tenant's: with one less than a request may need left, it is
    refused, and with just as many it is answered."""
    limit(gateway, key.tenant, 1)
    status, refusal = said(gateway, "/v1/chat/completions", key.secret, ASKED)
    assert (status, refusal["error"]["code"]) == (400, "exceeds_limit")
    need = int(refusal["error"]["message"].split()[3])
    limit(gateway, key.tenant, num_tokens + need - 1)
    status, refusal = said(gateway, "/v1/chat/completions", key.secret, ASKED)
    assert (status, refusal["error"]["code"]) == (429, "budget_exhausted")
    limit(gateway, key.tenant, num_tokens + need)
    assert said(gateway, "/v1/chat/completions", key.secret, ASKED)[0] == 200


def all_agree(gateway: Gateway, keys: list[Key]) -> None:
    """Receipts, ledger, fair turns and limits, to the token; of each key, or tenant where keys have it in common."""
    agree(gateway, at_least=4 * NUM_STREAMS)
    admin_key = (gateway.home / "admin.key").read_text().strip()
    receipts = as_receipts_say(gateway, keys)
    print("requests, prompt and completion tokens of each key:", sorted(receipts.values()))
    assert as_the_ledger_says(gateway, admin_key) == receipts
    _, shares = said(gateway, "/v1/governance/shares", admin_key)
    for share in shares["data"]:
        sums = [receipts[key.id] for key in keys if key.tenant == share["id"]]
        assert (share["num_running"], share["num_waiting"]) == (0, 0)
        assert share["service"] == sum(cost_of(prompt, completion) for _, prompt, completion in sums)
        for shown in share["limits"]:
            assert shown["used"] == sum(prompt + completion for _, prompt, completion in sums)
    for key in keys[::KEYS_EACH]:
        used = sum(sum(receipts[other.id][1:]) for other in keys if other.tenant == key.tenant)
        has_used_exactly(gateway, key, used)
        print("the limit of", key.tenant, "counts exactly", used)


def test_an_engine_that_stops_or_dies_under_two_hundred_streams(start_gateway: Start, tmp_path: Path) -> None:
    """SIGSTOP and kill -9, twice each: every stream ends as streams do, service is back by itself, the log says which
    answers broke off, and receipts, ledger, fair turns and limits agree to the token before the gateway ends."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "allod.toml").write_text(SETTINGS)
    with start_gateway(TINY) as gateway:
        keys = []
        for number in range(NUM_TENANTS):
            tenant = made(gateway, "tenant", "add", f"Tenant {number}", "--budget", f"day tokens={PLENTY}")["id"]
            added = [made(gateway, "key", "add", tenant) for _ in range(KEYS_EACH)]
            keys += [Key(tenant, one["id"], one["value"]) for one in added]
        num_broken = 0
        for number in (signal.SIGSTOP, signal.SIGKILL) * 2:
            began_s = time.monotonic()
            ends, noticed_s = asyncio.run(asyncio.wait_for(harmed(gateway, keys, number), DEADLINE_S))
            took_s = time.monotonic() - began_s
            print(f"{number.name}: {dict(ends)}, noticed after {noticed_s:.1f} s, all ended after {took_s:.0f} s")
            assert set(ends) <= {"whole", "event engine_lost", "503 engine_starting", "503 engine_lost"}
            assert ends["event engine_lost"] <= 8  # those that had begun; who had no word was answered by the next
            assert ends["whole"] >= NUM_STREAMS - 16
            assert sum(ends.values()) == NUM_STREAMS
            assert noticed_s < NOTICED_S
            num_broken += NUM_STREAMS - ends["whole"]
        assert num_broken > 0
        all_agree(gateway, keys)
        assert sum(one["answer"]["finish"] == "error" for one in receipts_of(gateway)) == num_broken
    log = (home / "gateway.out").read_text() if (home / "gateway.out").exists() else ""
    assert "was stopped for 10 s and is being started again" in log
