"""Real vLLM behind the gateway: a folder of safetensors, served from an island, with receipts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Gateway, run_gateway
from tests.scenarios.test_answers import http_get

from allod.core.statements.receipt import check_statement
from allod.prove.receipts.bundle import parse_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
VLLM = os.environ.get("ALLOD_VLLM", sys.executable)  # the Python of an environment that has it
QUESTION = "one and another"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that a stage of training exported."""
    found = [VLLM, "-c", "import importlib.util as u; assert u.find_spec('vllm')"]
    if subprocess.run(found, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("vLLM is not installed: ALLOD_VLLM names the Python of an environment that has it")
    pytest.importorskip("torch", reason="torch comes with the train extra")
    from tests.train.exporting import EXPORTED, trained_run
    from tests.train.packing import work_in

    from allod.train.stages import export

    run = trained_run(tmp_path_factory.mktemp("vllm") / "run", width=128, context=512)
    export.run(work_in(run, "export", "tokenizer", "pack", "pretrain", "evaluate", recipe=EXPORTED))
    return run / "export"


@pytest.fixture(scope="module")
def gateway(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("vllm-home")
    (home / "allod.toml").write_text(
        f'[model]\nvllm_python = "{VLLM}"\ncontext_tokens = 512\nready_timeout_s = 600\nthreads = 2\n'
        "[deadlines]\nprobe_s = 2\nhung_s = 20\nnext_s = 400\n"
    )
    with run_gateway(home, f"{folder}/", patience_s=600) as up:
        yield up


def client_of(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)


def ask(client: openai.OpenAI, text: str = QUESTION, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        model="export", messages=messages, **{"temperature": 0, "max_tokens": 8, **options}
    )


def receipt_of(gateway: Gateway, answer_id: str) -> dict[str, Any]:
    bundle = http_get(gateway, f"/v1/receipts/{answer_id.removeprefix('chatcmpl-')}").encode()
    return dict(check_statement(parse_bundle(bundle).statement).predicate)


def test_a_folder_is_served_from_an_island_and_receipts_say_so(gateway: Gateway) -> None:
    """Whole and streamed answers agree, and the receipt names engine, seal and the process's evidence."""
    with client_of(gateway) as client:
        whole = ask(client)
        pieces = list(ask(client, stream=True))
    assert whole.choices[0].message.content == "".join(piece.choices[0].delta.content or "" for piece in pieces)
    receipt = receipt_of(gateway, whole.id)
    seal = json.loads(http_get(gateway, "/v1/seal"))
    assert (receipt["engine"]["name"], receipt["seal"]["kind"]) == ("vllm", "island")
    assert receipt["seal"]["proof"] == seal["proof"]
    assert receipt["answer"]["tokens"] == whole.usage.completion_tokens


def test_eight_at_once_answer_as_one_alone(gateway: Gateway) -> None:
    """Greedily asked, batches change nothing here."""
    with client_of(gateway) as client, ThreadPoolExecutor(8) as pool:
        alone = ask(client).choices[0].message.content
        together = list(pool.map(lambda _: ask(client).choices[0].message.content, range(8)))
    assert together == [alone] * 8


def test_salts_keep_tenants_apart(gateway: Gateway) -> None:
    """What one tenant asked is computed anew for another, and reused for the same."""
    long = " ".join(["one and another"] * 20)
    made = json.loads(gateway.allod("tenant", "add", "Other", "--json").stdout)
    key = json.loads(gateway.allod("key", "add", made["id"], "--json").stdout)["value"]
    with client_of(gateway) as own, openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key) as other:
        cached: list[int] = []
        for client in (own, own, other, other):
            usage = ask(client, long, max_tokens=1).usage
            assert usage.prompt_tokens > 128  # a block of what is kept
            cached.append(usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0)
    assert cached[0] == cached[2] == 0
    assert cached[1] == cached[3] > 0


def test_structured_output_is_kept(gateway: Gateway) -> None:
    """A schema holds the answer; where the tokens do not suffice, that is said and nothing half is passed on."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    said: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    with client_of(gateway) as client:
        answer = ask(client, response_format=said, max_tokens=30)
    if answer.choices[0].finish_reason == "stop":
        assert json.loads(answer.choices[0].message.content)["n"] in (1, 2)


def test_who_is_too_long_is_told_and_ejects_nobody(gateway: Gateway) -> None:
    """Before the engine computes: 400, as often as one likes."""
    with client_of(gateway) as client:
        for _ in range(5):
            with pytest.raises(openai.BadRequestError) as caught:
                ask(client, " ".join(["another"] * 2000))
            assert caught.value.code == "context_length_exceeded"
        assert ask(client).choices[0].message.content is not None


def test_an_engine_whose_core_stands_still_is_missed(gateway: Gateway) -> None:
    """Its API answers on, and says that all is well: that no step is made is seen, and another one is started."""
    seal = json.loads(http_get(gateway, "/v1/seal"))
    pids = [int(process.name) for process in Path("/proc").iterdir() if process.name.isdigit()]
    group = [pid for pid in pids if is_below(pid, seal["engine"]["pid"])]
    cores = [pid for pid in group if "EngineCore" in name_of(pid)]
    assert cores, [name_of(pid) for pid in group]
    with client_of(gateway) as client, ThreadPoolExecutor(1) as pool:
        for pid in cores:
            os.kill(pid, signal.SIGSTOP)
        asking = pool.submit(ask, client)
        began_s = time.monotonic()
        answer = asking.result(600)
        took_s = time.monotonic() - began_s
    assert answer.choices[0].message.content is not None
    assert took_s > 15
    after = json.loads(http_get(gateway, "/v1/seal"))
    assert after["proof"] != seal["proof"]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text() + Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
