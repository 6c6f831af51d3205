"""Receipts per second and per CPU second of the log writer, beside SQLite (WAL, synchronous FULL, batches of 256).

    python benchmarks/log_writer.py [--seconds 2] [--rounds 5] [--directory DIR]

Clients are asyncio coroutines in a closed loop: each waits for its entry to be durable before it sends the next. All
take turns in each round; ratios are of one round, given as `median (least to greatest)`. Ids are as the gateway's: the
time first, then digits in no order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from allod.prove.formats.signing_key import SigningKey
from allod.prove.tlog.log import AppendedBatch, Entry, Log, open_log
from allod.prove.tlog.writer import Done, LogWriter, Outcome

KEY = SigningKey("bench.example/log", bytes(32))
LEAF = b'{"predicate":{"id":"%08d"},"filler":"' + b"x" * 1400 + b'"}'
LATER = 0x9E3779B97F4A7C15F39D  # odd: times a number, modulo 2**80, it comes to each value once
READY, MANY, SQLITE = "ready batches of 256", "512 waiting clients", "SQLite, ready batches of 256"


class Measured(NamedTuple):
    """Entries a second of wall time and of CPU time, and how long each took, in seconds."""

    per_second: float
    per_cpu_second: float
    latencies: tuple[float, ...] = ()


def receipt_id(number: int) -> str:
    """64 entries a millisecond."""
    return f"{1_700_000_000_000 + number // 64:012x}{number * LATER % (1 << 80):020x}"


def percentile(values: tuple[float, ...], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


class SqliteLog:
    """What `LogWriter` asks of a log, by SQLite: batches are durable rows, neither hashed nor signed."""

    num_unflushed = 0

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.execute("create table leaf (id text primary key, data blob)")

    def append(
        self, entries: Iterable[tuple[bytes, str] | tuple[bytes, str, object]], *, ahead: int = 0
    ) -> AppendedBatch:
        self._database.execute("begin")
        rows = ((entry[1], entry[0]) for entry in entries)
        self._database.executemany("insert into leaf values (?, ?)", rows)
        self._database.execute("commit")
        return AppendedBatch(0, 0)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._database.close()


async def closed_loop(log: Log | SqliteLog, clients: int, seconds: float) -> Measured:
    loop = asyncio.get_running_loop()

    def finish(waiting: list[Done], outcome: Outcome) -> None:
        for done in waiting:
            done(outcome)

    def deliver(waiting: list[Done], outcome: Outcome) -> None:
        loop.call_soon_threadsafe(finish, waiting, outcome)

    writer = LogWriter(log, deliver)  # type: ignore[arg-type]
    numbers = count()
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    async def client() -> None:
        while (start := time.perf_counter()) < stop:
            number = next(numbers)
            future: asyncio.Future[Outcome] = loop.create_future()
            writer.submit(LEAF % number, receipt_id(number), future.set_result)
            if isinstance(outcome := await future, Exception):
                raise outcome
            latencies.append(time.perf_counter() - start)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    writer.close()
    log.close()
    return Measured(len(latencies) / wall, len(latencies) / cpu, tuple(latencies))


def in_batches(seconds: float, write: Callable[[int], None]) -> Measured:
    """`write` is given the number of the first of 256 entries."""
    done, begun, cpu = 0, time.perf_counter(), time.process_time()
    while (now := time.perf_counter()) < begun + seconds:
        write(done)
        done += 256
    return Measured(done / (now - begun), done / (time.process_time() - cpu))


def ready_batches(directory: Path, seconds: float) -> Measured:
    """Batches handed over ready, as SQLite gets them; hashed, signed and indexed."""
    log = open_log(directory, KEY)

    def write(first: int) -> None:
        log.append([Entry(LEAF % number, receipt_id(number)) for number in range(first, first + 256)])
        if log.num_unflushed >= 1024:
            log.flush()

    measured = in_batches(seconds, write)
    log.close()
    return measured


def sqlite_rows(path: Path, seconds: float) -> Measured:
    """The peer: each batch is durable, too."""
    log = SqliteLog(path)

    def write(first: int) -> None:
        log.append([(LEAF % number, receipt_id(number)) for number in range(first, first + 256)])

    measured = in_batches(seconds, write)
    log.close()
    return measured


def durable_us(path: Path, *, zeros: bool) -> float:
    """Median of writing and syncing one entry, microseconds: the floor under a lone client."""
    fd, times = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), []
    if zeros:
        os.pwrite(fd, bytes(len(LEAF) * 501), 0)
        os.fdatasync(fd)
    for turn in range(500):
        start = time.perf_counter()
        os.pwrite(fd, LEAF, turn * len(LEAF))
        os.fdatasync(fd)
        times.append(time.perf_counter() - start)
    os.close(fd)
    return percentile(tuple(times), 0.5) * 1e6


def one_round(seconds: float, directory: Path | None) -> dict[str, Measured]:
    with tempfile.TemporaryDirectory(dir=directory) as name:
        root = Path(name)
        found = {
            f"{clients} waiting clients": asyncio.run(closed_loop(open_log(root / f"{clients}", KEY), clients, seconds))
            for clients in (512, 16, 1)
        }
        found[f"SQLite, {MANY}"] = asyncio.run(closed_loop(SqliteLog(root / "waiting.sqlite"), 512, seconds))
        found[READY] = ready_batches(root / "ready", seconds)
        found[SQLITE] = sqlite_rows(root / "peer.sqlite", seconds)
        return found


def spread(values: list[float], digits: int = 2) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    rounds = [one_round(options.seconds, options.directory) for _ in range(options.rounds)]
    for name in rounds[0]:
        measured = [each[name] for each in rounds]
        print(f"{name:28}", spread([one.per_second for one in measured], 0), "a second,", end=" ")
        print(spread([one.per_cpu_second for one in measured], 0), "a CPU second", end="")
        for share in (0.5, 0.99) if measured[0].latencies else ():
            print(
                f", p{share * 100:.0f}", spread([percentile(one.latencies, share) * 1e6 for one in measured], 0), end=""
            )
        print(" us" if measured[0].latencies else "")
    for name, peer in ((READY, SQLITE), (MANY, SQLITE), (MANY, f"SQLite, {MANY}")):
        print(f"{name} over {peer}:", end=" ")
        print(spread([each[name].per_second / each[peer].per_second for each in rounds]), "a second,", end=" ")
        print(spread([each[name].per_cpu_second / each[peer].per_cpu_second for each in rounds]), "a CPU second")
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        floors = {zeros: durable_us(Path(root) / "floor", zeros=zeros) for zeros in (False, True)}
    print(f"write and fdatasync of one entry: {floors[False]:.0f} us, and {floors[True]:.0f} over zeros")


if __name__ == "__main__":
    main()
