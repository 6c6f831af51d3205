"""What the whole platform costs: tokens a second and time to first token through Allod, over the bare engine's.

    python benchmarks/platform_tax.py [--rounds 5] [--tokens 64] [--model smollm2-135m]

The same weights and engine options twice: once behind Allod with everything on (seal, key, receipts), once unsealed
and asked over its own Unix socket. The model is fetched by `allod model get` into ALLOD_HOME if it is not there.
Both engines stay up; only one is asked at a time, in interleaved rounds, greedily, so that both compute the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from allod.app.gateway.engine import replica_options
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.settings.environment import default_home
from allod.settings.tree import Settings
from measure import free_port, listens, machine, paired, rotated, spread, started

STREAMS = (1, 4)
TIMEOUT_S = 300.0
Found = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI server: a Unix socket's path or a loopback port, and its key."""

    place: str | int
    key: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.place, str):
            return await asyncio.open_unix_connection(self.place)
        return await asyncio.open_connection("127.0.0.1", self.place)


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer, in seconds since it was asked for."""

    first_s: float
    num_tokens: int


async def ask(target: Target, model: str, text: str, num_tokens: int) -> Answer:
    """One streamed chat. Exits unless it has the tokens that were asked for, as the engine counted them."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": num_tokens,
        "temperature": 0,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not target.key:
        body["cache_prompt"] = True  # as Allod asks it for a tenant's own slot; a client of Allod cannot
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{target.place}\r\n"
        f"authorization: Bearer {target.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\nconnection: close\r\n\r\n"
    )
    reader, writer = await target.connect()
    begin, first_s, made = time.perf_counter(), 0.0, 0
    writer.write(head.encode() + data)
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[len(b"data: ") :])
        if event.get("usage"):
            made = event["usage"]["completion_tokens"]
        if not first_s and event["choices"] and event["choices"][0]["delta"].get("content"):
            first_s = time.perf_counter() - begin
    writer.close()
    if not first_s or made == 0:
        sys.exit(f"error: no answer from {target.place}")
    return Answer(first_s, made)


async def ask_together(target: Target, model: str, *, streams: int, num_tokens: int, turn: int) -> tuple[float, float]:
    """Tokens a second of `streams` answers at once, and the median time to first token in seconds.

    Each prompt is new in its first words, so that no prefix cache answers for the engine; both targets get the same.
    """
    texts = [f"{turn}-{number}: tell a long story about a lighthouse keeper and the sea." for number in range(streams)]
    begin = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S):
        answers = await asyncio.gather(*(ask(target, model, text, num_tokens) for text in texts))
    took_s = time.perf_counter() - begin
    return sum(one.num_tokens for one in answers) / took_s, median(one.first_s for one in answers)


def measure(targets: dict[str, Target], model: str, *, rounds: int, num_tokens: int) -> Found:
    """Every figure of every target, round by round; the first, unrecorded round warms up."""
    found: Found = {name: defaultdict(list) for name in targets}
    for number in range(-1, rounds):
        for streams in STREAMS:
            for name in rotated(list(targets), number):
                asked = ask_together(targets[name], model, streams=streams, num_tokens=num_tokens, turn=number)
                tokens_s, first_s = asyncio.run(asked)
                if number >= 0:
                    found[name][f"tokens_s {streams}"].append(tokens_s)
                    found[name][f"first_ms {streams}"].append(first_s * 1e3)
    return found


def start_engine(stack: ExitStack, settings: Settings, place: Path) -> Target:
    """The bare engine: the process that the platform would start, with the same options, outside the seal."""
    weights = prepare_weights(settings, lambda what, done, total: None)
    assert weights is not None
    directory = place / "bare"
    directory.mkdir()
    options = replica_options(settings, weights, directory)
    stack.enter_context(
        started(
            options.seal.command,
            is_ready=lambda: asyncio.run(_is_ready(options.socket_path)),
            log=place / "bare.log",
            environment=options.seal.environment,
            words=options.message,
        )
    )
    return Target(options.socket_path, "")


async def _is_ready(socket_path: str) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError:
        return False
    writer.write(b"GET /health HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return b" 200 " in line


def start_allod(stack: ExitStack, settings: Settings, model: str, place: Path) -> Target:
    """The gateway as `allod up` starts it, with a fresh realm over the same weights."""
    port, home = free_port(), place / "home"
    home.mkdir(mode=0o700)
    (home / "models").symlink_to(settings.home / "models")
    (home / "store").symlink_to(settings.home / "store")
    command = [sys.executable, "-m", "allod.web", "--home", str(home), "--port", str(port), "--model", model]
    ready = started(
        command, is_ready=lambda: (home / "gateway.json").exists() and listens(port), log=place / "allod.log"
    )
    stack.enter_context(ready)
    return Target(port, (home / "local.key").read_text().strip())


def report(found: Found) -> None:
    """Ratios are of pairs within a round; the noise is how much the bare engine differs from itself."""
    bare, whole = found["bare"], found["allod"]
    for streams in STREAMS:
        key, first = f"tokens_s {streams}", f"first_ms {streams}"
        noise = (max(bare[key]) - min(bare[key])) / median(bare[key])
        print(f"\n{streams} at a time: tokens/s bare {spread(bare[key], 1)}, through Allod {spread(whole[key], 1)}")
        print(
            f"  ratio, Allod / bare: {spread(paired(whole[key], bare[key]), 3)}; noise of the bare engine {noise:.0%}"
        )
        print(f"  time to first token: bare {spread(bare[first], 1)} ms, through Allod {spread(whole[first], 1)} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="smollm2-135m")
    words = parser.parse_args()
    print(f"the platform's tax on {words.model}: {machine()}; {words.rounds} rounds of {words.tokens} tokens")
    settings = load_settings({"model.name": words.model}, home=default_home())
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        place = Path(directory)
        targets = {"bare": start_engine(stack, settings, place)}
        targets["allod"] = start_allod(stack, settings, words.model, place)
        found = measure(targets, words.model, rounds=words.rounds, num_tokens=words.tokens)
    report(found)


if __name__ == "__main__":
    main()
