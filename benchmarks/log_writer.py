"""Receipts per second and latency of the log writer, beside SQLite (WAL, synchronous FULL, batches of 256), in one run.

    python benchmarks/log_writer.py [--seconds 3] [--directory DIR]

Clients are asyncio coroutines in a closed loop: each waits for its entry to be durable before it sends the next.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import tempfile
import time
from pathlib import Path

from allod.prove.keys import SigningKey
from allod.prove.log import Entry, open_log
from allod.prove.writer import LogWriter, Outcome

LEAF = b'{"predicate":{"id":"%08d"},"filler":"' + b"x" * 1400 + b'"}'


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


async def closed_loop(directory: Path, clients: int, seconds: float) -> tuple[float, list[float], float]:
    """Receipts a second of wall time, latencies in seconds, CPU seconds a receipt."""
    loop = asyncio.get_running_loop()
    log = open_log(directory, SigningKey("bench.example/log", bytes(32)))

    def finish(batch: list) -> None:  # type: ignore[type-arg]
        for done, outcome in batch:
            done(outcome)

    writer = LogWriter(log, lambda batch: loop.call_soon_threadsafe(finish, batch))
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    async def client(number: int) -> None:
        turn = 0
        while (start := time.perf_counter()) < stop:
            turn += 1
            future: asyncio.Future[Outcome] = loop.create_future()
            writer.submit(LEAF % (number * 1_000_000 + turn), f"{number}-{turn}", future.set_result)
            if isinstance(outcome := await future, Exception):
                raise outcome
            latencies.append(time.perf_counter() - start)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(clients)))
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    writer.close()
    log.close()
    return len(latencies) / wall, latencies, cpu / len(latencies)


def ready_batches(directory: Path, seconds: float) -> float:
    """Entries a second when batches of 256 are handed over ready, as SQLite gets them."""
    log = open_log(directory, SigningKey("bench.example/log", bytes(32)))
    done, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        log.append([Entry(LEAF % (done + n), f"{done + n}") for n in range(256)])
        if log.num_unflushed >= 4096:
            log.flush()
        done += 256
    log.close()
    return done / (now - begun)


def sqlite_rate(path: Path, seconds: float) -> float:
    """Rows a second of the peer: batches of 256, each durable."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table leaf (id text primary key, data blob)")
    done, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        database.execute("begin")
        database.executemany("insert into leaf values (?, ?)", [(f"{done + n}", LEAF % (done + n)) for n in range(256)])
        database.execute("commit")
        done += 256
    database.close()
    return done / (now - begun)


def fdatasync_us(path: Path) -> float:
    """Median of writing and syncing one entry, microseconds: the floor under a lone client."""
    fd, times = os.open(path, os.O_RDWR | os.O_CREAT), []
    for turn in range(500):
        start = time.perf_counter()
        os.pwrite(fd, LEAF, turn * len(LEAF))
        os.fdatasync(fd)
        times.append(time.perf_counter() - start)
    os.close(fd)
    return percentile(times, 0.5) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        root = Path(name)
        floor = fdatasync_us(root / "floor")
        rates: dict[int, float] = {}
        for clients in (1, 16, 512):
            rate, times, cpu = asyncio.run(closed_loop(root / f"log{clients}", clients, options.seconds))
            rates[clients] = rate
            middle, slow = percentile(times, 0.5) * 1e6, percentile(times, 0.99) * 1e6
            print(f"{clients:4} clients: {rate:8.0f}/s", end="  ")
            print(f"p50 {middle:7.0f} us  p99 {slow:7.0f} us  CPU {cpu * 1e6:5.1f} us")
        ours = ready_batches(root / "ready", options.seconds)
        peer = sqlite_rate(root / "peer.sqlite", options.seconds)
        print(f"one write and fdatasync: {floor:.0f} us")
        print(f"ready batches of 256: {ours:.0f}/s hashed, signed and indexed; SQLite WAL FULL: {peer:.0f}/s")
        print(
            f"ratio to SQLite: {ours / peer:.2f} with ready batches, {rates[512] / peer:.2f} with 512 waiting clients"
        )


if __name__ == "__main__":
    main()
