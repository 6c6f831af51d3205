"""Two gateways share their tenants in a real PostgreSQL: limits hold for both together, though one is killed, and what
a tenant asked is nowhere in another's cache."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Gateway, run_gateway
from tests.contracts.postgres import WHY_NOT, Server, running_postgres
from tests.scenarios.test_answers import http_get
from tests.serve.tiny_model import write_tiny_model

from allod.core.statements.receipt import check_statement
from allod.prove.receipts.bundle import parse_bundle
from allod.prove.tlog.segment import Batches

pytestmark = [pytest.mark.services, pytest.mark.skipif(bool(WHY_NOT), reason=f"missing: {WHY_NOT}")]

LIMIT = 6_000  # tokens a day
SLICE = LIMIT // 10  # what one gateway leases at a time (govern/metering/quotas.py)
TEXT = "word " * 30
NUM_PROMPTS = 20
MAX_TOKENS = 30  # an answer's; the echo engine uses them all


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as running:
        yield running


@pytest.fixture(autouse=True)
def nobody_yet(server: Server) -> None:
    server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


@pytest.fixture
def homes(server: Server, tmp_path: Path) -> list[Path]:
    """Two gateways' homes: one realm, two sites, one database."""
    return [made_home(server, tmp_path / site, f'site = "{site}"') for site in ("north", "south")]


@pytest.fixture
def neighbours(server: Server, tmp_path: Path) -> list[Path]:
    """Two gateways' homes: one realm, one site, one database, a shard each."""
    shards = ("north-1", "north-2")
    return [made_home(server, tmp_path / shard, f'site = "north"\nshard = "{shard}"') for shard in shards]


def made_home(server: Server, home: Path, realm: str) -> Path:
    home.mkdir()
    directory = server.conninfo().split()[0].removeprefix("host=")
    (home / "allod.toml").write_text(
        f'[realm]\nname = "shared.example"\n{realm}\n'
        f'[tenants]\ndatabase = "postgresql://allod@/postgres?host={directory}"\n'
    )
    return home


def made(gateway: Gateway, *words: str) -> Any:
    done = gateway.allod(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(url: str, key: str) -> str:
    """One request; how it ended."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        try:
            client.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": TEXT}], max_tokens=MAX_TOKENS
            )
        except openai.APIStatusError as error:
            return f"{error.status_code} {error.code}"
        except openai.APIConnectionError:
            return "gone"
    return "answered"


def tokens_in(home: Path) -> int:
    """What the receipts of one gateway's log add up to."""
    total = 0
    with (home / "logs" / "receipts" / "segment").open("rb") as file:
        for batch in Batches(file):
            for frame in batch.entries:
                predicate = json.loads(frame.payload)["predicate"]
                if predicate["answer"] is not None:
                    total += (predicate["request"]["tokens"] or 0) + (predicate["answer"]["tokens"] or 0)
    return total


def test_a_budget_holds_over_both_though_one_is_killed(homes: list[Path]) -> None:
    """Never more than the limit; what a killed gateway had leased is all that is lost of it, and a restart finds that.

    A gateway leases a tenth of the limit at a time and reserves a request's most before it runs. So the receipts of
    both logs together stay within the limit, and fall short of it by no more than a slice and a request each.
    """
    with run_gateway(homes[0], "echo") as north, run_gateway(homes[1], "echo") as south:
        tenant = made(north, "tenant", "add", "Shared", "--budget", f"day tokens={LIMIT}")["id"]
        key = made(north, "key", "add", tenant)["value"]
        time.sleep(1)
        ended: list[str] = []
        enough = threading.Event()

        def hammer(url: str) -> None:
            while not enough.is_set():
                ended.append(ask(url, key))
                if ended[-1] != "answered":
                    time.sleep(0.05)

        with ThreadPoolExecutor(8) as pool:
            work = [pool.submit(hammer, one.url) for one in (north, south) for _ in range(4)]
            while tokens_in(homes[0]) < LIMIT // 4:
                time.sleep(0.02)
            north.process.send_signal(signal.SIGKILL)
            for _ in range(300):
                if ended[-40:].count("429 budget_exhausted") >= 15:
                    break
                time.sleep(0.1)
            enough.set()
            for one in work:
                one.result()
        assert "429 budget_exhausted" in ended
        total = sum(map(tokens_in, homes))
        largest = len(TEXT) // 3 + 8 + MAX_TOKENS
        assert total <= LIMIT
        assert total >= LIMIT - 2 * (SLICE + 4 * largest)


def test_a_key_that_is_revoked_at_one_is_refused_at_the_other(homes: list[Path]) -> None:
    """By itself, without a word between the two; in a second (MAX_NEWS_AGE_S) on a machine that is not busy."""
    with run_gateway(homes[0], "echo") as north, run_gateway(homes[1], "echo") as south:
        key = made(north, "key", "add", "local")
        time.sleep(1)
        assert ask(south.url, key["value"]) == "answered"
        made(north, "key", "revoke", key["id"])
        revoked_s = time.monotonic()
        while (ended := ask(south.url, key["value"])) == "answered" and time.monotonic() < revoked_s + 60:
            pass
        assert ended == "401 invalid_api_key"


def test_without_the_database_nobody_is_let_in(server: Server, homes: list[Path]) -> None:
    """503 while it is gone, the reason with it; and answers again when it is back, without a restart."""
    with run_gateway(homes[0], "echo") as north:
        assert ask(north.url, north.key) == "answered"
        server.stop(signal.SIGQUIT)
        try:
            until = time.monotonic() + 10
            while (ended := ask(north.url, north.key)) == "answered" and time.monotonic() < until:
                time.sleep(0.05)
            assert ended == "503 tenants_unavailable"
        finally:
            server.start()
        until = time.monotonic() + 20
        while (ended := ask(north.url, north.key)) != "answered" and time.monotonic() < until:
            time.sleep(0.1)
        assert ended == "answered"
        with suppress(FileNotFoundError):
            assert "Traceback" not in (homes[0] / "gateway.out").read_text()


def cached_tokens(gateway: Gateway, key: str, question: str) -> tuple[int, str]:
    """How much of the prompt the engine had already, and the receipt's id."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": question}], max_tokens=1
        )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0, answer.id.removeprefix("chatcmpl-")


@pytest.mark.slow
def test_what_a_tenant_asked_is_in_nobody_elses_cache_at_either(neighbours: list[Path], tmp_path: Path) -> None:
    """Real engines: the asker finds its own prompt again where it asked, and another tenant none of it, at either
    gateway. One trust file, of both gateways' logs, verifies the receipts of both, which name one site."""
    model = write_tiny_model(tmp_path / "tiny.gguf", template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with run_gateway(neighbours[0], str(model)) as one, run_gateway(neighbours[1], str(model)) as two:
        alice, bob = (made(one, "key", "add", made(one, "tenant", "add", name)["id"])["value"] for name in "AB")
        time.sleep(1)
        own, others, receipts = [], [], []
        for number in range(NUM_PROMPTS):
            question = chr(ord("a") + number) + " is my secret." * 10  # no two begin alike: a tenant may find its own
            for gateway in (one, two)[:: 1 if number % 2 else -1]:
                cached_tokens(gateway, alice, question)
                own.append(cached_tokens(gateway, alice, question)[0])
            for gateway in (one, two):
                found, receipt = cached_tokens(gateway, bob, question)
                others.append(found)
                receipts.append((gateway, receipt))
        assert min(own) > 50
        assert set(others) == {0}
        trust = tmp_path / "trust"
        lines = {line for home in neighbours for line in (home / "trust.policy").read_text().splitlines()}
        trust.write_text("".join(f"{line}\n" for line in sorted(lines)))
        for gateway, receipt in receipts[-2:]:
            bundle = tmp_path / f"{receipt}.json"
            bundle.write_text(http_get(replace(gateway, key=bob), f"/v1/receipts/{receipt}"))
            done = gateway.allod("verify", str(bundle), "--trust", str(trust))
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"signed by shared.example/receipts/{gateway.home.name}" in done.stdout
            assert check_statement(parse_bundle(bundle.read_bytes()).statement).predicate["site"]["id"] == "north"
