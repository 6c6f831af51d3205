"""How a stage ends when the machine is wanted back."""

from __future__ import annotations

from allod.core.errors import Unavailable
from allod.train.stage_task import StageTask


def stop_if_asked(task: StageTask) -> None:
    """Raise Unavailable (`interrupted`) once the machine is wanted back. Cheap enough for every document."""
    if task.should_stop():
        raise Unavailable("stopped because the machine was wanted back", code="interrupted")
