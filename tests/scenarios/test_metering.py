"""What tenants are charged is the sum of their receipts, to the token: live, after a kill, and counted anew."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import TINY, Gateway

from allod.prove.tlog.segment import Batches

Start = Callable[..., AbstractContextManager[Gateway]]
PRICES = """
[prices]
micros_per_1k_prompt_tokens = 701
micros_per_1k_completion_tokens = 1303
micros_per_engine_second = 17
"""
NUM_TENANTS = 4


def made(gateway: Gateway, *words: str) -> Any:
    """What a verb of the command line says as JSON."""
    done = gateway.allod(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def receipts_of(gateway: Gateway) -> list[dict[str, Any]]:
    """Every predicate that the log holds."""
    with (gateway.home / "logs" / "receipts" / "segment").open("rb") as file:
        return [json.loads(frame.payload)["predicate"] for batch in Batches(file) for frame in batch.entries]


def sums_of(receipts: list[dict[str, Any]]) -> Counter[str]:
    """What the receipts say, added up by nothing but this loop."""
    sums: Counter[str] = Counter()
    for one in receipts:
        answer = one["answer"]
        sums["requests"] += answer is not None
        sums["prompt"] += one["request"]["tokens"] or 0
        sums["completion"] += (answer["tokens"] or 0) if answer else 0
        sums["micros"] += one["meter"]["micros"]
    return sums


def charged(gateway: Gateway) -> Counter[str]:
    """What the administration interface says was used and what it cost."""
    client = openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key="none", admin_api_key=(gateway.home / "admin.key").read_text().strip()
    )
    day_s = int(time.time()) // 86_400 * 86_400
    sums: Counter[str] = Counter()
    with client:
        organization: Any = client.admin.organization  # its results are one type for all that can be used
        usage = organization.usage.completions(start_time=day_s - 86_400, bucket_width="1d", limit=3)
        for bucket in usage.data:
            for one in bucket.results:
                sums["requests"] += one.num_model_requests
                sums["prompt"] += one.input_tokens
                sums["completion"] += one.output_tokens
        for bucket in organization.usage.costs(start_time=day_s - 86_400, limit=3).data:
            for cost in bucket.results:
                sums["micros"] += round(cost.amount.value * 1e6)
    return sums


def agree(gateway: Gateway, *, at_least: int) -> Counter[str]:
    """Wait until the ledger has what the log has; that it then agrees is what is tested."""
    for _ in range(200):
        receipts = receipts_of(gateway)
        if len(receipts) >= at_least and charged(gateway) == sums_of(receipts):
            break
        time.sleep(0.1)
    receipts = receipts_of(gateway)
    assert len(receipts) >= at_least
    assert charged(gateway) == sums_of(receipts)
    return sums_of(receipts)


def use(gateway: Gateway, model: str, key: str, number: int) -> None:
    """One request of every kind: whole, streamed, left in the middle, refused by policy."""
    text = "word " * (number + 1)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
        body: Any = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": text}]}
        if number % 4 == 0:
            client.chat.completions.create(**body)
        elif number % 4 == 1:
            for _ in client.chat.completions.create(**body, stream=True):
                pass
        elif number % 4 == 2:
            left = client.chat.completions.create(**body, stream=True)
            next(iter(left))
            left.close()
        else:
            with suppress(openai.PermissionDeniedError):
                client.chat.completions.create(**body, extra_headers={"x-allod-tier": "SECRET"})


@pytest.mark.parametrize(
    ("model", "num_each"),
    [("echo", 25), pytest.param(TINY, 8, marks=pytest.mark.slow)],
)
def test_the_ledger_is_the_sum_of_the_receipts(start_gateway: Start, tmp_path: Path, model: str, num_each: int) -> None:
    """Under load from several tenants at once; after kill -9 in the middle of it; and after the ledger was lost."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "allod.toml").write_text(PRICES)
    with start_gateway(model) as gateway:
        tenants = [made(gateway, "tenant", "add", f"Tenant {number}")["id"] for number in range(NUM_TENANTS)]
        keys = [made(gateway, "key", "add", tenant)["value"] for tenant in tenants]
        time.sleep(0.6)  # the gateway hears of new keys within that
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(use, gateway, model, key, number) for number in range(num_each) for key in keys]:
                done.result()
        before = agree(gateway, at_least=NUM_TENANTS * num_each)
        assert before["requests"] < NUM_TENANTS * num_each  # refusals are there and are no requests
        assert min(before.values()) > 0
        with ThreadPoolExecutor(8) as pool:
            work = [pool.submit(use, gateway, model, key, number) for number in range(num_each) for key in keys]
            num_receipts = len(receipts_of(gateway))
            for _ in range(1500):
                if len(receipts_of(gateway)) >= num_receipts + 6:
                    break
                time.sleep(0.02)
            gateway.process.send_signal(signal.SIGKILL)
            for one in work:
                with suppress(openai.OpenAIError, socket.error, StopIteration):
                    one.result()
        gateway.process.wait(20)
    with start_gateway(model) as gateway:
        killed = agree(gateway, at_least=NUM_TENANTS * num_each)
        assert killed["prompt"] > before["prompt"]
    recounted = gateway.allod("tenant", "recount")
    assert recounted.returncode == 0, recounted.stderr
    with start_gateway(model) as gateway:
        assert agree(gateway, at_least=1) == killed
