"""What it costs that tenants share no prefix cache, beside an engine that chooses its slots itself and shares it all.

    python benchmarks/cache_isolation.py [--rounds 5] [--slots 4] [--model smollm2-135m]

One sealed engine. `free` leaves the slot to llama.cpp (most similar prompt, else least recently used; whoever asks),
`salted` names it as the gateway does. Rounds alternate between them, with the same requests.

- Time to the first token of a long prefix that another tenant, or the same one, asked just before, over a fresh one.
- Conversations at once: language tokens a second, and the share of prompt tokens that were there already. Each with a
  tenant and a text of its own, as many as slots and one more; all of one tenant; and each behind one text for all.
- Short requests: tokens a second when just as many are let in as there are slots, or twice as many. Of one tenant,
  which shows what the way to the next request costs; of more than there are slots, which shows what isolation costs
  where most of a prompt is the chat template, the same for all.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from allod.app.gateway.engine import replica_options
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.core.requests import Chat, Completion, Json, Sampling
from allod.engine.adapters.llama import CHAT_PATH, LlamaEngine
from allod.engine.adapters.llama_slots import Slots
from allod.engine.address import UnixAddress
from allod.engine.engine import EngineInfo
from allod.engine.http import EngineHttp, Exchange
from allod.engine.replicas.pool import Pool
from allod.settings.environment import default_home
from measure import machine, paired, rotated, spread

NUM_TURNS, TURN_TOKENS = 3, 12  # of each conversation
NUM_SHORT, SHORT_TOKENS = 24, 24  # requests that measure how soon a slot has its next
MANY_SLOTS = 1000  # one for whoever asks: the engine does the choosing
WAYS = ("free", "salted")


class FreeEngine(LlamaEngine):
    """llama.cpp with its own choice of slots and everything reused."""

    def __init__(self, info: EngineInfo, socket_path: str) -> None:
        super().__init__(info, socket_path, Slots(MANY_SLOTS))
        self._http = FreeHttp(UnixAddress(socket_path), self._deadlines)


class FreeHttp(EngineHttp):
    """Takes the slot out of a chat that `LlamaEngine` has put into one."""

    async def begin(self, method: str, path: str, body: bytes = b"", *, first_s: float = 0.0) -> Exchange:
        free, num = re.subn(rb'^\{"id_slot":\d+,"cache_prompt":(?:true|false),', b'{"cache_prompt":true,', body)
        assert num == (path == CHAT_PATH)
        return await super().begin(method, path, free, first_s=first_s)


@dataclass
class Work:
    """What was done, and how long it took."""

    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached: int = 0
    seconds: float = 0.0

    @property
    def pace(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def hits(self) -> float:
        return self.num_cached / self.num_prompt_tokens

    def count(self, answer: Completion) -> None:
        self.num_tokens += answer.usage.completion_tokens
        self.num_prompt_tokens += answer.usage.prompt_tokens
        self.num_cached += answer.usage.cached_tokens


@dataclass
class Conversation:
    """A tenant's questions under one long text, each with all that was said before."""

    salt: str
    messages: list[Json] = field(default_factory=list)

    async def turn(self, engine: LlamaEngine, work: Work) -> None:
        self.messages.append({"role": "user", "content": f"And what of {len(self.messages)}?"})
        answer = await engine.complete(chat(self.messages, TURN_TOKENS), salt=self.salt)
        self.messages.append({"role": "assistant", "content": answer.content})
        work.count(answer)


def chat(messages: Sequence[Json], num_tokens: int) -> Chat:
    return Chat("m", tuple(messages), Sampling(seed=1, temperature=0.0, max_tokens=num_tokens))


def long_text(name: str) -> Json:
    return {"role": "system", "content": " ".join(f"{name} and {number} make {number * 7}." for number in range(8))}


def conversations(kind: str, number: int, round_name: str) -> list[Conversation]:
    """Conversations that nothing has been computed for in another round."""
    names = [f"{round_name} {index}" for index in range(number)]
    if kind == "one tenant":
        return [Conversation("one", [long_text(name)]) for name in names]
    if kind == "one text for all":
        return [Conversation(name, [long_text(round_name)]) for name in names]
    return [Conversation(name, [long_text(name)]) for name in names]


async def converse(engine: LlamaEngine, talks: Sequence[Conversation], num_at_once: int) -> Work:
    """All conversations, so many requests at a time; each waits its turn again after an answer, as people do."""
    work, turns, begin = Work(), asyncio.Semaphore(num_at_once), time.perf_counter()

    async def run(talk: Conversation) -> None:
        for _ in range(NUM_TURNS):
            async with turns:
                await talk.turn(engine, work)

    await asyncio.gather(*map(run, talks))
    work.seconds = time.perf_counter() - begin
    return work


async def short_requests(engine: LlamaEngine, num_at_once: int, num_tenants: int, round_name: str) -> Work:
    """Many short requests, let in so many at a time, from so many tenants."""
    work, turns, begin = Work(), asyncio.Semaphore(num_at_once), time.perf_counter()

    async def run(number: int) -> None:
        asked: Json = {"role": "user", "content": f"{round_name}, {number}: count on."}
        async with turns:
            work.count(await engine.complete(chat([asked], SHORT_TOKENS - number % 7), salt=f"{number % num_tenants}"))

    await asyncio.gather(*map(run, range(NUM_SHORT)))
    work.seconds = time.perf_counter() - begin
    return work


async def first_token_s(engine: LlamaEngine, salt: str, name: str) -> float:
    begin, first_s = time.perf_counter(), 0.0
    asked = chat([long_text(name), {"role": "user", "content": "Why?"}], 1)
    async with aclosing(engine.stream(asked, salt=salt)) as answer:
        async for _ in answer:
            first_s = first_s or time.perf_counter() - begin
    return first_s


async def compare_first_tokens(engines: dict[str, LlamaEngine], rounds: int) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for way in rotated(WAYS, number):
            engine, name = engines[way], f"{way} {number}"
            await first_token_s(engine, "first", f"known {name}")
            found[f"{way} own"].append(await first_token_s(engine, "first", f"known {name}"))
            found[f"{way} across"].append(await first_token_s(engine, "second", f"known {name}"))
            found[f"{way} fresh"].append(await first_token_s(engine, "third", f"fresh {name}"))
    print(f"\ntime to the first token over a fresh prefix's ({median(found['salted fresh']):.2f} s)")
    for way in WAYS:
        for who in ("own", "across"):
            print(f"  {way:8} {who:8} {spread(paired(found[f'{way} {who}'], found[f'{way} fresh']))}")


async def compare_work(
    names: Sequence[str], rounds: int, do: Callable[[str, int], Awaitable[Work]], *, over: str
) -> None:
    """Print tokens a second of each way over those of one, and what share of the prompts was there."""
    found: dict[str, list[Work]] = defaultdict(list)
    for number in range(rounds):
        for name in rotated(names, number):
            found[name].append(await do(name, number))
    base = [work.pace for work in found[over]]
    for name in names:
        paces = [work.pace for work in found[name]]
        hits = median(work.hits for work in found[name])
        print(f"  {name:18} {spread(paces, 1)} tokens/s, {spread(paired(paces, base))} of {over}; {hits:.0%} cached")


async def compare(engines: dict[str, LlamaEngine], num_slots: int, rounds: int) -> None:
    await compare_first_tokens(engines, 2 * rounds)
    for kind, number in (
        ("own texts", num_slots),
        ("own texts", num_slots + 1),
        ("one tenant", num_slots),
        ("one text for all", num_slots),
    ):

        async def talk(way: str, at: int, kind: str = kind, number: int = number) -> Work:
            return await converse(engines[way], conversations(kind, number, f"{way} {at}"), num_slots)

        print(f"\n{number} conversations, {kind}")
        await compare_work(WAYS, rounds, talk, over="free")

    await compare_offers(engines, num_slots, rounds)


async def compare_offers(engines: dict[str, LlamaEngine], num_slots: int, rounds: int) -> None:
    offers = {f"{way} {times}x slots": (way, times * num_slots) for way in WAYS for times in (1, 2)}
    for num_tenants in (1, num_slots + 1):

        async def ask(name: str, at: int, num_tenants: int = num_tenants) -> Work:
            way, num_at_once = offers[name]
            return await short_requests(engines[way], num_at_once, num_tenants, f"{name} {at}")

        print(f"\nshort requests of {num_tenants} tenant(s), let in at once")
        await compare_work(list(offers), rounds, ask, over="free 2x slots")


async def measure(model: str, num_slots: int, rounds: int, socket_dir: Path) -> None:
    settings = load_settings({"model.name": model, "model.slots": num_slots}, home=default_home())
    weights = prepare_weights(settings, lambda what, done, total: None)
    assert weights is not None
    options = replica_options(settings, weights, socket_dir)
    pool = Pool([options])
    await pool.start()
    try:
        engines: dict[str, LlamaEngine] = {
            "free": FreeEngine(pool.info, options.socket_path),
            "salted": LlamaEngine(pool.info, options.socket_path),
        }
        await compare(engines, num_slots, rounds)
        for engine in engines.values():
            await engine.close()
    finally:
        await pool.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--model", default="smollm2-135m")
    words = parser.parse_args()
    print(f"isolated prefix caches, {words.model}, {words.slots} slots: {machine()}; {words.rounds} rounds")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(words.model, words.slots, words.rounds, Path(directory)))


if __name__ == "__main__":
    main()
