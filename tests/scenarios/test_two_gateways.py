"""Two gateways share their tenants in a real PostgreSQL: limits hold for both together, though one is killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Gateway, run_gateway
from tests.contracts.postgres import WHY_NOT, Server, running_postgres

from allod.prove.tlog.segment import Batches

pytestmark = [pytest.mark.services, pytest.mark.skipif(bool(WHY_NOT), reason=f"missing: {WHY_NOT}")]

LIMIT = 6_000  # tokens a day
SLICE = LIMIT // 10  # what one gateway leases at a time (govern/metering/quotas.py)
TEXT = "word " * 30
MAX_TOKENS = 30  # an answer's; the echo engine uses them all


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def homes(server: Server, tmp_path: Path) -> list[Path]:
    """Two gateways' homes: one realm, two sites, one database."""
    server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    directory = server.conninfo().split()[0].removeprefix("host=")
    homes = []
    for site in ("north", "south"):
        home = tmp_path / site
        home.mkdir()
        (home / "allod.toml").write_text(
            f'[realm]\nname = "shared.example"\nsite = "{site}"\n'
            f'[tenants]\ndatabase = "postgresql://allod@/postgres?host={directory}"\n'
        )
        homes.append(home)
    return homes


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
