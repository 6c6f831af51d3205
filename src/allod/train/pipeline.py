"""The pipeline: from documents to something that can be released, a stage at a time.

Which stages there are, and what goes into each, is in the table (`core/stages.py`). Each is a pure function of its
parameters and of what the stages before it made. It leaves a manifest that says so, and is not run again while that
manifest holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Protocol

from allod.core.canonical import JsonValue
from allod.core.stages import ADAPTER_STAGES, MODEL_STAGES, SOURCES, StageRow
from allod.core.statements.training import Input, key_of, stage_input
from allod.train.recipe import CHANGES_NOTHING, Recipe
from allod.train.recipe_reading import plain
from allod.train.runs import FinishedStage, RunFolder


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One step. `version` changes when the same inputs would now give something else; `resumes` says that an
    earlier try is worth keeping: it saved what it had, or is a job of a site that still writes there."""

    name: str
    version: int
    inputs: tuple[str, ...]
    parameters: Mapping[str, JsonValue]
    resumes: bool = False


def stages_of(recipe: Recipe) -> tuple[PipelineStage, ...]:
    """The stages that this recipe asks for, in their order."""
    rows = ADAPTER_STAGES if recipe.adapt.base else MODEL_STAGES
    wanted = [row for row in rows if not row.is_optional or recipe.asks_for(row.name)]
    names = [row.name for row in wanted]
    return tuple(_stage_of(recipe, row, names[:number]) for number, row in enumerate(wanted))


def _stage_of(recipe: Recipe, row: StageRow, before: Sequence[str]) -> PipelineStage:
    parameters: dict[str, JsonValue] = {}
    for name in row.parameters:
        parameters |= _values_of(recipe, name)
    return PipelineStage(row.name, row.version, row.inputs_after(before), parameters, resumes=row.needs_accelerators)


def _values_of(recipe: Recipe, name: str) -> dict[str, JsonValue]:
    """What a name in a row stands for: a value, or a table's fields, but for those that change nothing."""
    if name == SOURCES:  # their digests and terms are among the inputs
        kept = ("kind", "tier", "markings")
        return {source.name: {key: plain(getattr(source, key)) for key in kept} for source in recipe.sources}
    part = recipe.part(name)
    if not is_dataclass(part) or isinstance(part, type):
        return {name: plain(part)}
    counted = {item.name for item in fields(part) if item.metadata != CHANGES_NOTHING}
    return {key: plain(value) for key, value in asdict(part).items() if key in counted}


class Performer(Protocol):
    """Runs one stage: in this process, in a sealed one, as a job of a cluster."""

    def __call__(
        self, stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path
    ) -> Mapping[str, JsonValue]:
        """Make the stage's outputs in `output`. Returns the statement's predicate but for what `perform` itself knows
        (stage, version, key, inputs, parameters). Raises what went wrong; `output` then stays for the next try."""
        ...


def run_pipeline(
    recipe: Recipe,
    run: RunFolder,
    *,
    given: Mapping[str, Sequence[Input]],
    perform: Performer,
    finished: Callable[[PipelineStage, FinishedStage, bool], None],
    until: str = "",
) -> dict[str, FinishedStage]:
    """Run what is not done yet, in order, and tell `finished(stage, it, was_there_already)` of each.

    `recipe` is resolved. `given` are the inputs from outside the run, by stage: the sources of the first, the base
    model of an adapter. Ends after the stage `until`. Raises what a stage raises, and Invalid (`stage_changed`).
    """
    done: dict[str, FinishedStage] = {}
    for stage in stages_of(recipe):
        done[stage.name], was_there = _run_stage(stage, run, done=done, given=given, perform=perform)
        finished(stage, done[stage.name], was_there)
        if stage.name == until:
            break
    return done


def _run_stage(
    stage: PipelineStage,
    run: RunFolder,
    *,
    done: Mapping[str, FinishedStage],
    given: Mapping[str, Sequence[Input]],
    perform: Performer,
) -> tuple[FinishedStage, bool]:
    made = [
        stage_input(name, derivation=done[name].statement.derivation, files=done[name].statement.files)
        for name in stage.inputs
    ]
    inputs = [*given.get(stage.name, ()), *made]
    key = key_of(stage.name, stage.version, stage.parameters, inputs)
    if found := run.find(stage.name, key):
        return found, True
    output = run.partial(stage.name, key, resumes=stage.resumes)
    folders = {name: done[name].folder for name in stage.inputs}
    predicate = perform(stage, key=key, inputs=folders, output=output)
    known: dict[str, JsonValue] = {"stage": stage.name, "version": stage.version, "key": key, "inputs": inputs}
    return run.finish(stage.name, {**predicate, **known, "parameters": stage.parameters}), False
