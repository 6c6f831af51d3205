"""One configuration, measured: its engine started in the seal, asked a fixed small workload, and ended.

Nothing is taken from a cache: the process is new, and no two prompts begin alike. As many requests are let in at once
as the engine has slots, as the gateway does, and those that wait are counted with their waiting.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from allod.app.gateway.engine import Weights, start_engine
from allod.app.tuning.configuration import Configuration
from allod.app.tuning.figures import Figures
from allod.core.errors import Unavailable
from allod.core.requests import Chat, Completion, Sampling, Usage
from allod.engine.engine import Engine
from allod.settings.tree import Settings
from allod.train.energy import EnergyMeter

WORKLOAD = 1  # another number when what is asked changes: figures of two are not compared
TUNING_LOG = "engine-tune.log"
NUM_TOGETHER = 4
ANSWER_TOKENS = 24
LONG_WORDS = 180  # some 250 language tokens
FIXED_TOKENS = 16  # of each answer to a fixed prompt
FIXED_PROMPTS = (
    "Name the capital of France, and say one thing about it.",
    "Write a function in Python that adds two numbers.",
    "List three colours, one in each line.",
    "What does it mean when water boils?",
    "Translate into German: the house is small.",
    "Write a short letter that thanks a neighbour.",
)
POLL_S = 0.01  # while replicas start
SAMPLE_S = 5.0  # how often the meter is read


class _Asked(NamedTuple):
    """One answer, in seconds from when it was wanted."""

    first_s: float
    whole_s: float
    prompt_tokens: int
    completion_tokens: int
    tokens: tuple[str, ...]


def apply(settings: Settings, configuration: Configuration) -> Settings:
    """The settings with this configuration in them."""
    model = replace(
        settings.model,
        threads=configuration.threads,
        slots=configuration.slots,
        replicas=configuration.replicas,
        context_tokens=configuration.context_tokens,
    )
    return replace(settings, model=model)


async def measure(settings: Settings, weights: Weights, configuration: Configuration, *, with_answers: bool) -> Figures:
    """All figures of one round, and the answers to the fixed prompts if these are wanted.

    Raises Unavailable where the engine does not start, is lost, or breaks.
    """
    begin_s = time.perf_counter()
    async with _start(apply(settings, configuration), weights) as engine:
        start_s = time.perf_counter() - begin_s
        asking = _Asking(engine, configuration)
        await asking.ask("Hello.", 4)  # wakes memory and caches
        meter = EnergyMeter()
        sampling = asyncio.create_task(_sample(meter))
        try:
            alone = await asking.ask("Tell a story about a lighthouse keeper and the sea.", ANSWER_TOKENS)
            long = await asking.ask(_long_text(engine.info.context_tokens), 1)
            together_s, together = await asking.ask_together()
        finally:
            sampling.cancel()
        used_mj = await asyncio.to_thread(meter.millijoules)
        fixed = FIXED_PROMPTS if with_answers else ()
        answers = [(await asking.ask(text, FIXED_TOKENS, with_tokens=True)).tokens for text in fixed]
        memory_bytes = await asyncio.to_thread(_memory_bytes, _pids(engine))
    return Figures(
        answer_tokens_s=_pace_of(alone),
        prompt_tokens_s=long.prompt_tokens / long.first_s,
        together_tokens_s=sum(each.completion_tokens for each in together) / together_s,
        first_token_s=alone.first_s,
        together_first_s=median(each.first_s for each in together),
        start_s=start_s,
        memory_mib=memory_bytes >> 20,
        millijoules=used_mj,
        answers=tuple(answers),
    )


async def measure_memory(settings: Settings, weights: Weights, configuration: Configuration) -> int:
    """What it takes in MiB once it has answered a word. Raises Unavailable."""
    async with _start(apply(settings, configuration), weights) as engine:
        await _Asking(engine, configuration).ask("Hello.", 4)
        return await asyncio.to_thread(_memory_bytes, _pids(engine)) >> 20


@asynccontextmanager
async def _start(settings: Settings, weights: Weights) -> AsyncGenerator[Engine, None]:
    """Once all its replicas are up."""
    async with start_engine(settings, weights, log_name=TUNING_LOG) as (engine, started):
        await started
        deadline_s = time.monotonic() + settings.model.ready_timeout_s
        while engine.steering and any(each.state != "up" for each in engine.steering.statuses()):
            if time.monotonic() > deadline_s:
                why = next(each.why for each in engine.steering.statuses() if each.state != "up")
                raise Unavailable(f"not all replicas were ready in time: {why}", code="engine_not_started")
            await asyncio.sleep(POLL_S)
        yield engine


class _Asking:
    """Who asks an engine, no more at once than it has slots."""

    def __init__(self, engine: Engine, configuration: Configuration) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(configuration.slots * configuration.replicas)

    async def ask(self, text: str, num_tokens: int, *, with_tokens: bool = False) -> _Asked:
        """A greedy answer of at most so many tokens."""
        sampling = Sampling(seed=1, temperature=0.0, max_tokens=num_tokens)
        message = {"role": "user", "content": text}
        chat = Chat(model="", messages=(message,), sampling=sampling, top_logprobs=0 if with_tokens else None)
        begin_s, first_s, whole = time.perf_counter(), 0.0, Completion("", "stop", Usage())
        async with self._turns, aclosing(self._engine.stream(chat, salt="")) as answer:
            async for item in answer:
                first_s = first_s or time.perf_counter() - begin_s
                if isinstance(item, Completion):
                    whole = item
        tokens = tuple(str(entry["token"]) for entry in whole.logprobs)
        usage = whole.usage
        return _Asked(first_s, time.perf_counter() - begin_s, usage.prompt_tokens, usage.completion_tokens, tokens)

    async def ask_together(self) -> tuple[float, list[_Asked]]:
        """Several at once: the seconds until all are answered, and each."""
        texts = [f"{number}: tell a long story about a mountain and its river." for number in range(NUM_TOGETHER)]
        begin_s = time.perf_counter()
        answers = await asyncio.gather(*(self.ask(text, ANSWER_TOKENS) for text in texts))
        return time.perf_counter() - begin_s, answers


def _pace_of(answer: _Asked) -> float:
    """Tokens a second from the first on."""
    if answer.completion_tokens < 2:
        return answer.completion_tokens / answer.whole_s
    return (answer.completion_tokens - 1) / max(answer.whole_s - answer.first_s, 1e-9)


async def _sample(meter: EnergyMeter) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        await asyncio.to_thread(meter.sample)


def _long_text(context_tokens: int) -> str:
    """A text that is long for a question and fits the context, even where each of its letters is a token."""
    words = ("Long ago", *(f"the {number} ships" for number in range(LONG_WORDS // 3)))
    return " ".join(words)[: context_tokens // 2]


def _pids(engine: Engine) -> list[int]:
    statuses = engine.steering.statuses() if engine.steering else ()
    return [each.pid for each in statuses if each.pid is not None]


def _memory_bytes(pids: Sequence[int]) -> int:
    """What its processes hold of their own, and once what they hold of files: replicas share their model's."""
    own, of_files = 0, 0
    for pid in pids:
        try:
            told = Path(f"/proc/{pid}/status").read_text()
        except OSError as error:
            raise Unavailable("the engine ended while it was measured", code="engine_gone") from error
        sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(Rss\w+):\s+([0-9]+) kB$", told, re.MULTILINE)}
        own += sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)  # none: it has just ended
        of_files = max(of_files, sizes.get("RssFile", 0))
    return own + of_files
