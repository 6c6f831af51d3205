"""Minutes become a size and a number of steps: a few real steps of each size that may fit, then arithmetic.

Time is that of this process on a CPU, so that a busy machine does not change what is chosen by much; on a GPU it is the
clock's. What is chosen is recorded with the recipe: a later run takes it from there and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from allod.model.network.llama import Shape
from allod.train.learning.batches import Section, TokenBatches
from allod.train.learning.learner import Learner, Plan
from allod.train.learning.peaks import used_s
from allod.train.learning.ranks import Ranks
from allod.train.learning.schedule import Schedule
from allod.train.learning.sizes import LADDER, batch_rows, shape_of
from allod.train.recipe import Recipe

TOKENS_PER_PARAMETER = 4
"""A larger size is taken only where it still sees so many tokens for each parameter. For the lowest loss 20 are right
(Hoffmann et al., arXiv:2203.15556); where minutes are few, fewer (docs/log.md)."""
WARM_STEPS = 2
TIMED_STEPS = 3
TIMED_S = 2.0  # or more steps, until so long has been measured
MIN_STEPS = 20


@dataclass(frozen=True, slots=True)
class LearningPace:
    """What was measured of one size."""

    parameters: int
    tokens_per_step: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class SizeChoice:
    """What was chosen, and from what."""

    size: str
    steps: int
    paces: Mapping[str, LearningPace]


def choose(minutes: float, paces: Mapping[str, LearningPace]) -> tuple[str, int]:
    """The size of those measured, smallest first, that suits `minutes` of training, and the steps that fill them."""
    fitting = [size for size, pace in paces.items() if _fits(minutes, pace)]
    size = fitting[-1] if fitting else next(iter(paces))
    pace = paces[size]
    return size, max(MIN_STEPS, round(minutes * 60 * pace.tokens_per_second / pace.tokens_per_step))


def measure(minutes: float, recipe: Recipe) -> SizeChoice:
    """Try the sizes from the smallest up until one does not fit; the one that the recipe asks for, if it does."""
    paces: dict[str, LearningPace] = {}
    for size in LADDER if recipe.size == "auto" else (recipe.size,):
        shape = shape_of(size, vocab=recipe.tokenizer.vocab, context=recipe.pretrain.context)
        paces[size] = measure_pace(shape)
        if not _fits(minutes, paces[size]):
            break
    size, steps = choose(minutes, paces)
    return SizeChoice(size, steps, paces)


def resolve(recipe: Recipe) -> tuple[Recipe, dict[str, int | float | str | None]]:
    """`recipe` with its size and steps, and the facts that they follow from."""
    found = measure(recipe.minutes, recipe)
    pace = found.paces[found.size]
    facts: dict[str, int | float | str | None] = {
        "size": found.size,
        "steps": found.steps,
        "minutes": recipe.minutes,
        "parameters": pace.parameters,
        "tokens_per_step": pace.tokens_per_step,
        "tokens_per_second": pace.tokens_per_second,
        "assumed": "one rank, one thread, CPU time" if not torch.cuda.is_available() else "one rank, wall time",
        **{f"tokens_per_second_{size}": other.tokens_per_second for size, other in found.paces.items()},
    }
    return replace(recipe, size=found.size, steps=found.steps, minutes=0), facts


def measure_pace(shape: Shape) -> LearningPace:
    """Learn a few steps from random tokens."""
    torch.set_num_threads(1)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    batches = TokenBatches(
        (Section("random", _Random(shape.vocab, 64 * shape.context)),),
        context=shape.context,
        rows=batch_rows(shape),
        seed=0,
    )
    learner = Learner(shape, Plan(batches, Schedule(10_000)), Ranks(0, 1, device), seed=0)
    for step in range(WARM_STEPS):
        learner.learn(step)
    begun, step, taken = used_s(device), WARM_STEPS, 0.0
    while step < WARM_STEPS + TIMED_STEPS or taken < TIMED_S:
        learner.learn(step)
        step += 1
        taken = used_s(device) - begun
    speed = (step - WARM_STEPS) * batches.tokens_per_step / taken
    return LearningPace(shape.num_parameters, batches.tokens_per_step, speed)


def _fits(minutes: float, pace: LearningPace) -> bool:
    return minutes * 60 * pace.tokens_per_second >= TOKENS_PER_PARAMETER * pace.parameters


class _Random:
    """Tokens that nothing can be learnt from."""

    def __init__(self, vocab: int, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self._tokens = np.random.default_rng(0).integers(0, vocab, num_tokens)

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        return self._tokens[start : start + length]
