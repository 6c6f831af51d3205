"""Several replicas of one model at one gateway: real engines, each sealed by itself, seen and steered from outside."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from tests.conftest import Gateway, run_allod, run_gateway
from tests.scenarios.test_answers import http_get
from tests.serve.tiny_model import write_tiny_model

from allod.core.statements.receipt import check_statement
from allod.prove.receipts.bundle import parse_bundle

pytestmark = pytest.mark.slow
NUM_REPLICAS = 3


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("replicas")
    model = write_tiny_model(folder / "tiny.gguf", template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with run_gateway(folder / "home", str(model), f"--replicas={NUM_REPLICAS}") as up:
        until(up, lambda rows: [row["state"] for row in rows] == ["up"] * NUM_REPLICAS)
        yield up


def replicas(gateway: Gateway) -> list[dict[str, Any]]:
    done = gateway.allod("fleet", "status", "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def until(gateway: Gateway, holds: Any) -> list[dict[str, Any]]:
    for _ in range(60):
        if holds(rows := replicas(gateway)):
            return rows
        time.sleep(0.2)
    raise AssertionError(rows)


def proof_of_an_answer(gateway: Gateway, number: int = 0) -> str:
    """What the receipt of an answer says of the process that made it."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        messages: Any = [{"role": "user", "content": f"Why {number}?"}]
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
    bundle = http_get(gateway, f"/v1/receipts/{answer.id.removeprefix('chatcmpl-')}").encode()
    proof: str = check_statement(parse_bundle(bundle).statement).predicate["seal"]["proof"]
    return proof


def done_by_administrators(gateway: Gateway) -> list[dict[str, Any]]:
    """The last five events of the audit log."""
    headers = {"authorization": f"Bearer {(gateway.home / 'admin.key').read_text().strip()}"}
    request = urllib.request.Request(f"{gateway.url}/v1/organization/audit_logs?limit=5", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        events: list[dict[str, Any]] = json.load(response)["data"]
    return events


def test_each_replica_is_a_process_in_a_seal_of_its_own(gateway: Gateway) -> None:
    """With evidence that is kept, a log of its own, and a line in the metrics."""
    rows = replicas(gateway)
    assert [(row["model"], row["replica"], row["seal"]) for row in rows] == [
        ("tiny", number, "sealed") for number in range(1, NUM_REPLICAS + 1)
    ]
    assert len({row["pid"] for row in rows}) == len({row["seal_proof"] for row in rows}) == NUM_REPLICAS
    for row in rows:
        assert (gateway.home / "evidence" / f"{row['seal_proof'].removeprefix('sha256:')}.json").exists()
    seal = json.loads(http_get(gateway, "/v1/seal"))
    assert [each["proof"] for each in seal["replicas"]] == [row["seal_proof"] for row in rows]
    assert len(list(gateway.home.glob("engine*.log"))) == NUM_REPLICAS
    assert 'allod_replica_up{model="tiny",replica="3"} 1.0' in http_get(gateway, "/metrics")


def test_receipts_name_the_replica_that_answered(gateway: Gateway) -> None:
    """Asked at once, several answer; and no receipt names what is not there."""
    with ThreadPoolExecutor(9) as pool:
        named = set(pool.map(lambda number: proof_of_an_answer(gateway, number), range(18)))
    rows = replicas(gateway)
    assert named <= {row["seal_proof"] for row in rows}
    assert len(named) > 1
    for row in rows:  # they were whole answers
        assert (row["pace"]["tokens_per_s"] is not None) == (row["seal_proof"] in named)
        assert row["pace"]["first_token_ms_p50"] is None
    assert "allod_replica_tokens_per_second{" in http_get(gateway, "/metrics")


def test_one_that_is_killed_costs_nobody_an_answer(gateway: Gateway) -> None:
    """Requests go on while it is started again, and its successor has evidence of its own."""
    before = replicas(gateway)
    os.kill(before[1]["pid"], signal.SIGKILL)
    named = {proof_of_an_answer(gateway, number) for number in range(12)}
    after = until(gateway, lambda rows: rows[1]["state"] == "up" and rows[1]["pid"] != before[1]["pid"])
    assert after[1]["num_starts"] == before[1]["num_starts"] + 1
    assert named <= {row["seal_proof"] for row in (*before, *after)}
    assert before[1]["seal_proof"] not in named


def test_an_operator_drains_resumes_and_restarts(gateway: Gateway) -> None:
    """By the command line, with the admin key; the last that answers is left alone, and the error says why."""
    for number in (1, 2):
        done = gateway.allod("fleet", "drain", "tiny", str(number), "--json")
        assert json.loads(done.stdout)["state"] == "draining"
    done = gateway.allod("fleet", "drain", "tiny", "3")
    assert (done.returncode, "last that answers" in done.stderr) == (2, True)
    third = replicas(gateway)[2]["seal_proof"]
    assert {proof_of_an_answer(gateway, number) for number in range(6)} == {third}
    for number in (1, 2):
        assert gateway.allod("fleet", "resume", "tiny", str(number)).returncode == 0
    before = replicas(gateway)
    assert gateway.allod("fleet", "restart", "tiny", "3").returncode == 0
    after = until(gateway, lambda rows: rows[2]["num_starts"] == before[2]["num_starts"] + 1)
    assert after[2]["seal_proof"] != third
    events = done_by_administrators(gateway)
    assert [(event["type"], event[event["type"]]["id"]) for event in events] == [
        ("replica.restarted", "tiny/3"),
        ("replica.resumed", "tiny/2"),
        ("replica.resumed", "tiny/1"),
        ("replica.drained", "tiny/2"),  # and no third, which was refused
        ("replica.drained", "tiny/1"),
    ]
    assert {event["actor"]["type"] for event in events} == {"api_key"}
    assert [row["num_failed"] for row in after] == [row["num_failed"] for row in before]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drain", "tiny", "4"), "no replica 4"),
        (("drain", "tiny", "0"), "replica"),
        (("drain", "other", "1"), "not served here"),
        (("drain", "tiny", "many"), "invalid int"),
    ],
)
def test_what_there_is_not_is_said(gateway: Gateway, words: tuple[str, ...], said: str) -> None:
    """With status 2, and nothing has changed."""
    before = [row["state"] for row in replicas(gateway)]
    done = gateway.allod("fleet", *words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert [row["state"] for row in replicas(gateway)] == before


def test_only_an_admin_key_sees_and_steers(gateway: Gateway) -> None:
    """A tenant's key is refused at both."""
    for data in (None, b'{"model":"tiny","replica":1,"action":"drain"}'):
        request = urllib.request.Request(
            f"{gateway.url}/v1/governance/replicas", data, {"authorization": f"Bearer {gateway.key}"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 403
        caught.value.close()


def test_without_a_gateway_it_is_said_how_to_start_one(tmp_path: Any) -> None:
    """Status 3, and a hint."""
    done = run_allod(tmp_path, "fleet", "status")
    assert (done.returncode, "allod up" in done.stderr) == (3, True)
