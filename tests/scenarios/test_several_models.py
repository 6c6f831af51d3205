"""Several models at one gateway: real engines, each sealed by itself, and receipts that name the right one."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.app.finished_runs import gguf_bytes
from tests.conftest import Gateway, run_allod, run_gateway
from tests.scenarios.test_answers import http_get
from tests.serve.tiny_model import write_tiny_model

from allod.core.statements.receipt import check_statement
from allod.prove.receipts.bundle import parse_bundle

pytestmark = pytest.mark.slow
NAMES = ("one", "two")
PRICES = """
[prices]
micros_per_1k_prompt_tokens = 3000
[prices.models.two]
micros_per_1k_prompt_tokens = 5000
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Two models by name: their files, which differ in a word of the template, and their digests."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for name in NAMES:
        template = "{% for m in messages %}" + name + " {{ m['content'] }}{% endfor %}"
        file = write_tiny_model(folder / f"{name}.gguf", template=template)
        found[name] = file, f"sha256:{sha256(file.read_bytes()).hexdigest()}"
    return found


@pytest.fixture(scope="module")
def gateway(digests: dict[str, tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files, home = [str(digests[name][0]) for name in NAMES], tmp_path_factory.mktemp("several")
    (home / "allod.toml").write_text(PRICES)
    with run_gateway(home, files[0], f"--model={files[1]}") as up:
        yield up


def ask(gateway: Gateway, model: str) -> Mapping[str, Any]:
    """The receipt's statement of an answer of that model."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        messages: Any = [{"role": "user", "content": "Why?"}]
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=4)
    bundle = http_get(gateway, f"/v1/receipts/{answer.id.removeprefix('chatcmpl-')}").encode()
    return check_statement(parse_bundle(bundle).statement).predicate


def seal_of(gateway: Gateway, model: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(http_get(gateway, f"/v1/seal?model={model}"))
    return told


def test_each_is_listed_and_sealed_by_itself(gateway: Gateway) -> None:
    """Two processes in two seals, each with evidence of its own; and each engine's words are in a file of its own."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        assert [model.id for model in client.models.list()] == list(NAMES)
    seals = [seal_of(gateway, name) for name in NAMES]
    assert {seal["kind"] for seal in seals} == {"sealed"}
    assert len({seal["engine"]["pid"] for seal in seals}) == len({seal["proof"] for seal in seals}) == 2
    assert len(list(gateway.home.glob("engine*.log"))) == 2


def test_receipts_name_the_right_one_through_a_restart(gateway: Gateway, digests: dict[str, tuple[Path, str]]) -> None:
    """While one engine is started again, the other answers; then both do, and the receipt has the new seal's proof."""
    before = {name: ask(gateway, name) for name in NAMES}
    for name in NAMES:
        assert before[name]["model"]["digest"] == digests[name][1]
        assert before[name]["seal"]["proof"] == seal_of(gateway, name)["proof"]
    os.kill(seal_of(gateway, "two")["engine"]["pid"], signal.SIGKILL)
    assert ask(gateway, "one")["seal"] == before["one"]["seal"]
    for _ in range(200):
        try:
            after = ask(gateway, "two")
            break
        except openai.InternalServerError:  # 503 while it starts
            time.sleep(0.1)
    assert after["model"] == before["two"]["model"]
    assert after["seal"]["proof"] != before["two"]["seal"]["proof"]
    assert after["seal"]["proof"] == seal_of(gateway, "two")["proof"]


def test_each_costs_what_is_said_of_it(gateway: Gateway) -> None:
    """The one as all do, the other what stands under its name."""
    told = [ask(gateway, name) for name in NAMES]
    assert [each["meter"]["micros"] / each["request"]["tokens"] for each in told] == [3, 5]


def test_a_key_for_one_of_them_knows_of_no_other(gateway: Gateway) -> None:
    """Neither in the list, nor by asking, nor by its seal."""
    made = json.loads(gateway.allod("key", "add", "local", "--models", "two", "--json").stdout)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=made["value"]) as client:
        assert [model.id for model in client.models.list()] == ["two"]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="one", messages=[{"role": "user", "content": "Why?"}], max_tokens=4)
    other = replace(gateway, key=made["value"])
    assert seal_of(other, "two")["kind"] == "sealed"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        seal_of(other, "one")


def test_one_that_is_named_twice_is_refused_before_a_start(
    digests: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    file = str(digests["one"][0])
    done = run_allod(tmp_path, "up", "--port=0", f"--model={file}", f"--model={file}")
    assert (done.returncode, "named twice" in done.stderr) == (2, True)
    assert not (tmp_path / "engine.log").exists()


def test_whose_engine_does_not_start_is_said(digests: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    """And the other's, which did, has ended with the gateway."""
    file = tmp_path / "empty.gguf"
    file.write_bytes(gguf_bytes({"general.architecture": "llama", "general.name": "empty"}))  # passes the gate alone
    done = run_allod(tmp_path / "home", "up", "--port=0", f"--model={digests['one'][0]}", f"--model={file}")
    assert (done.returncode, done.stderr.startswith("error: empty: ")) == (3, True), done.stderr
