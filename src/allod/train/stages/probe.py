"""No stage of a run, but run like one: minutes become a size and a number of steps, measured on this machine."""

from __future__ import annotations

from allod.train.learning.probe import resolve
from allod.train.stage_task import StageFacts, StageTask


def run(task: StageTask) -> StageFacts:
    """Writes nothing. `size` and `steps` among the facts are what the recipe is resolved with."""
    _, facts = resolve(task.recipe)
    return facts
