"""The pipeline: from documents to something that can be released, a stage at a time.

Which stages there are, and what goes into each, is in the table (`core/stages.py`). Each is a pure function of its
parameters and of what the stages before it made. It leaves a manifest that says so, and is not run again while that
manifest holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from allod.core.canonical import JsonValue
from allod.core.stages import ADAPTER_STAGES, MODEL_STAGES, StageRow
from allod.core.statements.training import Input, key_of, stage_input
from allod.train.recipe import Recipe
from allod.train.recipe_reading import plain
from allod.train.runs import Finished, RunFolder

Parameters = Callable[[Recipe], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PipelineStage:
    """One step. `version` changes when the same inputs would now give something else; `resumes` says that an
    earlier try is worth keeping: it saved what it had, or is a job of a site that still writes there."""

    name: str
    version: int
    inputs: tuple[str, ...]
    parameters: Parameters
    resumes: bool = False


def _held_out_parameters(recipe: Recipe) -> dict[str, Any]:
    return {source.name: source.held_out for source in recipe.sources if source.held_out}


def _source(recipe: Recipe) -> Mapping[str, Any]:
    return {
        source.name: {"kind": source.kind, "tier": source.tier, "markings": source.markings}
        for source in recipe.sources
    }


def _pretrain(recipe: Recipe) -> Mapping[str, Any]:
    learning = asdict(recipe.pretrain)
    del learning["checkpoint_every_s"]  # how often progress is saved changes nothing of what is learnt
    return {**learning, "size": recipe.size, "steps": recipe.steps, "seed": recipe.seed}


def _evaluate(recipe: Recipe) -> Mapping[str, Any]:
    asked = asdict(recipe.evaluate)
    del asked["questions"]  # a folder's name; its content's digest stays
    return {**asked, "held_out": _held_out_parameters(recipe), "seed": recipe.seed}


@dataclass(frozen=True, slots=True)
class _Computed:
    """What a stage computes with. `is_wanted` says of an optional stage whether the recipe asks for it."""

    parameters: Parameters
    is_wanted: Callable[[Recipe], bool] = lambda recipe: True


_COMPUTED = {
    "source": _Computed(_source),
    "clean": _Computed(lambda recipe: asdict(recipe.clean)),
    "dedupe": _Computed(lambda recipe: {**asdict(recipe.dedupe), "held_out": _held_out_parameters(recipe)}),
    "tokenizer": _Computed(lambda recipe: {**asdict(recipe.tokenizer), "held_out": _held_out_parameters(recipe)}),
    "pack": _Computed(lambda r: {**asdict(r.canaries), "held_out": _held_out_parameters(r), "seed": r.seed}),
    "pretrain": _Computed(_pretrain),
    "tune": _Computed(
        lambda r: {**asdict(r.tune), "held_out": _held_out_parameters(r), "seed": r.seed},
        is_wanted=lambda recipe: recipe.tune.steps > 0,
    ),
    "evaluate": _Computed(_evaluate),
    "export": _Computed(lambda recipe: {**asdict(recipe.export), "name": recipe.name}),
    "adapt": _Computed(lambda r: {**asdict(r.adapt), "held_out": _held_out_parameters(r), "seed": r.seed}),
    "export_adapter": _Computed(lambda recipe: {"name": recipe.name}),
}


def stages_of(recipe: Recipe) -> tuple[PipelineStage, ...]:
    """The stages that this recipe asks for, in their order."""
    rows = ADAPTER_STAGES if recipe.adapt.base else MODEL_STAGES
    wanted = [row for row in rows if _computation_of(row).is_wanted(recipe)]
    names = [row.name for row in wanted]
    return tuple(_stage_of(row, names[:number]) for number, row in enumerate(wanted))


def _computation_of(row: StageRow) -> _Computed:
    if row.options is None:
        return _COMPUTED[row.name]
    return _Computed(lambda recipe: asdict(recipe.tables[row.name]), lambda recipe: row.name in recipe.tables)


def _stage_of(row: StageRow, before: Sequence[str]) -> PipelineStage:
    computed = _computation_of(row)
    return PipelineStage(
        row.name, row.version, row.inputs_after(before), computed.parameters, resumes=row.needs_accelerators
    )


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
    finished: Callable[[PipelineStage, Finished, bool], None],
    until: str = "",
) -> dict[str, Finished]:
    """Run what is not done yet, in order, and tell `finished(stage, it, was_there_already)` of each.

    `recipe` is resolved. `given` are the inputs from outside the run, by stage: the sources of the first, the base
    model of an adapter. Ends after the stage `until`. Raises what a stage raises, and Invalid (`stage_changed`).
    """
    done: dict[str, Finished] = {}
    for stage in stages_of(recipe):
        done[stage.name], was_there = _run_stage(stage, recipe, run, done=done, given=given, perform=perform)
        finished(stage, done[stage.name], was_there)
        if stage.name == until:
            break
    return done


def _run_stage(
    stage: PipelineStage,
    recipe: Recipe,
    run: RunFolder,
    *,
    done: Mapping[str, Finished],
    given: Mapping[str, Sequence[Input]],
    perform: Performer,
) -> tuple[Finished, bool]:
    made = [
        stage_input(name, derivation=done[name].statement.derivation, files=done[name].statement.files)
        for name in stage.inputs
    ]
    inputs = [*given.get(stage.name, ()), *made]
    parameters = plain(stage.parameters(recipe))
    key = key_of(stage.name, stage.version, parameters, inputs)
    if found := run.find(stage.name, key):
        return found, True
    output = run.partial(stage.name, key, resumes=stage.resumes)
    folders = {name: done[name].folder for name in stage.inputs}
    predicate = perform(stage, key=key, inputs=folders, output=output)
    known = {"stage": stage.name, "version": stage.version, "key": key, "inputs": inputs, "parameters": parameters}
    return run.finish(stage.name, {**predicate, **known}), False
