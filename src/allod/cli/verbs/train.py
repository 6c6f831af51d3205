"""`allod train RECIPE.toml`: from documents to a signed model, a stage at a time."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from allod.app.home import load_settings
from allod.app.training.run import TrainingResult, as_rows, train
from allod.app.training.surroundings import RunCallbacks, TrainOptions
from allod.cli.json_text import json_text
from allod.cli.progress import show_progress
from allod.cli.running import time_of_record_ms
from allod.core.digests import hex_of
from allod.core.shown_text import make_plain
from allod.fleet.preflight.checks import PreflightFinding, Severity
from allod.train.pipeline import PipelineStage, stages_of
from allod.train.recipe import Recipe
from allod.train.runs import FinishedStage
from allod.train.stage_task import StageProgress

# What of a stage's measurements a person wants to see, and how to say it.
_SHOWN = {
    "num_documents": "{} documents",
    "num_bytes": "{} bytes",
    "num_unread": "{} files not read",
    "dropped": "{} dropped",
    "vocab": "{} tokens of vocabulary",
    "tokens": "{} tokens",
    "loss": "loss {}",
    "bits_per_byte": "{} bits per byte",
    "loss_before": "held-out loss {} before",
    "loss_after": "{} after",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="the recipe, a TOML file")
    parser.add_argument("--dir", type=Path, help="the run's folder (runs/NAME in ALLOD_HOME)")
    parser.add_argument("--minutes", type=int, metavar="N", help="how long to pretrain; size and steps follow from it")
    parser.add_argument("--size", metavar="SIZE", help="auto, or parameters: 1m, 124m, 1b")
    parser.add_argument("--name", help="the model's name (the recipe's)")
    parser.add_argument("--until", default="", metavar="STAGE", help="the last stage to run (release)")
    parser.add_argument(
        "--on", default="local", metavar="SITE", help="local, slurm, or a site's profile: isambard-ai, or your own"
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes that pretrain together (1)")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes on each of them (1)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads of tokenizer, packing and export (1); learning has one a rank",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="GPU",
        help="a GPU of this machine that learning may use: its number, 0/gi7/ci0 for a MIG instance, or all",
    )
    parser.add_argument("--unsafe-no-seal", action="store_true", help="train although parts of the seal are missing")
    parser.add_argument("--json", action="store_true", help="what was made, as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Train, saying what is being done; a second start goes on where the first one ended."""
    options = TrainOptions(
        recipe=arguments.recipe,
        folder=arguments.dir,
        minutes=arguments.minutes,
        size=arguments.size,
        name=arguments.name,
        until=arguments.until,
        where=arguments.on,
        nodes=arguments.nodes,
        ranks=arguments.ranks,
        threads=arguments.threads,
        devices=tuple(arguments.device),
        unsafe_no_seal=arguments.unsafe_no_seal,
    )
    settings = load_settings()
    time_of_record_ms(settings)  # a gateway that runs here may know of a wrong clock what the log cannot tell
    with _stop_wish() as should_stop, show_progress(are_bytes=False) as progress:
        callbacks = _quiet(progress) if arguments.json else _StatusLines(progress).callbacks
        trained = train(settings, options, callbacks, should_stop=should_stop)
    print(json_text(_as_json(trained))) if arguments.json else _say_end(trained)
    return 0


@contextmanager
def _stop_wish() -> Iterator[Callable[[], bool]]:
    """Whether somebody asked for the machine: Ctrl-C, or a scheduler's signal. The stage then saves and ends."""
    wished: list[int] = []
    before = {
        number: signal.signal(number, lambda caught, _: wished.append(caught))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
    try:
        yield lambda: bool(wished)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet(progress: StageProgress) -> RunCallbacks:
    return RunCallbacks(progress=progress, findings=lambda _: None, resolved=lambda _: None, stage=lambda *_: None)


class _StatusLines:
    """What is said on the way: what was found, what will be made, one line a stage."""

    def __init__(self, progress: StageProgress) -> None:
        self.callbacks = RunCallbacks(
            progress=progress, findings=self._findings, resolved=self._recipe, stage=self._stage
        )
        self._began = time.monotonic()

    def _findings(self, findings: Sequence[PreflightFinding]) -> None:
        for finding in findings:
            if finding.severity is not Severity.PASSED:
                print(f"preflight: {finding.check}: {finding.reason}")

    def _recipe(self, recipe: Recipe) -> None:
        what = f"adapter of {recipe.adapt.base}" if recipe.adapt.base else f"size {recipe.size}, {recipe.steps:,} steps"
        print(f"{recipe.name}: {what}, seed {recipe.seed}; {' → '.join(s.name for s in stages_of(recipe))} → release")

    def _stage(self, stage: PipelineStage, finished: FinishedStage, was_there: bool) -> None:
        took_s, self._began = time.monotonic() - self._began, time.monotonic()
        measured = finished.statement.predicate["measured"]
        facts = [form.format(_figure(measured[name])) for name, form in _SHOWN.items() if name in measured]
        state = "as before" if was_there else f"{took_s:.1f} s"
        derivation = hex_of(finished.statement.derivation)[:12]
        print(f"{stage.name:14} {state:>9}  {derivation}  {', '.join(facts)}", flush=True)
        for name, value in measured.items():
            if name.startswith("unread_"):
                print(f"  {name.removeprefix('unread_')}: {make_plain(str(value), limit=2000)}", flush=True)


def _figure(value: object) -> str:
    """A stage said it: it may be anything."""
    return f"{value:,}" if isinstance(value, int) else make_plain(str(value), limit=32)


def _say_end(trained: TrainingResult) -> None:
    released = trained.released
    if released is None:
        print(f"ended as asked; {trained.folder} holds what was made")
        return
    print(f"released {released.name} {released.digest}")
    print(f"serve it:  allod up --model {trained.recipe.adapt.base or released.name}")
    print(f"look back: allod model show {released.name}")


def _as_json(trained: TrainingResult) -> dict[str, object]:
    released = trained.released
    return {
        "name": trained.recipe.name,
        "size": trained.recipe.size,
        "steps": trained.recipe.steps,
        "folder": str(trained.folder),
        "stages": as_rows(trained),
        "released": None if released is None else {"name": released.name, "digest": released.digest},
    }
