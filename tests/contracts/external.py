"""Somebody's servers, for tests: a gateway of ours with the echo engine, and llama.cpp's own, unsealed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Gateway

from allod.app.gateway.engine import Prepared
from allod.app.gateway.weights import prepare_all
from allod.app.home import load_settings
from allod.settings.tree import Settings


def write_external(home: Path, **said: str | int | bool | list[str]) -> None:
    """The settings of a realm that serves `far` from somebody's server, which stands in Wales."""
    home.mkdir(exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"site": "far", "jurisdiction": "GB-WLS", **said}.items()]
    (home / "allod.toml").write_text("\n".join(["[external.far]", *lines, ""]))


def write_gateway(home: Path, gateway: Gateway, **said: str | int | bool | list[str]) -> None:
    """The same, from a gateway of ours that echoes."""
    home.mkdir(exist_ok=True)
    key = home / "far.key"
    key.touch(0o600)
    key.write_text(f"{gateway.key}\n")
    write_external(home, url=f"{gateway.url}/v1", key_file="far.key", name_there="echo", **said)


def prepare_external(home: Path) -> tuple[Settings, Prepared]:
    """What is to be started."""
    settings = load_settings({"model.name": "far"}, home=home)
    (prepared,) = prepare_all(settings, lambda what, done, total: None)
    return settings, prepared


@contextmanager
def running_llama(weights: Path, folder: Path) -> Iterator[str]:
    """llama.cpp's server as it is, on the Unix socket whose path this is."""
    path = folder / "llama.sock"
    options = {
        "model": str(weights), "socket": str(path), "slots": 4, "context_tokens": 512, "threads": 2,
        "http_threads": 8, "embeddings": False, "batch_tokens": 64, "gpu_layers": 0, "kv_unified": False,
        "cache_ram_mib": 0, "adapters": [],
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "allod.engine.adapters.llama_process", "--on-trial"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(options).encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"ready\n"
            yield str(path)
        finally:
            process.kill()
