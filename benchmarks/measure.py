"""What the benchmarks share: processes that are ready before they are measured, and figures with their spread."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

START_TIMEOUT_S = 120.0


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str],
    *,
    is_ready: Callable[[], bool],
    log: Path,
    environment: Mapping[str, str] | None = None,
    words: bytes = b"",
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that was told `words`, ready, and ended afterwards. Exits with the end of its log when it never
    becomes ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(words)
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"error: {command[0]} did not become ready\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether anybody accepts connections on this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int, request: bytes) -> bool:
    """Whether a whole request (head and body) is answered with 200."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body or None, dict(line.split(": ", 1) for line in lines))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def cpu_seconds(pid: int) -> float:
    """What a process has used in user and system mode, all its threads and its living children with it."""
    ticks, parents, used = os.sysconf("SC_CLK_TCK"), dict[int, int](), dict[int, float]()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        parents[int(directory.name)] = int(fields[1])
        used[int(directory.name)] = (int(fields[11]) + int(fields[12])) / ticks

    def is_ours(one: int) -> bool:
        return one == pid or (one in parents and is_ours(parents[one]))

    return sum(seconds for one, seconds in used.items() if is_ours(one))


def needed(program: str, package: str) -> str:
    """Where a program is. Exits with what to install when it is missing."""
    found = shutil.which(program)
    if found is None:
        print(f"error: {program} is missing\n\nhint: apt-get install {package}", file=sys.stderr)
        raise SystemExit(3)
    return found


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: each comes first in its turn, so that nobody always runs after the same neighbour."""
    start = round_number % len(names)
    return [*names[start:], *names[:start]]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (least to greatest)`."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def paired(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratios round by round: what disturbs a round disturbs both of its halves."""
    return [one / other for one, other in zip(above, below, strict=True)]


def machine() -> str:
    """The circumstances of a run, for its first line."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, load before the run {load:.1f}, Python {sys.version.split()[0]}"
