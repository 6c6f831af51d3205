"""One stage in a process of its own. Started inside the seal (sealed_stage.py), never imported there.

`python -m allod.train.stage_process TASK.json` does what the file says:
`{"stage", "recipe": {...}, "inputs": {name: folder}, "output": folder}`. It answers in JSON lines on standard output:

    {"progress": [what, done, total]}   now and then
    {"facts": {...}, "max_rss": bytes, "observed": {...}}  at the end, with the machine that it saw, or else
    {"error": {"kind", "code", "message", "hint"}}

Whatever else is printed goes to standard error, which is the log. Exit status as of `exit_status`, and 75 (EX_TEMPFAIL,
try again) when it was asked to stop by SIGUSR1, SIGTERM or SIGINT and has saved what it had.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from allod.core.errors import AllodError, Denied, Invalid, Unavailable, exit_status, explain
from allod.core.stages import ROWS
from allod.fleet.jobs import INTERRUPTED_STATUS
from allod.fleet.leaving import leave
from allod.train.environment import machine, torch_accelerators
from allod.train.recipe_reading import read_recipe
from allod.train.stage_task import StageFacts, StageTask

_PACKAGE = "allod.train.stages"
_REPORT_EVERY_S = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Voice:
    """The only one that writes to what was standard output."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._what = ""
        self._next_at = 0.0

    def say(self, message: Mapping[str, Any]) -> None:
        """Write one line."""
        os.write(self._descriptor, json.dumps(message, allow_nan=False).encode() + b"\n")

    def report(self, what: str, done: int, total: int) -> None:
        """Progress, but not more of it than a person can read."""
        now = time.monotonic()
        if what != self._what or now >= self._next_at or done == total:
            self._what, self._next_at = what, now + _REPORT_EVERY_S
            self.say({"progress": [what, done, total]})


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m allod.train.stage_process", description="Run one stage.")
    parser.add_argument("task", type=Path, metavar="TASK.json")
    parser.add_argument("--package", default=_PACKAGE, help="where stages are looked for")
    options = parser.parse_args(arguments)
    should_stop = _listen()
    voice = Voice()
    try:
        facts = _run(json.loads(options.task.read_text()), options.package, voice=voice, should_stop=should_stop)
    except AllodError as error:
        return _fail(voice, error)
    except MemoryError:
        return _fail(
            voice, Unavailable("out of memory", code="memory", hint="a smaller model or batch, or more memory")
        )
    except OSError as error:
        if error.errno not in _FULL:
            raise
        hint = "make room and start again: what was finished counts"
        return _fail(voice, Unavailable(f"the disk is full: {error}", code="disk_full", hint=hint))
    max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    observed = {**machine(), "torch_accelerators": torch_accelerators()}
    voice.say({"facts": dict(facts), "max_rss": max_rss, "observed": observed})
    return 0


def _run(task_json: dict[str, Any], package: str, *, voice: Voice, should_stop: Callable[[], bool]) -> StageFacts:
    stage = task_json["stage"]
    if stage not in ROWS:
        raise Invalid(f"there is no stage {stage!r}", code="unknown_stage")
    task = StageTask(
        recipe=read_recipe(task_json["recipe"], where="the recipe of the run"),
        inputs={name: Path(folder) for name, folder in task_json["inputs"].items()},
        output=Path(task_json["output"]),
        report=voice.report,
        should_stop=should_stop,
    )
    facts: StageFacts = importlib.import_module(f"{package}.{stage}").run(task)
    return facts


def _listen() -> Callable[[], bool]:
    asked: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)
    return lambda: bool(asked)


def _fail(voice: Voice, error: AllodError) -> int:
    kind = next((kind.__name__ for kind in (Invalid, Denied, Unavailable) if isinstance(error, kind)), Invalid.__name__)
    voice.say({"error": {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint}})
    sys.stderr.write(explain(error) + "\n")
    return INTERRUPTED_STATUS if error.code == "interrupted" else exit_status(error)


if __name__ == "__main__":
    leave(main())
