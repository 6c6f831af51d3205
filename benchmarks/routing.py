"""How requests are spread over replicas: `engine/replicas/choose.py` beside three other ways, over modelled engines.

    python benchmarks/routing.py [--traces DIRECTORY] [--replicas 8] [--speed 1.0] [--quick]

Traces are Mooncake's conversation and synthetic ones (kvcache-ai/Mooncake, FAST25 release): arrivals, lengths and the
hashes of blocks of 512 tokens. `--quick` makes small ones of the same kind, and needs no directory.

- An engine computes prompts one after another, answers beside them, and holds the latest blocks of what it has seen.
  How long an answer will be nobody knows.
- The ceiling is the hit rate of one cache without a bound that all replicas share.
- Round robin; fewest requests; SMG's cache-aware policy as its pages and its source's comments describe it: while loads
  are alike, whoever was sent the longest prefix, if that is half of the prompt, else whoever was sent least; while they
  are not (more than 32 requests apart, and by a factor), fewest requests. Its tree forgets nothing here.
- With several gateways each request comes to one of them by chance, and each knows only what it sent itself.
- The CPU time is of one choice with what is noted for it, over 100 replicas, and of making a prompt's blocks.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, quantiles
from typing import NamedTuple

from allod.core.requests import Chat, Sampling
from allod.engine.replicas.choose import ReplicaLoad, choose
from allod.engine.replicas.prefixes import Prefixes, Prompt, prompt_of
from measure import machine, spread

BLOCK_TOKENS = 512
PREFILL, DECODE = 8_000, 30  # tokens a second: of one engine's prompts, of one answer
SLOTS, CACHE_BLOCKS = 64, 10_000  # of one engine: five million tokens, as with a cache in the host's memory
NUM_GATEWAYS = 3
FORESEEN_TOKENS = 300  # of an answer, when nobody knows how long it will be
SMALL = 400  # requests of a quick run
SMG_MATCH, SMG_APART = 0.5, 32
CPU_REPLICAS, AIM_US = 100, 60


class Ask(NamedTuple):
    """A request: when, its prompt, and how long its answer will be."""

    at_s: float
    tokens: int
    answer_tokens: int
    blocks: tuple[int, ...]

    @property
    def prompt(self) -> Prompt:
        whole = min(self.tokens, BLOCK_TOKENS * len(self.blocks))
        sizes = [BLOCK_TOKENS] * len(self.blocks)
        sizes[-1] -= BLOCK_TOKENS * len(self.blocks) - whole
        return Prompt(self.blocks, tuple(sizes), self.tokens - whole)


def read_trace(directory: Path, name: str, speed: float) -> list[Ask]:
    path = directory / f"mooncake_{name}_trace.jsonl"
    if not path.exists():
        sys.exit(f"error: {path} is missing\n\nhint: kvcache-ai/Mooncake publishes it; --quick needs none")
    with path.open() as lines:
        return [
            Ask(row["timestamp"] / 1000 / speed, row["input_length"], row["output_length"], tuple(row["hash_ids"]))
            for row in map(json.loads, lines)
        ]


def small_trace(num: int) -> list[Ask]:
    """Conversations under rules of eight blocks that all share, each turn four blocks longer."""
    chance = random.Random(1)
    known = [[*range(8)] for _ in range(num // 5)]
    asks = []
    for number in range(num):
        blocks = chance.choice(known)
        blocks += [chance.getrandbits(64) for _ in range(4)]
        asks.append(Ask(number * 0.25, BLOCK_TOKENS * len(blocks), chance.randrange(50, 400), tuple(blocks)))
    return asks


def shared_rules(num: int) -> list[Ask]:
    """One system prompt of 4,096 tokens for everybody, and a hundred tokens of one's own."""
    return [Ask(number * 0.02, 4096 + 100, 200, (*range(8), 1000 + number)) for number in range(num)]


def ceiling(asks: Sequence[Ask]) -> float:
    seen: set[int] = set()
    hits = 0
    for ask in asks:
        hits += num_leading(ask.blocks, seen)
        seen.update(ask.blocks)
    return hits / sum(len(ask.blocks) for ask in asks)


def num_leading(blocks: Sequence[int], held: set[int] | OrderedDict[int, None]) -> int:
    return next((at for at, block in enumerate(blocks) if block not in held), len(blocks))


class Engine:
    """A model of one: what it is sent is begun in that order, so when each begins and ends is known at once."""

    def __init__(self) -> None:
        self._free_s = 0.0
        self._ends: list[float] = []
        self._cache: OrderedDict[int, None] = OrderedDict()
        self.computed = 0

    def run(self, ask: Ask) -> tuple[int, float, float]:
        """Blocks that it held, when its first token comes and when its last does."""
        begin_s = max(ask.at_s, self._free_s)
        if len(self._ends) == SLOTS:
            begin_s = max(begin_s, heapq.heappop(self._ends))
        num_held = num_leading(ask.blocks, self._cache)
        for block in reversed(ask.blocks):
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > CACHE_BLOCKS:
            self._cache.popitem(last=False)
        tokens = max(1, ask.tokens - BLOCK_TOKENS * num_held)
        self.computed += tokens
        self._free_s = begin_s + tokens / PREFILL
        end_s = self._free_s + ask.answer_tokens / DECODE
        heapq.heappush(self._ends, end_s)
        return num_held, self._free_s, end_s


class Way:
    """To choose among replicas. Of each request it is told when its first token and its last have come."""

    def __init__(self, num_replicas: int) -> None:
        self.running = [0] * num_replicas  # requests of this gateway
        self.why = Counter[str]()

    def pick(self, ask: Ask) -> int:
        raise NotImplementedError

    def work_of(self) -> tuple[float, float]:
        """Of the request that was sent last, in tokens: of its prompt and of its answer."""
        return 0.0, 0.0

    def done(self, number: int, work: float) -> None:
        """A part of what that replica had to do."""


class RoundRobin(Way):
    _number = -1

    def pick(self, ask: Ask) -> int:
        self._number = (self._number + 1) % len(self.running)
        return self._number


class LeastLoaded(Way):
    def __init__(self, num_replicas: int) -> None:
        super().__init__(num_replicas)
        self._chance = random.Random(1)

    def pick(self, ask: Ask) -> int:
        return min(range(len(self.running)), key=lambda number: (self.running[number], self._chance.random()))


class SmgCacheAware(Way):
    factor = 1.0001

    def __init__(self, num_replicas: int) -> None:
        super().__init__(num_replicas)
        self._sent: list[set[int]] = [set() for _ in range(num_replicas)]

    def pick(self, ask: Ask) -> int:
        most, least = max(self.running), min(self.running)
        if most - least > SMG_APART and most > self.factor * least:
            number = self.running.index(least)
        else:
            matches = [num_leading(ask.blocks, sent) for sent in self._sent]
            number = matches.index(max(matches))
            if matches[number] <= SMG_MATCH * len(ask.blocks):
                number = min(range(len(self.running)), key=lambda one: len(self._sent[one]))
        self._sent[number].update(ask.blocks)
        return number


class SmgLaxer(SmgCacheAware):
    factor = 1.5


class Allod(Way):
    def __init__(self, num_replicas: int) -> None:
        super().__init__(num_replicas)
        self._prefixes = Prefixes(num_replicas)
        self._work = [0.0] * num_replicas
        self._work_of = (0.0, 0.0)

    def pick(self, ask: Ask) -> int:
        loads = [
            ReplicaLoad(number=number, work=work, num_running=self.running[number], slots=SLOTS)
            for number, work in enumerate(self._work)
        ]
        prompt = ask.prompt
        choice = choose(prompt, loads, self._prefixes)
        self._prefixes.note(prompt, choice.number)
        self.why[choice.why] += 1
        self._work_of = choice.prompt_tokens, FORESEEN_TOKENS
        self._work[choice.number] += sum(self._work_of)
        return choice.number

    def work_of(self) -> tuple[float, float]:
        return self._work_of

    def done(self, number: int, work: float) -> None:
        self._work[number] -= work


WAYS: dict[str, type[Way]] = {
    "round robin": RoundRobin,
    "fewest requests": LeastLoaded,
    "SMG, factor 1.0001": SmgCacheAware,
    "SMG, factor 1.5": SmgLaxer,
    "Allod": Allod,
}


class Figures(NamedTuple):
    """Of one way over one trace: hit rate, seconds to the first token, and the most that one engine computed, of the
    mean."""

    hit_rate: float
    median_s: float
    p90_s: float
    imbalance: float
    why: Counter[str]


def play(asks: Sequence[Ask], way: type[Way], *, num_replicas: int, num_gateways: int = 1) -> Figures:
    chance = random.Random(1)
    engines = [Engine() for _ in range(num_replicas)]
    gateways = [way(num_replicas) for _ in range(num_gateways)]
    coming: list[tuple[float, int, int, float, int]] = []  # when, at which gateway and replica: work and requests done
    waits, num_hits = [], 0
    for ask in asks:
        while coming and coming[0][0] <= ask.at_s:
            _, at, number, work, num_done = heapq.heappop(coming)
            gateways[at].done(number, work)
            gateways[at].running[number] -= num_done
        at = chance.randrange(num_gateways)
        gateway = gateways[at]
        number = gateway.pick(ask)
        prompt_work, answer_work = gateway.work_of()
        gateway.running[number] += 1
        num_held, first_s, end_s = engines[number].run(ask)
        heapq.heappush(coming, (first_s, at, number, prompt_work, 0))
        heapq.heappush(coming, (end_s, at, number, answer_work, 1))
        waits.append(first_s - ask.at_s)
        num_hits += num_held
    computed = [engine.computed for engine in engines]
    return Figures(
        num_hits / sum(len(ask.blocks) for ask in asks),
        median(waits),
        quantiles(waits, n=10)[-1],
        max(computed) / mean(computed),
        sum((gateway.why for gateway in gateways), Counter[str]()),
    )


def compare(name: str, asks: Sequence[Ask], *, num_replicas: int) -> dict[str, Figures]:
    most = ceiling(asks)
    print(f"\n{name}: {len(asks)} requests in {asks[-1].at_s:.0f} s, ceiling {most:.1%}")
    print(f"  {'':32} hits  of ceiling   TTFT p50     p90   max/mean computed")
    found = {way: play(asks, kind, num_replicas=num_replicas) for way, kind in WAYS.items()}
    for gateways in (2, NUM_GATEWAYS):
        for way in ("SMG, factor 1.0001", "Allod"):
            key = f"{way}, {gateways} gateways"
            found[key] = play(asks, WAYS[way], num_replicas=num_replicas, num_gateways=gateways)
    for way, one in found.items():
        share = one.hit_rate / most
        times = f"{one.median_s:8.2f} s {one.p90_s:6.2f} s"
        print(f"  {way:30} {one.hit_rate:6.1%}  {share:10.3f} {times} {one.imbalance:9.2f}")
    ours, least = found["Allod"], found["fewest requests"]
    print(f"  p90 of fewest requests / Allod's: {least.p90_s / ours.p90_s:.2f}; decided by {_told(ours.why)}")
    several = found[f"Allod, {NUM_GATEWAYS} gateways"].hit_rate / ours.hit_rate
    print(f"  hit rate of {NUM_GATEWAYS} gateways / of one: {several:.3f}")
    return found


def _told(why: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in why.most_common())


def choice_us(num_choices: int) -> list[float]:
    """CPU of a choice and of noting it, over a hundred replicas that share rules; half of the prompts are known."""
    chance = random.Random(1)
    prefixes = Prefixes(CPU_REPLICAS)
    rules = tuple(range(1, 11))
    prompts = [
        Prompt(rules + tuple(chance.getrandbits(64) for _ in range(10)), (100,) * 20, 10) for _ in range(num_choices)
    ]
    for number, prompt in enumerate(prompts[::2]):
        prefixes.note(prompt, number % CPU_REPLICAS)
    loads = [
        ReplicaLoad(number=number, work=chance.random() * 10_000, num_running=3, slots=SLOTS)
        for number in range(CPU_REPLICAS)
    ]
    times = []
    for _ in range(5):
        begin = time.process_time()
        for prompt in prompts:
            prefixes.note(prompt, choose(prompt, loads, prefixes).number)
        times.append((time.process_time() - begin) / num_choices * 1e6)
    return times


def blocks_us(num_bytes: int) -> float:
    """CPU of making a prompt's blocks."""
    sampling = Sampling(seed=1)
    chat = Chat("m", tuple({"role": "user", "content": "x" * (num_bytes // 4)} for _ in range(4)), sampling)
    times = []
    for _ in range(20):
        begin = time.process_time()
        prompt_of(chat, "a" * 64)
        times.append(time.process_time() - begin)
    return median(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster than in the trace requests come")
    parser.add_argument("--quick", action="store_true")
    words = parser.parse_args()
    if words.traces is None and not words.quick:
        parser.error("--traces DIRECTORY or --quick is needed")
    print(
        f"routing: {machine()}; {words.replicas} engines of {PREFILL} prompt tokens a second, {DECODE} a second of an "
        f"answer, {SLOTS} slots, {CACHE_BLOCKS} blocks; requests at {words.speed:g} times their pace"
    )
    if words.traces is not None:
        for name in ("conversation", "synthetic"):
            compare(name, read_trace(words.traces, name, words.speed), num_replicas=words.replicas)
    else:
        compare("conversations", small_trace(SMALL), num_replicas=words.replicas)
    compare("one system prompt for all", shared_rules(SMALL if words.quick else 3000), num_replicas=words.replicas)
    times = choice_us(200 if words.quick else 2000)
    print(f"\none choice over {CPU_REPLICAS} replicas, noted: {spread(times, 1)} us of CPU; the aim is {AIM_US}")
    for num_bytes in (1_000, 4_000, 48_000, 8 << 20):
        print(f"  blocks of a prompt of {num_bytes:>7} bytes: {blocks_us(num_bytes):7.1f} us")


if __name__ == "__main__":
    main()
