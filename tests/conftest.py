"""Real gateways for the tests: each a process of its own, with a home of its own, on a free port of loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from allod.model.catalogue import find
from allod.model.fetch import ensure
from allod.model.store import Store
from allod.settings.files import load_catalogue

REPOSITORY = Path(__file__).parents[1]
CACHE = REPOSITORY / ".cache"
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
TINY = "smollm2-135m"

settings.register_profile("any machine", deadline=None)  # how long an example takes is the weather's
settings.load_profile("any machine")


@dataclass(frozen=True)
class Gateway:
    """A running gateway. `process` is the one that listens."""

    url: str
    key: str
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def allod(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line in this gateway's realm."""
        return run_allod(self.home, *words, stdin=stdin)


def run_allod(home: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `allod` in the realm at `home`."""
    return subprocess.run(
        [sys.executable, "-m", "allod.cli", *words],
        env=environment(home),
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "ALLOD_HOME": str(home)}


@contextmanager
def run_gateway(
    home: Path, model: str, *words: str, prefix: tuple[str, ...] = (), patience_s: int = 60
) -> Iterator[Gateway]:
    """`allod up` at a free port, behind a command `prefix`; stopped by SIGTERM at the end if it still runs."""
    home.mkdir(parents=True, exist_ok=True)
    (CACHE / "store").mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # it may be there already
        (home / "store").symlink_to(CACHE / "store")
    with running(
        home,
        [*prefix, sys.executable, "-m", "allod.cli", "up", "--port=0", f"--model={model}", *words],
        patience_s=patience_s,
    ) as up:
        yield up


@contextmanager
def running(home: Path, command: list[str], *, patience_s: int = 60) -> Iterator[Gateway]:
    """The gateway that `command` starts in `home`, once it answers."""
    log = home / "gateway.out"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment(home), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        announced = _announced(home, process, log, patience_s)
        yield Gateway(announced["url"], (home / "local.key").read_text().strip(), home, process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _announced(home: Path, process: subprocess.Popen[bytes], log: Path, patience_s: int) -> dict[str, Any]:
    for _ in range(20 * patience_s):
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            announced: dict[str, Any] = json.loads((home / "gateway.json").read_text())
        except (FileNotFoundError, ValueError):
            announced = {}
        if announced.get("pid") == process.pid:
            return announced
        time.sleep(0.05)
    raise RuntimeError(f"the gateway was not ready in {patience_s} s")


@pytest.fixture(autouse=True)
def no_blocking_calls_in_the_event_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """A call of ours that blocks the event loop is an error, in every test that has one."""
    with blockbuster_ctx("allod") if iscoroutinefunction(request.function) else nullcontext():
        yield


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with the echo engine, for everything that needs no model."""
    CACHE.mkdir(exist_ok=True)
    with run_gateway(tmp_path_factory.mktemp("echo-home"), "echo") as running:
        yield running


@pytest.fixture(scope="session")
def weights() -> Path:
    """The smallest real model, fetched once for this checkout."""
    return ensure(
        find(load_catalogue(), TINY), Store(CACHE / "store" / "models"), directory=CACHE, progress=_no_progress
    )


@pytest.fixture(scope="session")
def real_gateway(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Gateway]:
    """A gateway with the smallest real model, sealed."""
    with run_gateway(tmp_path_factory.mktemp("real-home"), TINY) as running:
        yield running


@pytest.fixture
def start_gateway(tmp_path: Path) -> Callable[..., object]:
    """`run_gateway` in a home of the test's own."""
    return lambda model, *words, **options: run_gateway(tmp_path / "home", model, *words, **options)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The corpora that lie beside the checkout and are not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no data in {SHARED_DATA.relative_to(REPOSITORY.parent)} beside the checkout")
    return SHARED_DATA


def _no_progress(what: str, done: int, total: int) -> None:
    pass
