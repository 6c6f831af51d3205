"""HTTP servers and clients that the gateway could be built on, in one run. Decision 0004 quotes it.

    python benchmarks/http_libraries.py [--rounds 5] [--seconds 2]

Servers give one small answer (http_servers.py) under `wrk`; clients ask the mock engine over its Unix socket.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from gateway import CONNECTIONS, KEY, Target, start_mock, whole_answers
from load import chat_request
from measure import answers, free_port, listens, machine, needed, paired, rotated, spread, started
from peers import bin_directory

HERE = Path(__file__).parent
SERVERS = ("uvicorn", "starlette", "granian asgi", "granian rsgi", "aiohttp")
CLIENTS = ("allod", "aiohttp", "httpcore", "httpx")
Found = dict[str, dict[str, list[float]]]


def _environment() -> dict[str, str]:
    """What the peers' Python needs to find the benchmarks and our client."""
    return {"PYTHONPATH": f"{HERE}:{HERE.parent / 'src'}"}


def start_server(stack: ExitStack, place: Path, name: str) -> Target:
    port = free_port()
    command = [str(bin_directory() / "python"), str(HERE / "http_servers.py"), name, "--port", str(port)]
    request = chat_request(port, KEY, "bench", stream=False)
    log = place / f"{name}.log"
    process = stack.enter_context(
        started(command, is_ready=lambda: listens(port) and answers(port, request), log=log, environment=_environment())
    )
    return Target(port, KEY, process.pid)


def measure_servers(targets: dict[str, Target], *, rounds: int, seconds: float) -> Found:
    """Median latency alone and requests a second at many connections."""
    found: Found = {name: defaultdict(list) for name in targets}
    for number in range(-1, rounds):
        for name in rotated(list(targets), number):
            length = seconds if number >= 0 else 1.0
            alone = whole_answers(targets[name], connections=1, seconds=length)
            many = whole_answers(targets[name], connections=CONNECTIONS, seconds=length)
            if number >= 0:
                found[name]["alone_us"].append(alone["median_us"])
                found[name]["requests_s"].append(many["requests_s"])
    return found


def measure_clients(socket_path: str, *, rounds: int, seconds: float) -> Found:
    """CPU for each exchange, one at a time and many together."""
    found: Found = {name: defaultdict(list) for name in CLIENTS}
    for number in range(rounds):
        for name in rotated(CLIENTS, number):
            for together in (1, CONNECTIONS):
                command = [str(bin_directory() / "python"), str(HERE / "http_clients.py"), name]
                command += ["--socket", socket_path, "--together", str(together), "--seconds", str(seconds)]
                done = subprocess.run(
                    command, capture_output=True, check=True, text=True, env=_environment(), timeout=120
                )
                figures = json.loads(done.stdout)
                found[name][f"cpu_us at {together}"].append(figures["cpu_us"])
                found[name][f"requests_s at {together}"].append(figures["requests_s"])
    return found


def report(servers: Found, clients: Found) -> None:
    """Medians with their spread; ratios are of pairs within a round."""
    print(f"\nserver        alone    {CONNECTIONS} connections              ratio to uvicorn")
    for name, figures in servers.items():
        ratio = spread(paired(figures["requests_s"], servers["uvicorn"]["requests_s"]))
        many = spread(figures["requests_s"], 0) + "/s"
        print(f"{name:13}{median(figures['alone_us']):4.0f} us   {many:30}{ratio}")
    key, rate = f"cpu_us at {CONNECTIONS}", f"requests_s at {CONNECTIONS}"
    print(f"\nclient     CPU alone   CPU at {CONNECTIONS}          ratio to ours             exchanges/s")
    for name, figures in clients.items():
        ratio = spread(paired(figures[key], clients["allod"][key]), 1)
        alone, many = median(figures["cpu_us at 1"]), spread(figures[key], 0)
        print(f"{name:9}{alone:6.0f} us   {many + ' us':22}{ratio:25}{median(figures[rate]):.0f}/s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    words = parser.parse_args()
    needed("wrk", "wrk")
    print(f"HTTP servers and clients: {machine()}; {words.rounds} rounds of {words.seconds:.0f} s")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        place = Path(directory)
        targets = {name: start_server(stack, place, name) for name in SERVERS}
        servers = measure_servers(targets, rounds=words.rounds, seconds=words.seconds)
        _, socket_path = start_mock(stack, place)
        clients = measure_clients(socket_path, rounds=words.rounds, seconds=words.seconds)
    report(servers, clients)


if __name__ == "__main__":
    main()
