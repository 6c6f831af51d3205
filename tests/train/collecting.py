"""The stage `source` with what comes before it, in this process or sealed as a run has it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from allod.train.recipe import Recipe
from allod.train.sealed_stage import StageResult, run_sealed, task_of
from allod.train.sources import collect as collecting
from allod.train.sources.collect import Perform, SourceFolders
from allod.train.stage_task import Limits, StageFacts, StageTask


def collect(
    recipe: Recipe, *, given: Path, cache: Path, beside: Path, output: Path, perform: Perform | None = None
) -> StageFacts:
    """The facts of `recipe`'s documents, which are then in `output`."""
    digests = collecting.content_digests(recipe, beside=beside)
    folders = SourceFolders(given=given, cache=cache, beside=beside, scratch=output.parent / ".unpacked")
    perform = perform or here(recipe)
    return collecting.collect(recipe, digests, folders, output, perform=perform, report=lambda *_: None).facts


def here(recipe: Recipe) -> Perform:
    """Runs stages in this process, without limits."""

    def perform(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        module = importlib.import_module(f"allod.train.stages.{stage}")
        facts = module.run(StageTask(recipe, inputs, output, lambda *_: None, lambda: False))
        return StageResult(facts, "none", "", {}, cpu_s=0.0, started_ms=0, ended_ms=0, max_rss=0)

    return perform


def sealed(recipe: Recipe, log: Path) -> Perform:
    """Runs stages as a run does, and writes what they print to `log`."""

    def perform(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        return run_sealed(
            stage,
            task_of(recipe, inputs, output),
            read_paths=tuple(inputs.values()),
            write_path=output,
            report=lambda *_: None,
            stop=lambda: False,
            log_path=log,
            limits=limits,
        )

    return perform
