"""What fair turns give and cost at the real engine, beside first come, first served: one heavy tenant and nine light.

    python benchmarks/fairness.py --traces DIRECTORY [--rounds 2] [--seconds 40] [--model smollm2-135m]

The sealed engine behind `Admission`, in one process. Arrivals are stretches of Azure's conversation trace, with fewer
tokens, and in time scaled to the pace that is measured before each round: each light tenant asks for `LIGHT` of a
tenth of the engine, the heavy one for `HEAVY` times all of it. Rounds alternate between both ways to choose, with the
same arrivals.

- Service gap: the greatest difference between two tenants' service over any stretch in which both had requests waiting.
- Wait: from arrival to the turn, and to the first token. A light tenant's share alone is an engine with a tenth of the
  pace that serves its requests one by one: computed, from the pace of the same round.
- Work: cost of the tokens read and made while all ten always have more to ask, in short stretches that alternate: in
  a second, and in a second of the engine's CPU time, which neighbours on the machine disturb less.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from statistics import median, quantiles

from allod.app.gateway.engine import run_engine
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.core.requests import Chat, Completion, Sampling
from allod.engine.engine import Engine
from allod.engine.replicas.pool import Pool
from allod.serve.admission import Admission, Turn
from allod.serve.fair_queue import FairQueue, Line, cost_of
from allod.serve.fair_scheduler import Turns
from allod.settings.environment import default_home
from measure import machine, paired, rotated, spread

TRACE = "AzureLLMInferenceTrace_conv.csv"
NUM_LIGHT, LIGHT, HEAVY = 9, 0.7, 3.0
FEWER_PROMPT_TOKENS, FEWER_COMPLETION_TOKENS = 60, 20
MAX_WORDS, MAX_COMPLETION = 32, 20
NUM_PAIRS, PAIR_S = 2, 6.0  # how often and how long the work of both is compared before a round
TEMPLATE_TOKENS = 32  # what the chat template adds to a prompt
WORDS = ("sea", "ship", "wind", "rope", "mast", "sail", "hull", "deck", "bell", "lamp", "fish", "gull", "rain", "salt")


class FirstComeQueue(FairQueue):
    """By arrival, whoever it is."""

    def rank(self, line: Line) -> float:
        return next(iter(line.waiting)).number


class FirstComeTurns(Turns):
    queue_type = FirstComeQueue


class FirstCome(Admission):
    turns_type = FirstComeTurns


Rows = list[tuple[float, int, int]]  # seconds, words, tokens of the answer
WAYS = {"fair turns": Admission, "first come": FirstCome}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: when, in seconds of the round, whose, how many words, and how long an answer."""

    at_s: float
    tenant: str
    words: int
    tokens: int

    @property
    def cost(self) -> int:
        return cost_of(TEMPLATE_TOKENS + self.words, self.tokens)


@dataclass(slots=True)
class Round:
    """What happened to the requests of one round."""

    turn_waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    first_waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    service: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    waiting: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stretches: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # least and greatest difference
    gap: int = 0
    most_tokens: int = 0  # of one request
    seconds: float = 0.0

    @property
    def bound(self) -> int:
        """2 × the dearest that the places can hold, by the longest request that came."""
        return 2 * cost_of(0, self.most_tokens)

    @property
    def cost(self) -> int:
        return sum(self.service.values())

    @property
    def pace(self) -> float:
        return self.cost / self.seconds

    def serve(self, tenant: str, cost: int) -> None:
        self.service[tenant] += cost
        for pair, (least, greatest) in self.stretches.items():
            if tenant in pair:
                difference = self.service[pair[0]] - self.service[pair[1]]
                least, greatest = min(least, difference), max(greatest, difference)
                self.stretches[pair] = least, greatest
                self.gap = max(self.gap, greatest - least)

    def wait(self, tenant: str, change: int) -> None:
        """One more or one fewer of the tenant's requests waits: stretches begin and end with that."""
        self.waiting[tenant] += change
        both = [name for name, number in self.waiting.items() if number > 0]
        now = {pair: self.service[pair[0]] - self.service[pair[1]] for pair in combinations(sorted(both), 2)}
        self.stretches = {pair: self.stretches.get(pair, (gap, gap)) for pair, gap in now.items()}


def read_trace(directory: Path) -> Rows:
    """Seconds, words and answer tokens, made fewer."""
    path = directory / TRACE
    if not path.exists():
        sys.exit(f"error: {path} is missing\n\nhint: it is published with Azure's public dataset")
    with path.open() as lines:
        return [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                min(MAX_WORDS, 1 + int(row["ContextTokens"]) // FEWER_PROMPT_TOKENS),
                min(MAX_COMPLETION, 1 + int(row["GeneratedTokens"]) // FEWER_COMPLETION_TOKENS),
            )
            for row in csv.DictReader(lines)
        ]


def scaled(rows: Rows, tenant: str, *, pace: float, seconds: float) -> list[Ask]:
    """As many requests from the start of `rows` as cost `pace` a second over those seconds, in the trace's rhythm.

    Where in it a round begins is chance, but the same in each run: or all tenants would begin at once.
    """
    asks, cost = [], 0
    for at_s, words, tokens in rows:
        asks.append(Ask(at_s, tenant, words, tokens))
        cost += asks[-1].cost
        if cost >= pace * seconds:
            break
    begin, whole = asks[0].at_s, max(asks[-1].at_s - asks[0].at_s, 1e-9)
    phase = random.Random(tenant).random()
    return [Ask(((ask.at_s - begin) / whole + phase) % 1 * seconds, tenant, ask.words, ask.tokens) for ask in asks]


def arrivals(rows: Rows, *, pace: float, seconds: float, number: int) -> list[Ask]:
    """A round's requests: every tenant has a stretch of the trace to itself, and another one each round."""
    step = len(rows) // (NUM_LIGHT + 2)
    share = LIGHT * pace / (NUM_LIGHT + 1)
    asks = scaled(rows[number * 300 :], "heavy", pace=HEAVY * pace, seconds=seconds)
    for light in range(NUM_LIGHT):
        start = (light + 1) * step + number * 100
        asks += scaled(rows[start:], f"light {light}", pace=share, seconds=seconds)
    return sorted(asks, key=lambda ask: ask.at_s)


def chat_for(ask: Ask) -> Chat:
    """A prompt that is new from its first words, so that no cache answers for the engine."""
    chosen = random.choices(WORDS, k=ask.words)
    sampling = Sampling(seed=1, temperature=1.0, max_tokens=ask.tokens)
    return Chat("", ({"role": "user", "content": " ".join(chosen)},), sampling)


async def answer(engine: Engine, admission: Admission, ask: Ask, done: Round, begin_s: float) -> None:
    """One request, from its arrival to its end, or to the end of the round."""
    waits, told = done.first_waits, TEMPLATE_TOKENS + ask.words
    done.wait(ask.tenant, 1)
    is_waiting = True
    try:
        async with admission.turn(ask.tenant, prompt_tokens=told, max_tokens=MAX_COMPLETION) as turn:
            done.wait(ask.tenant, -1)
            is_waiting = False
            done.turn_waits[ask.tenant].append(time.monotonic() - begin_s - ask.at_s)
            async for first_s in _streamed(engine, turn, ask, done):
                waits[ask.tenant].append(first_s - begin_s - ask.at_s)
    except asyncio.CancelledError:  # what still waits has waited so long at least
        if is_waiting:
            done.wait(ask.tenant, -1)
            done.turn_waits[ask.tenant].append(time.monotonic() - begin_s - ask.at_s)
            waits[ask.tenant].append(time.monotonic() - begin_s - ask.at_s)
        raise


async def _streamed(engine: Engine, turn: Turn, ask: Ask, done: Round) -> AsyncGenerator[float, None]:
    """Yields once: when the first token came."""
    made, told = 0, TEMPLATE_TOKENS + ask.words
    done.serve(ask.tenant, cost_of(told, 0))
    async with aclosing(engine.stream(chat_for(ask), salt=ask.tenant.encode().hex())) as pieces:
        async for item in pieces:
            if not isinstance(item, Completion):
                made += len(item)
                turn.used(made)
                done.serve(ask.tenant, cost_of(0, len(item)))
                if made == len(item):
                    yield time.monotonic()
            else:
                usage = item.usage
                turn.finish(usage)
                done.serve(ask.tenant, cost_of(usage.prompt_tokens - told, usage.completion_tokens - made))
                done.most_tokens = max(done.most_tokens, usage.prompt_tokens + MAX_COMPLETION)


async def play(engine: Engine, kind: type[Admission], asks: list[Ask], *, seconds: float) -> Round:
    """One round: requests come when they come, and after `seconds` all is over."""
    admission = kind(num_running=engine.info.slots, num_waiting=1 << 20, max_wait_s=1e9)
    done, begin_s, tasks = Round(), time.monotonic(), []
    for ask in asks:
        await asyncio.sleep(max(0.0, begin_s + ask.at_s - time.monotonic()))
        tasks.append(asyncio.create_task(answer(engine, admission, ask, done, begin_s)))
    await asyncio.sleep(max(0.0, begin_s + seconds - time.monotonic()))
    done.seconds = time.monotonic() - begin_s
    done.most_tokens *= engine.info.slots
    await stop(tasks)
    return done


async def stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End what still runs or waits. Raises whatever went wrong in any."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


@dataclass(frozen=True, slots=True)
class Work:
    """Cost of what an engine did, in a second and in a second of its CPU time."""

    a_second: float
    a_cpu_second: float


async def measure_work(engine: Pool, kind: type[Admission], rows: Rows, *, seconds: float) -> Work:
    """Without the start, when all places fill at once."""
    admission = kind(num_running=engine.info.slots, num_waiting=1 << 20, max_wait_s=1e9)
    asks = [Ask(0.0, f"{number % 10}", words, tokens) for number, (_, words, tokens) in enumerate(rows[:400])]
    done, begin_s = Round(), time.monotonic()
    tasks = [asyncio.create_task(answer(engine, admission, ask, done, begin_s)) for ask in asks]
    await asyncio.sleep(seconds / 4)
    cost, begin_s, cpu_s = done.cost, time.monotonic(), engine_cpu_s(engine)
    await asyncio.sleep(seconds * 3 / 4)
    work = done.cost - cost
    made = Work(work / (time.monotonic() - begin_s), work / (engine_cpu_s(engine) - cpu_s))
    await stop(tasks)
    return made


def engine_cpu_s(engine: Pool) -> float:
    """CPU time of the engine's process so far."""
    (perimeter,) = engine.evidence()
    fields = Path(f"/proc/{perimeter.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alone(asks: list[Ask], tenant: str, *, pace: float) -> tuple[list[float], list[float]]:
    """A tenant's waits at an engine of that pace, one request at a time: to the turn, and to the first token."""
    free_s, turns, firsts = 0.0, [], []
    for ask in asks:
        if ask.tenant == tenant:
            start_s = max(free_s, ask.at_s)
            turns.append(start_s - ask.at_s)
            firsts.append(turns[-1] + (cost_of(TEMPLATE_TOKENS + ask.words, 1)) / pace)
            free_s = start_s + ask.cost / pace
    return turns, firsts


def percentile_90(values: Sequence[float]) -> float:
    return quantiles(values, n=10)[-1]


@dataclass(slots=True)
class Figures:
    """Of one way to choose, all rounds. The waits are light tenants', in seconds."""

    gap: list[float] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    turn: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    turn_alone: list[float] = field(default_factory=list)
    first_alone: list[float] = field(default_factory=list)

    def add(self, done: Round, asks: list[Ask], *, pace: float) -> None:
        self.gap.append(done.gap / done.bound)
        for light in (f"light {number}" for number in range(NUM_LIGHT)):
            self.turn += done.turn_waits[light]
            self.first += done.first_waits[light]
            turns, firsts = alone(asks, light, pace=pace / (NUM_LIGHT + 1))
            self.turn_alone += turns
            self.first_alone += firsts


def report(found: dict[str, Figures], *, bound: float) -> None:
    """Each figure of both ways, and what fairness costs, in pairs."""
    print(f"\nthe bound of the service gap is {bound:.0f} (in prompt tokens; a token of an answer is two)")
    for name, one in found.items():
        print(f"\n{name}: work {spread([work.a_second for work in one.work], 0)} a second")
        print(f"  service gap / bound: {spread(one.gap)}")
        for what, waits, baseline in (
            ("turn", one.turn, one.turn_alone),
            ("first token", one.first, one.first_alone),
        ):
            mine, share = percentile_90(waits), percentile_90(baseline)
            times = mine / max(share, 1e-3)
            print(f"  light p90 to the {what}: {mine:.1f} s, {times:.2f} × of its share alone ({share:.1f} s)")
    fair, first = found.values()
    print()
    for what, of in (("a second", attrgetter("a_second")), ("a CPU second", attrgetter("a_cpu_second"))):
        ratios = paired(list(map(of, fair.work)), list(map(of, first.work)))
        print(f"work {what}, fair turns / first come: {spread(ratios, 3)}")


@asynccontextmanager
async def sealed_engine(model: str) -> AsyncGenerator[Pool, None]:
    """The engine as `allod up` starts it."""
    settings = load_settings({"model.name": model}, home=default_home())
    weights = await asyncio.to_thread(prepare_weights, settings, lambda what, done, total: None)
    async with run_engine(settings, weights) as engine:
        assert isinstance(engine, Pool)
        yield engine


async def run(words: argparse.Namespace) -> None:
    rows = read_trace(words.traces)
    found = {name: Figures() for name in WAYS}
    bounds: list[float] = []
    async with sealed_engine(words.model) as engine:
        print(f"{engine.info.slots} slots")
        await measure_work(engine, Admission, rows, seconds=3)  # warms up
        for number in range(words.rounds):
            for pair in range(NUM_PAIRS):
                for name in rotated(list(WAYS), pair):
                    found[name].work.append(await measure_work(engine, WAYS[name], rows, seconds=PAIR_S))
            pace = median([work.a_second for one in found.values() for work in one.work[-NUM_PAIRS:]])
            asks = arrivals(rows, pace=pace, seconds=words.seconds, number=number)
            rounds = {
                name: await play(engine, WAYS[name], asks, seconds=words.seconds)
                for name in rotated(list(WAYS), number)
            }
            pace_of_round = median(done.pace for done in rounds.values())
            for name, done in rounds.items():
                found[name].add(done, asks, pace=pace_of_round)
                bounds.append(done.bound)
    report(found, bound=median(bounds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--model", default="smollm2-135m")
    words = parser.parse_args()
    print(f"fair turns: {machine()}; {words.rounds} rounds of {words.seconds:.0f} s each way")
    asyncio.run(run(words))


if __name__ == "__main__":
    main()
