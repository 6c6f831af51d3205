"""What a stage is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import MAX_SAFE_INTEGER, JsonValue
from allod.train.recipe import Recipe

StageFacts = Mapping[str, int | float | str | None]
"""What was measured while a stage ran: tokens, flops, loss. Goes into the manifest as `as_stated` says it."""

StageProgress = Callable[[str, int, int], None]
"""Progress: what is being done, how much of it is done, and how much there is (0: unknown)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stage may take before it is ended. `memory_bytes` is of each of its processes, as the kernel counts what
    they reserve; a stage that learns has no bound but the machine's."""

    memory_bytes: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class StageTask:
    """One stage's work. Same recipe and inputs, same bytes in `output`: whatever the time, load or directory.

    `recipe` is resolved: its size and number of steps are given. `inputs` holds the finished folder of every earlier
    stage by name. `output` becomes that stage's folder by one rename once it is done; until then it may hold what an
    interrupted try left there. Names that begin with a dot, and the folder `checkpoints`, are not outputs.
    `should_stop` turns true when the machine is wanted back: save, then `stop_if_asked` (stopping.py).
    """

    recipe: Recipe
    inputs: Mapping[str, Path]
    output: Path
    report: StageProgress
    should_stop: Callable[[], bool]


def as_stated(facts: StageFacts) -> dict[str, JsonValue]:
    """Facts as a statement can say them: as text where a number has a fraction, or is beyond what JSON keeps exact."""
    return {name: _exact(value) for name, value in facts.items()}


def _exact(value: int | float | str | None) -> JsonValue:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER else value
