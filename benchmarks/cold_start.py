"""From the command to the first token, in a home that is known: `allod up` over the bare engine with the same file.

    python benchmarks/cold_start.py [--rounds 5] [--model smollm2-135m]

Each round starts both anew, one after the other, and asks each for one token of the same short chat as soon as it
listens. The bare engine is the process that the platform would start, with the same options, outside the seal. The file
is in the system's cache for both. The model is fetched by `allod model get` into ALLOD_HOME if it is not there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from allod.app.gateway.engine import replica_options
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.model.store import silent
from allod.settings.environment import default_home
from allod.settings.tree import Settings
from allod.train.exporting.engine import UnixConnection
from measure import free_port, machine, paired, rotated, spread

TIMEOUT_S = 120.0
LOOK_S = 0.005
BODY = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 1, "temperature": 0, "seed": 1}


def first_token_s(
    command: Sequence[str],
    environment: Mapping[str, str],
    place: str | int,
    *,
    key: Path | None,
    model: str,
    words: bytes = b"",
) -> float:
    """Seconds from starting `command`, which is told `words`, until it has answered with a token."""
    begin = time.perf_counter()
    with running(command, environment) as process:
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(words)
        while time.perf_counter() - begin < TIMEOUT_S:
            if process.poll() is not None:
                break
            if answered(place, key, model):
                return time.perf_counter() - begin
            time.sleep(LOOK_S)
    sys.exit(f"error: no answer from {' '.join(command)[:100]}")


def answered(place: str | int, key: Path | None, model: str) -> bool:
    """Whether a chat is answered now."""
    connection = (
        UnixConnection(place, TIMEOUT_S) if isinstance(place, str) else http.client.HTTPConnection("127.0.0.1", place)
    )
    try:
        connection.connect()
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key.read_text().strip()}"
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": model, **BODY}), headers)
        response = connection.getresponse()
        return bool(response.read()) and response.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def bare_s(settings: Settings, place: Path, number: int) -> float:
    """The bare engine's, on a socket of this round's own."""
    weights = prepare_weights(settings, silent)
    assert weights is not None
    directory = place / f"bare-{number}"
    directory.mkdir()
    options = replica_options(settings, weights, directory)
    seal = options.seal
    return first_token_s(
        seal.command, seal.environment, options.socket_path, key=None, model="m", words=options.message
    )


def allod_s(home: Path, model: str) -> float:
    """The platform's, as `allod up` starts it in a home that it has seen before."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "allod.cli", "up", f"--port={port}", f"--model={model}"]
    return first_token_s(command, {"ALLOD_HOME": str(home)}, port, key=home / "local.key", model=model)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m")
    words = parser.parse_args()
    settings = load_settings({"model.name": words.model}, home=default_home())
    print(f"from `allod up` to the first token of {words.model}: {machine()}; {words.rounds} rounds")
    found: dict[str, list[float]] = {"bare": [], "allod": []}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        home = place / "home"
        home.mkdir(mode=0o700)
        (home / "store").symlink_to(settings.home / "store")
        for number in range(-1, words.rounds):  # the first, unrecorded round makes the home known
            for name in rotated(list(found), number):
                took_s = bare_s(settings, place, number) if name == "bare" else allod_s(home, words.model)
                if number >= 0:
                    found[name].append(took_s)
    print(f"  seconds: bare {spread(found['bare'])}, Allod {spread(found['allod'])}")
    print(f"  ratio, Allod / bare: {spread(paired(found['allod'], found['bare']))}; aim 1.2 at most")


if __name__ == "__main__":
    main()
