"""Gateways over one engine that costs nothing: requests a second and added latency, in one run of interleaved rounds.

    python benchmarks/gateway.py [--rounds 5] [--seconds 3] [--only allod smg]

Allod keeps a durable receipt of every answer here; LiteLLM and SMG (SGLang's gateway, in Rust) keep none. All check an
API key. Each runs alone in its turn, in one process. Allod reaches the engine by a Unix socket and the others by TCP,
as each does in service. Load: `wrk` for whole answers; `load.py` for streamed ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import mock_engine
from load import chat_request
from measure import answers, free_port, listens, machine, needed, paired, rotated, spread, started
from peers import bin_directory

HERE = Path(__file__).parent
KEY = "sk-benchmark-of-gateways-000000000000000000000"
CONNECTIONS = 16
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers chats on a loopback port."""

    port: int
    key: str


def start_mock(stack: ExitStack, place: Path) -> tuple[Target, str]:
    """The engine, and its Unix socket."""
    port, path = free_port(), str(place / "engine.sock")
    command = [sys.executable, str(HERE / "mock_engine.py"), "--port", str(port), "--socket", path]
    stack.enter_context(started(command, is_ready=lambda: listens(port), log=place / "mock.log"))
    return Target(port, KEY), path


def start_allod(stack: ExitStack, place: Path, _: int, socket_path: str) -> Target:
    port, home = free_port(), place / "home"
    command = [sys.executable, str(HERE / "allod_gateway.py"), "--port", str(port)]
    command += ["--socket", socket_path, "--home", str(home)]
    stack.enter_context(started(command, is_ready=lambda: (home / "gateway.json").exists(), log=place / "allod.log"))
    return Target(port, (home / "local.key").read_text().strip())


def start_litellm(stack: ExitStack, place: Path, mock_port: int, _: str) -> Target:
    port, config = free_port(), place / "litellm.json"
    model = {"model": f"openai/{mock_engine.MODEL}", "api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": "none"}
    tree = {
        "model_list": [{"model_name": mock_engine.MODEL, "litellm_params": model}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False, "set_verbose": False},
    }
    config.write_text(json.dumps(tree))  # YAML reads JSON
    command = [str(bin_directory() / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False", "--log_config", str(_quiet(place))]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}
    stack.enter_context(_answering(command, port, place / "litellm.log", environment))
    return Target(port, KEY)


def _quiet(place: Path) -> Path:
    """Logging settings without a line for each request: nobody else writes one."""
    file = place / "logging.json"
    file.write_text(
        '{"version": 1, "disable_existing_loggers": false, "loggers": {"uvicorn.access": {"level": "ERROR"}}}'
    )
    return file


def start_smg(stack: ExitStack, place: Path, mock_port: int, _: str) -> Target:
    port, metrics_port = free_port(), free_port()
    command = [str(bin_directory() / "smg"), "launch", "--worker-urls", f"http://127.0.0.1:{mock_port}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, "--policy", "round_robin"]
    command += ["--disable-health-check", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]  # 0.0.0.0 unless told
    stack.enter_context(_answering(command, port, place / "smg.log", {}))
    return Target(port, KEY)


def _answering(command: list[str], port: int, log: Path, environment: dict[str, str]):  # type: ignore[no-untyped-def]
    request = chat_request(port, KEY, mock_engine.MODEL, stream=False)
    return started(command, is_ready=lambda: listens(port) and answers(port, request), log=log, environment=environment)


STARTS: dict[str, Callable[[ExitStack, Path, int, str], Target]] = {
    "allod": start_allod,
    "litellm": start_litellm,
    "smg": start_smg,
}


def whole_answers(target: Target, *, connections: int, seconds: float) -> Figures:
    """One run of wrk. Exits when any request fails: a gateway that refuses is not a fast one."""
    body = chat_request(target.port, target.key, mock_engine.MODEL, stream=False).partition(b"\r\n\r\n")[2].decode()
    command = [needed("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(HERE / "wrk.lua")]
    command += [f"http://127.0.0.1:{target.port}/v1/chat/completions", "--", body, target.key]
    figures: Figures = json.loads(_run(command).splitlines()[-1])
    if figures["failed"]:
        sys.exit(f"error: {figures['failed']:.0f} requests failed on port {target.port}")
    return figures


def streamed_answers(target: Target, *, connections: int, seconds: float) -> Figures:
    """One run of the streaming client."""
    command = [sys.executable, str(HERE / "load.py"), "--port", str(target.port), "--key", target.key, "--stream"]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    figures: Figures = json.loads(_run(command))
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
            if number < 0:
                continue
            figures = found[name]
            figures["alone_us"].append(alone["median_us"])
            figures["requests_s"].append(many["requests_s"])
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
    ours = found.get("allod")
    for name in ("litellm", "smg"):
        if ours and name in found:
            whole = spread(paired(ours["requests_s"], found[name]["requests_s"]))
            streams = spread(paired(ours["streams_s"], found[name]["streams_s"]))
            alone = spread(paired(ours["alone_us"], found[name]["alone_us"]))
            print(f"ratio Allod / {name}: requests/s {whole}, streams/s {streams}, latency alone {alone}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", nargs="*", choices=list(STARTS), default=list(STARTS))
    words = parser.parse_args()
    needed("wrk", "wrk")
    print(f"gateways over a mock engine: {machine()}; {words.rounds} rounds of {words.seconds:.0f} s")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        place = Path(directory)
        direct, socket_path = start_mock(stack, place)
        targets = {"direct": direct}
        for name in words.only:
            targets[name] = STARTS[name](stack, place, direct.port, socket_path)
        found = measure(targets, rounds=words.rounds, seconds=words.seconds)
    report(found)


if __name__ == "__main__":
    main()
