"""A real OpenAI client, the real sealed model, and evidence for every answer whose end a client saw."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import openai
import pytest
from tests.conftest import Gateway

from allod.app.home import Home
from allod.core.canonical import canonical_json
from allod.core.statements.receipt import check_statement
from allod.prove.formats.signing_key import load_signing_key
from allod.prove.receipts.bundle import Bundle, Opening, encode_bundle, parse_bundle
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.fsck import fsck
from allod.prove.tlog.log import open_log
from allod.prove.trust import Trust
from allod.prove.verify import verify

pytestmark = pytest.mark.slow
Start = Callable[..., AbstractContextManager[Gateway]]
MODEL = "smollm2-135m"


async def stream_once(client: openai.AsyncOpenAI, question: str, *, max_tokens: int) -> tuple[str, str] | None:
    """One streamed answer: its receipt's id and text; None if its end was never seen."""
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": question}], max_tokens=max_tokens, stream=True
        )
        text, finish = "", None
        async for chunk in raw.parse():
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
    except (openai.APIError, OSError):
        return None
    except Exception as error:  # httpx's own errors, when the connection breaks in mid-stream
        if "httpx" not in type(error).__module__ and "httpcore" not in type(error).__module__:
            raise
        return None
    return (raw.headers["x-allod-receipt"], text) if finish else None


async def stream_many(gateway: Gateway, seen: list[tuple[str, str]], num: int, *, max_tokens: int) -> None:
    """`num` streamed answers, sixteen at a time; those whose end is seen come into `seen`."""
    turns = asyncio.Semaphore(16)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:

        async def one(number: int) -> None:
            async with turns:
                answer = await stream_once(client, f"What is {number} plus one?", max_tokens=max_tokens)
                if answer is not None:
                    seen.append(answer)

        await asyncio.gather(*map(one, range(num)))


def verified_bundles(home_path: Path, answers: list[tuple[str, str]]) -> None:
    """Open the log with no gateway running: it is clean, and each answer's bundle verifies, text included."""
    home = Home(home_path)
    key = load_signing_key(home.log_key)
    assert fsck(home.receipts, key.verifier).is_sound
    trust, day_keys = Trust.parse(home.trust.read_text()), DayKeys(home.day_keys)
    log = open_log(home.receipts, key)
    try:
        for receipt_id, text in answers:
            statement = log.statement(receipt_id)
            salt = day_keys.salt_of_opening("local", check_statement(statement).predicate)
            answer = canonical_json({"content": text, "tool_calls": []}).decode()
            bundle = Bundle(statement, log.proof(log.find(receipt_id).leaf), Opening(salt, answer=answer))
            assert verify(encode_bundle(bundle), trust).level == "logged"
    finally:
        log.close()


async def test_two_hundred_streams_have_two_hundred_receipts(start_gateway: Start, weights: Path) -> None:
    """200 streamed requests, 16 at a time: every one is answered, and every receipt verifies with its text."""
    answers: list[tuple[str, str]] = []
    with start_gateway(MODEL) as gateway:
        await stream_many(gateway, answers, 200, max_tokens=12)
    assert len(answers) == 200
    assert len({receipt_id for receipt_id, _ in answers}) == 200
    await asyncio.to_thread(verified_bundles, gateway.home, answers)


async def test_what_was_acknowledged_survives_kill_9(start_gateway: Start, weights: Path) -> None:
    """Ten times the gateway is killed half-way: each answer whose end the client saw has its receipt in the log."""
    seen: list[tuple[str, str]] = []
    for round_number in range(10):
        with start_gateway(MODEL) as gateway:
            engine_pid = json.loads(http_get(gateway, "/v1/seal"))["engine"]["pid"]
            before = len(seen)
            work = asyncio.create_task(stream_many(gateway, seen, 24, max_tokens=6))
            for _ in range(6000):
                if len(seen) >= before + round_number:
                    break
                await asyncio.sleep(0.02)
            os.kill(gateway.process.pid, signal.SIGKILL)
            await work
            gateway.process.wait()
            assert not await alive_after(engine_pid, 5), "the engine outlived its gateway"
        await asyncio.to_thread(verified_bundles, gateway.home, seen)
    assert len(seen) < 240, "every kill came too late to test anything"


async def test_an_engine_killed_in_mid_stream_ends_that_stream_and_no_other(
    start_gateway: Start, weights: Path
) -> None:
    """The stream ends in an error and no [DONE], its receipt says so, and the next answer comes from a new engine."""
    with start_gateway(MODEL) as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            raw = await client.chat.completions.with_raw_response.create(
                model=MODEL, messages=[{"role": "user", "content": "Count to a thousand."}], max_tokens=900, stream=True
            )
            with pytest.raises(openai.APIError) as caught:
                async for number, _ in aenumerate(raw.parse()):
                    if number == 3:
                        os.kill(json.loads(http_get(gateway, "/v1/seal"))["engine"]["pid"], signal.SIGKILL)
            assert caught.value.code == "engine_lost"
            patient = client.with_options(max_retries=10)  # each of which comes when `retry-after` says
            again = await stream_once(patient, "Say hi.", max_tokens=4)
        assert again is not None
        broken = parse_bundle(http_get(gateway, f"/v1/receipts/{raw.headers['x-allod-receipt']}").encode())
        assert check_statement(broken.statement).predicate["answer"]["finish"] == "error"


def test_a_page_is_answered_from(start_gateway: Start, shared_data: Path) -> None:
    """The text of a real page, piped in, reaches the model and comes back as a receipted answer."""
    lines = (shared_data / "govuk" / "content_items_small.jsonl").read_text().splitlines()
    item = next(item for item in map(json.loads, lines) if item["title"] == "Report lost or stolen cattle")
    page = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", item["parts"][0]["html"])).split())
    with start_gateway(MODEL) as gateway:
        receipt = gateway.home / "r.json"
        asked = gateway.allod("ask", "--receipt", str(receipt), "--max-tokens=20", "What must I do?", stdin=page)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.strip()
        assert page[:40] in json.loads(json.loads(receipt.read_text())["opening"]["request"])["messages"][-1]["content"]
        offline = subprocess.run(
            ["unshare", "--map-root-user", "--net", "allod", "verify", str(receipt)],
            env={
                **os.environ,
                "ALLOD_HOME": str(gateway.home),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert offline.stdout.endswith("verified\n"), offline.stderr


async def aenumerate(stream: AsyncIterable[object]) -> AsyncIterator[tuple[int, object]]:
    number = 0
    async for item in stream:
        yield number, item
        number += 1


async def alive_after(pid: int, seconds: float) -> bool:
    """Whether a process is still there; a dead one is given some time to vanish."""
    for _ in range(int(seconds * 20)):
        if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return False
        await asyncio.sleep(0.05)
    return True


def http_get(gateway: Gateway, path: str) -> str:
    import urllib.request

    request = urllib.request.Request(gateway.url + path, headers=gateway.headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        page: bytes = response.read()
    return page.decode()
