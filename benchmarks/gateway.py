"""Gateways over one engine that costs nothing: requests and relayed tokens a second and a CPU second, added latency.

    python benchmarks/gateway.py [--rounds 3] [--seconds 2] [--only allod smg] [--beside 8b62729] [--peers DIRECTORY]

Allod keeps a durable receipt of every answer here; LiteLLM and SMG (SGLang's gateway, in Rust) keep none. All check an
API key, but for `relay`, which passes bytes on unread. Each runs alone in its turn, in one process. Allod reaches the
engine by a Unix socket and the others by TCP, as each does in service. Load: `wrk` for whole answers; `load.py` for
streamed ones. Rounds are interleaved, ratios are of one round. `--beside` runs the gateway of an older commit, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import mock_engine
from load import chat_request
from measure import answers, cpu_seconds, free_port, listens, machine, needed, paired, rotated, spread, started
from peers import bin_directory

HERE = Path(__file__).parent
KEY = "sk-benchmark-of-gateways-000000000000000000000"
CONNECTIONS = 16
STREAMS = 64  # of `LONG_CHUNKS` tokens each, at a time
Figures = dict[str, float]
RATIOS = {
    "requests/s": "requests_s",
    "requests/CPU s": "requests_cpu_s",
    "streams/s": "streams_s",
    "tokens/s": "tokens_s",
    "tokens/CPU s": "tokens_cpu_s",
    "latency alone": "alone_us",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers chats on a loopback port."""

    port: int
    key: str
    pid: int


@dataclass(frozen=True, slots=True)
class Way:
    """What a gateway needs to start: where it may write, where the engine is, and where the programs are."""

    place: Path
    mock_port: int
    socket_path: str
    peers: Path | None


def start_mock(stack: ExitStack, place: Path) -> tuple[Target, str]:
    """The engine, and its Unix socket."""
    port, path = free_port(), str(place / "engine.sock")
    command = [sys.executable, str(HERE / "mock_engine.py"), "--port", str(port), "--socket", path]
    process = stack.enter_context(started(command, is_ready=lambda: listens(port), log=place / "mock.log"))
    return Target(port, KEY, process.pid), path


def start_allod(stack: ExitStack, way: Way, source: Path = HERE.parent) -> Target:
    """Ours, from the working tree at `source`."""
    port, home = free_port(), way.place / f"home-{source.name}"
    command = [sys.executable, str(source / "benchmarks" / "allod_gateway.py"), "--port", str(port)]
    command += ["--socket", way.socket_path, "--home", str(home)]
    is_ready, log = (home / "gateway.json").exists, way.place / f"allod-{source.name}.log"
    environment = {"PYTHONPATH": str(source / "src")}
    process = stack.enter_context(started(command, is_ready=is_ready, log=log, environment=environment))
    return Target(port, (home / "local.key").read_text().strip(), process.pid)


def start_older(stack: ExitStack, way: Way, commit: str) -> Target:
    """Ours, as it was at `commit`."""
    source = way.place / commit
    source.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(HERE.parent), "archive", commit], check=True, capture_output=True, timeout=60
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True, timeout=60)
    return start_allod(stack, way, source)


def start_relay(stack: ExitStack, way: Way) -> Target:
    port = free_port()
    command = [sys.executable, str(HERE / "relay.py"), "--port", str(port), "--to", str(way.mock_port)]
    process = stack.enter_context(started(command, is_ready=lambda: listens(port), log=way.place / "relay.log"))
    return Target(port, KEY, process.pid)


def start_litellm(stack: ExitStack, way: Way) -> Target:
    port, place, config = free_port(), way.place, way.place / "litellm.json"
    engine = f"http://127.0.0.1:{way.mock_port}/v1"
    model = {"model": f"openai/{mock_engine.MODEL}", "api_base": engine, "api_key": "none"}
    tree = {
        "model_list": [{"model_name": mock_engine.MODEL, "litellm_params": model}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False, "set_verbose": False},
    }
    config.write_text(json.dumps(tree))  # YAML reads JSON
    command = [
        str((way.peers or bin_directory()) / "litellm"),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--num_workers", "1", "--telemetry", "False", "--log_config", str(_quiet(place))]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}
    process = stack.enter_context(_answering(command, port, place / "litellm.log", environment))
    return Target(port, KEY, process.pid)


def _quiet(place: Path) -> Path:
    """Logging settings without a line for each request: nobody else writes one."""
    file = place / "logging.json"
    file.write_text(
        '{"version": 1, "disable_existing_loggers": false, "loggers": {"uvicorn.access": {"level": "ERROR"}}}'
    )
    return file


def start_smg(stack: ExitStack, way: Way) -> Target:
    port, metrics_port = free_port(), free_port()
    programs = way.peers or bin_directory()
    command = [str(programs / "smg"), "launch", "--worker-urls", f"http://127.0.0.1:{way.mock_port}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, "--policy", "round_robin"]
    command += ["--disable-health-check", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]  # 0.0.0.0 unless told
    process = stack.enter_context(_answering(command, port, way.place / "smg.log", {}))
    return Target(port, KEY, process.pid)


def _answering(
    command: list[str], port: int, log: Path, environment: dict[str, str]
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    request = chat_request(port, KEY, mock_engine.MODEL, stream=False)
    return started(command, is_ready=lambda: listens(port) and answers(port, request), log=log, environment=environment)


STARTS: dict[str, Callable[[ExitStack, Way], Target]] = {
    "allod": start_allod,
    "relay": start_relay,
    "litellm": start_litellm,
    "smg": start_smg,
}


def whole_answers(target: Target, *, connections: int, seconds: float) -> Figures:
    """One run of wrk. Exits when any request fails: a gateway that refuses is not a fast one."""
    body = chat_request(target.port, target.key, mock_engine.MODEL, stream=False).partition(b"\r\n\r\n")[2].decode()
    command = [needed("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(HERE / "wrk.lua")]
    command += [f"http://127.0.0.1:{target.port}/v1/chat/completions", "--", body, target.key]
    before = cpu_seconds(target.pid)
    figures: Figures = json.loads(_run(command).splitlines()[-1])
    if figures["failed"]:
        sys.exit(f"error: {figures['failed']:.0f} requests failed on port {target.port}")
    figures["cpu_s"] = (cpu_seconds(target.pid) - before) / figures["num"]
    return figures


def streamed_answers(target: Target, *, connections: int, seconds: float, max_tokens: int = 64) -> Figures:
    """One run of the streaming client, and the target's CPU seconds an answer."""
    command = [sys.executable, str(HERE / "load.py"), "--port", str(target.port), "--key", target.key, "--stream"]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--max-tokens", str(max_tokens)]
    before = cpu_seconds(target.pid)
    figures: Figures = json.loads(_run(command))
    figures["cpu_s"] = (cpu_seconds(target.pid) - before) / figures["num"]
    return figures


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"error: {Path(command[0]).name}: {done.stderr or done.stdout}")
    return done.stdout


def measure(targets: dict[str, Target], *, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Every figure of every target, round by round; the first, unrecorded round warms up."""
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in targets}
    for number in range(-1, rounds):
        for name in rotated(list(targets), number):
            target, length = targets[name], seconds if number >= 0 else 1.0
            alone = whole_answers(target, connections=1, seconds=length)
            many = whole_answers(target, connections=CONNECTIONS, seconds=length)
            stream = streamed_answers(target, connections=1, seconds=length)
            streams = streamed_answers(target, connections=CONNECTIONS, seconds=length)
            long = streamed_answers(target, connections=STREAMS, seconds=length, max_tokens=mock_engine.LONG_CHUNKS)
            if number < 0:
                continue
            figures = found[name]
            figures["alone_us"].append(alone["median_us"])
            figures["requests_s"].append(many["requests_s"])
            figures["requests_cpu_s"].append(1 / many["cpu_s"])
            figures["tokens_s"].append(long["requests_s"] * mock_engine.LONG_CHUNKS)
            figures["tokens_cpu_s"].append(mock_engine.LONG_CHUNKS / long["cpu_s"])
            figures["first_us"].append(stream["first_us"])
            figures["end_us"].append(stream["end_us"])
            figures["streams_s"].append(streams["requests_s"])
    return found


def report(found: dict[str, dict[str, list[float]]]) -> None:
    """Medians with their spread over the rounds; ratios are of pairs within a round."""
    direct = found["direct"]
    many = f"{CONNECTIONS} connections"
    print(f"\n{'':10}{'1 connection':>14}{'added':>10}   {many:26}{'first chunk':>12}{'end':>9}   streams")
    for name, figures in found.items():
        added_us = median(one - other for one, other in zip(figures["alone_us"], direct["alone_us"], strict=True))
        print(
            f"{name:10}{median(figures['alone_us']):11.0f} us{added_us:7.0f} us   "
            f"{spread(figures['requests_s'], 0) + '/s':26}{median(figures['first_us']):9.0f} us"
            f"{median(figures['end_us']):6.0f} us   {median(figures['streams_s']):.0f}/s"
        )
    print(f"\n{STREAMS} streams of {mock_engine.LONG_CHUNKS} chunks, tokens a second and a CPU second of the gateway:")
    for name, figures in found.items():
        print(f"{name:10}{spread(figures['tokens_s'], 0):>32}{spread(figures['tokens_cpu_s'], 0):>32}")
    if "allod" not in found:
        return
    for name in found:
        if name not in ("allod", "direct"):
            ratios = {
                words: spread(paired(found["allod"][figure], found[name][figure])) for words, figure in RATIOS.items()
            }
            print(f"ratio Allod / {name}: " + ", ".join(f"{words} {ratio}" for words, ratio in ratios.items()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--beside", metavar="COMMIT", help="run the gateway of that commit, too")
    parser.add_argument("--peers", type=Path, help="where litellm and smg are; else they are installed")
    words = parser.parse_args()
    needed("wrk", "wrk")
    print(f"gateways over a mock engine: {machine()}; {words.rounds} rounds of {words.seconds:.0f} s")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        place = Path(directory)
        direct, socket_path = start_mock(stack, place)
        targets = {"direct": direct}
        way = Way(place, direct.port, socket_path, words.peers)
        for name in words.only:
            targets[name] = STARTS[name](stack, way)
        if words.beside:
            targets[words.beside] = start_older(stack, way, words.beside)
        found = measure(targets, rounds=words.rounds, seconds=words.seconds)
    report(found)


if __name__ == "__main__":
    main()
