"""The race of configurations, each measured in rounds beside what is set today, within its time."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from allod.app.gateway.engine import Weights, engine_library, num_physical_cores
from allod.app.gateway.model_choice import entry_of
from allod.app.gateway.weights import prepare_weights
from allod.app.home import Home
from allod.app.tuning.at_hand import describe_machine, digest_of_machine, files_of_same_model
from allod.app.tuning.configuration import Configuration, configurations_to_try, larger_contexts
from allod.app.tuning.figures import Figures, agreement
from allod.app.tuning.kept import Kept, RoundOfRun, Subject, open_kept
from allod.app.tuning.race import LEAST_AGREEMENT, Lap, find_best, most_laps_left, next_lap
from allod.app.tuning.workload import WORKLOAD, measure, measure_memory
from allod.core.digests import digest_of_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.times import now_ms
from allod.model.gguf.header import read_header
from allod.model.store import Progress, digest_of_file
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings

MEMORY_SHARE = 2  # a context is called fitting while it takes one part in so many of what is available

Ending = Literal["clear", "time", "interrupted"]


@dataclass(frozen=True, slots=True)
class Tried:
    """A configuration, its rounds, its ratios to the reference, and how far it answers as the reference does; None
    where that is not known."""

    configuration: Configuration
    rounds: tuple[Figures, ...]
    ratios: tuple[float, ...]
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found. `contexts` are pairs of tokens and MiB for larger ones; `free_mib` was available then."""

    machine: str
    engine: str
    model: str
    model_digest: str
    reference: Configuration
    best: Configuration
    tried: tuple[Tried, ...]
    contexts: tuple[tuple[int, int], ...]
    free_mib: int | None
    num_measured: int
    ending: Ending


def tune(settings: Settings, *, minutes: float, again: bool, progress: Progress) -> Outcome:
    """Measure until one is clearly the best or the time is over; what was measured is kept, however it ends.

    Raises Invalid (`tune_model`) for a model that makes no answers, and Unavailable where another run has the realm
    (`tune_running`) or what is set does not run.
    """
    until_s = time.monotonic() + 60 * minutes
    weights = prepare_weights(settings, progress)
    if weights is None or weights.header.can_embed:
        raise Invalid("only a model that answers chats can be tuned", code="tune_model", hint="name one: --model")
    home = Home(settings.home)
    files = {weights.path: replace(weights, adapters=())}
    for file in files_of_same_model(weights.path, _folders(settings, home), stem=_stem(weights)):
        served = replace(weights.served, digest=digest_of_hex(digest_of_file(file, progress)))
        files[file] = Weights(file, served, read_header(file))
    with open_kept(settings.home) as kept:
        return _Run(settings, files, kept, again=again, until_s=until_s, progress=progress).run()


class _Run:
    """One run; the first of `files` is the reference's."""

    def __init__(
        self,
        settings: Settings,
        files: Mapping[Path, Weights],
        kept: TextIO,
        *,
        again: bool,
        until_s: float,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._files = files
        self._until_s = until_s
        self._progress = progress
        self._engine = digest_of_hex(digest_of_file(engine_library(), progress))
        subject = Subject(digest_of_machine(), self._engine, WORKLOAD)
        digests = {path: weights.served.digest for path, weights in files.items()}
        self._kept = Kept(kept, subject, digests, again=again)
        self._reference = _reference_of(settings, next(iter(files.values())))
        num_cores = min(num_physical_cores(), len(os.sched_getaffinity(0)))
        self._to_try = configurations_to_try(self._reference, num_cores=num_cores, files=list(files))
        self._run = now_ms()
        self._longest_s = 0.0
        self._num_measured = 0

    def run(self) -> Outcome:
        """The race, then the memory of larger contexts."""
        ending, contexts, free_mib = self._race(), [], _free_mib()
        best = find_best(self._to_try, self._kept.ratios(self._reference), refused=self._find_refused())
        if ending == "clear":
            try:
                contexts = self._measure_contexts(best, free_mib)
            except KeyboardInterrupt:
                ending = "interrupted"
        weights = self._files[best.file]
        return Outcome(
            machine=describe_machine(),
            engine=self._engine,
            model=weights.served.name,
            model_digest=weights.served.digest,
            reference=self._reference,
            best=best,
            tried=tuple(self._sum_up(each) for each in self._to_try if self._kept.laps.get(each)),
            contexts=tuple(contexts),
            free_mib=free_mib,
            num_measured=self._num_measured,
            ending=ending,
        )

    def _race(self) -> Ending:
        try:
            while (lap := self._next_lap()).runners:
                for configuration in self._order(lap):
                    if not self._measure(configuration, lap):
                        return "time"
        except KeyboardInterrupt:
            return "interrupted"
        return "clear"

    def _next_lap(self) -> Lap:
        return next_lap(self._to_try, self._kept.ratios(self._reference), refused=self._find_refused())

    def _order(self, lap: Lap) -> list[Configuration]:
        """The reference with them, and another first in each round: nobody always runs after the same neighbour."""
        all_of_it = [self._reference, *lap.runners]
        start = lap.number % len(all_of_it)
        return [*all_of_it[start:], *all_of_it[:start]]

    def _measure(self, configuration: Configuration, lap: Lap) -> bool:
        """Measure one and keep it; False where the time does not suffice, and then nothing is kept."""
        begin_s = time.monotonic()
        if begin_s + self._longest_s > self._until_s:
            return False
        self._tell(configuration, lap)
        try:
            figures = asyncio.run(self._measure_in_time(configuration))
        except TimeoutError:
            return False
        except (Unavailable, Invalid) as error:
            if configuration == self._reference:
                raise
            figures = Figures(error=error.message)
        if configuration == self._reference and figures.score == 0:
            raise Invalid("the model makes no answers that could be measured", code="tune_model")
        self._longest_s = max(self._longest_s, time.monotonic() - begin_s)
        self._num_measured += 1
        self._kept.add(configuration, RoundOfRun(self._run, lap.number), figures)
        return True

    async def _measure_in_time(self, configuration: Configuration) -> Figures:
        async with asyncio.timeout(max(0.0, self._until_s - time.monotonic())):
            is_known = any(each.answers for each in self._kept.laps[configuration].values())
            weights = self._files[configuration.file]
            return await measure(self._settings, weights, configuration, with_answers=not is_known)

    def _tell(self, configuration: Configuration, lap: Lap) -> None:
        """What is measured, and how long it may take still: at most, as nobody knows who will be left out."""
        left_s = self._until_s - time.monotonic()
        if self._num_measured:
            left_s = min(left_s, most_laps_left(len(lap.runners), lap.number) * self._longest_s)
        what = f"round {lap.number + 1}: {configuration}".replace(",", " ·")
        self._progress(f"{what}, at most {left_s:.0f} s to go", self._num_measured, 0)

    def _measure_contexts(self, best: Configuration, free_mib: int | None) -> list[tuple[int, int]]:
        """Of larger contexts, what they take, up to the first that does not fit or does not start."""
        found: list[tuple[int, int]] = []
        weights = self._files[best.file]
        for configuration in larger_contexts(best, weights.header.context_tokens):
            if time.monotonic() + self._longest_s > self._until_s:
                break
            self._progress(f"memory of context {configuration.context_tokens}", 0, 0)
            try:
                found.append(
                    (
                        configuration.context_tokens,
                        asyncio.run(measure_memory(self._settings, weights, configuration)),
                    )
                )
            except (Unavailable, TimeoutError):
                break
            if free_mib is not None and found[-1][1] * MEMORY_SHARE > free_mib:
                break
        return found

    def _find_refused(self) -> frozenset[Configuration]:
        """Who answers otherwise than the reference, beyond the bound."""
        known = {each: self._agreement(each) for each in self._to_try}
        return frozenset(each for each, share in known.items() if share is not None and share < LEAST_AGREEMENT)

    def _agreement(self, configuration: Configuration) -> float | None:
        """The worst of its rounds, with the reference's newest answers."""
        told = [figures.answers for figures in self._kept.laps[self._reference].values() if figures.answers]
        answers = [figures.answers for figures in self._kept.laps[configuration].values() if figures.answers]
        return min((agreement(each, told[-1]) for each in answers), default=None) if told else None

    def _sum_up(self, configuration: Configuration) -> Tried:
        ratios = self._kept.ratios(self._reference).get(configuration, [])
        laps = self._kept.laps[configuration]
        return Tried(configuration, tuple(laps.values()), tuple(ratios), self._agreement(configuration))


def _reference_of(settings: Settings, weights: Weights) -> Configuration:
    """What is set today, with what it leaves to the machine filled in."""
    model = settings.model
    return Configuration(
        file=weights.path,
        threads=model.threads or max(1, (num_physical_cores() - 1) // model.replicas),
        slots=model.slots,
        replicas=model.replicas,
        context_tokens=min(model.context_tokens, weights.header.context_tokens),
    )


def _stem(weights: Weights) -> str:
    """The file's name as its publisher gave it: in the store it has another."""
    entry = entry_of(weights.served.name, load_catalogue())
    return Path(entry.file).stem if entry is not None else weights.path.stem


def _folders(settings: Settings, home: Home) -> list[Path]:
    """Where the operator puts files, and the folder of the file that is served, if the operator named it."""
    named = Path(settings.model.name)
    return [home.models, *([named.absolute().parent] if named.is_file() else [])]


def _free_mib() -> int | None:
    try:
        found = re.search(r"^MemAvailable: +([0-9]+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) >> 10 if found else None
