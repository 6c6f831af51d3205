"""`allod train`: the pipeline with everything it needs around it.

This process holds the realm's keys and may use the network; it fetches sources, signs and logs. What opens packages,
reads documents or weights runs in processes of its own, sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allod.app.artefacts.log import ArtefactsLog
from allod.app.gateway.clock import clock_of_realm
from allod.app.training.performing import perform
from allod.app.training.prepared import PreparedRecipe, prepare
from allod.app.training.release import NewRelease, release
from allod.app.training.site_jobs import Machines
from allod.app.training.stage_predicate import measurement, predicate_of
from allod.app.training.surroundings import RunCallbacks, Surroundings, TrainOptions, surroundings_of
from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.fleet.preflight.checks import PreflightFinding, RunRequirements, Severity, SourceTerms
from allod.settings.files import load_recipe
from allod.settings.tree import Settings
from allod.train.energy import EnergyMeter
from allod.train.environment import accelerators, check_packages
from allod.train.pipeline import PipelineStage, run_pipeline, stages_of
from allod.train.recipe import Recipe
from allod.train.recipe_reading import name_file
from allod.train.resolving import PROBE, is_resolved, read_recorded, record, resolve_by
from allod.train.runs import FinishedStage, open_run
from allod.train.sources.collect import check_sources
from allod.train.stage_task import StageFacts

RELEASE = "release"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run came to. `released` is None where the run was to end earlier."""

    recipe: Recipe
    folder: Path
    stages: Mapping[str, FinishedStage]
    released: NewRelease | None


def train(
    settings: Settings, options: TrainOptions, callbacks: RunCallbacks, *, should_stop: Callable[[], bool]
) -> TrainingResult:
    """Run what of the recipe is not done yet, and release it.

    Raises Invalid for a recipe, source or stage that is wrong, Denied for an evaluation below its gate, Unavailable
    (`interrupted`) once `should_stop` turned true, (`clock_wrong`) while no statement could be dated, and for what may
    work later. The next call goes on from there.
    """
    clock = clock_of_realm(settings)
    clock.now_ms()
    given = _requested_recipe(options)
    check_sources(given)
    folder = (options.folder or settings.home / "runs" / given.name).absolute()
    _check_until(given, options.until)
    check_packages()
    with open_run(folder, ArtefactsLog(settings)) as run:
        around = surroundings_of(settings, options, callbacks, run=run, clock=clock, should_stop=should_stop)
        _preflight(around, given)
        recipe = _resolve(around, given)
        callbacks.resolved(recipe)
        stages = run_stages(around, prepare(around, recipe))
        released = None
        if not options.until or options.until == RELEASE:
            last = stages_of(recipe)[-1].name
            released = release(settings, folder, now_ms=clock.now_ms(), report=callbacks.progress, last_stage=last)
    return TrainingResult(recipe, folder, stages, released)


def _requested_recipe(options: TrainOptions) -> Recipe:
    """The recipe as it was asked for: the file's, with what the command line says instead."""
    recipe = load_recipe(options.recipe)
    with name_file(options.recipe.name):
        if options.minutes is not None:
            recipe = replace(recipe, minutes=options.minutes, steps=0, size="auto")
        if options.size is not None:
            recipe = replace(recipe, size=options.size, steps=0)
        if options.name is not None:
            recipe = replace(recipe, name=options.name)
    return recipe


def _check_until(recipe: Recipe, until: str) -> None:
    names = [*(stage.name for stage in stages_of(recipe)), RELEASE]
    if until and until not in names:
        raise Invalid(f"there is no stage {until!r}", code="stage_unknown", hint=f"there are: {', '.join(names)}")


def _preflight(around: Surroundings, given: Recipe) -> None:
    """Whether the run may begin there. Raises Denied (`preflight_refused`) with every reason."""
    machines, realm = around.machines, around.settings.realm
    terms = tuple(
        SourceTerms(source.name, source.licence, around.nation.label(source.tier, markings=source.markings))
        for source in given.sources
    )
    asked = RunRequirements(
        label=around.label(given),
        sources=terms,
        nodes=machines.nodes,
        ranks_per_node=machines.ranks if machines.has_scheduler else 1,  # here one island holds all
        needs_gpus=machines.site.gpus_per_node > 0,
        is_sealed=not around.options.unsafe_no_seal,
        estimate_s=given.minutes * 60,
        jurisdiction="" if machines.has_scheduler else realm.jurisdiction,
    )
    around.callbacks.findings([*around.jobs.preflight(asked), *_warn_of_unused(accelerators(), machines)])


def _resolve(around: Surroundings, given: Recipe) -> Recipe:
    """The recipe with its size and steps: those recorded in the run's folder, else measured now and recorded."""
    resolved: Recipe = given
    facts: StageFacts = {}
    if not is_resolved(given):
        if (known := read_recorded(around.run.path, given, around.run.log)) is not None:
            return known
        resolved, facts = _measure(around, given)
    record(around.run.path, given, resolved, facts, beside=around.options.beside)
    return resolved


def _measure(around: Surroundings, given: Recipe) -> tuple[Recipe, StageFacts]:
    """Measure this machine, and log what was found before it is believed."""
    around.callbacks.progress("measuring this machine", 0, 0)
    folder = around.run.path / ".probe"
    folder.mkdir(exist_ok=True, mode=0o700)
    meter = EnergyMeter()
    result = perform(around, PreparedRecipe(given), PROBE, inputs={}, output=folder, meter=meter)
    resolved = resolve_by(given, result.facts)
    around.run.log.append([measurement(around, given, resolved, result, meter)])
    return resolved, result.facts


def run_stages(around: Surroundings, prepared: PreparedRecipe) -> dict[str, FinishedStage]:
    """Every stage that is not done yet."""

    def make(stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path) -> Mapping[str, JsonValue]:
        meter = EnergyMeter()
        result = perform(around, prepared, stage.name, inputs=inputs, output=output, meter=meter)
        return predicate_of(around, prepared.recipe, stage.name, result, meter)

    until = around.options.until
    return run_pipeline(
        prepared.recipe,
        around.run,
        given=prepared.inputs,
        perform=make,
        finished=around.callbacks.stage,
        until="" if until == RELEASE else until,
    )


def _warn_of_unused(found: Sequence[str], machines: Machines) -> list[PreflightFinding]:
    """What trains on the CPU beside an accelerator says so: nobody should wait for that unknowing."""
    if not found or machines.has_scheduler or machines.devices.nodes:
        return []
    reason = f"this machine has {', '.join(found)}; none was asked for (--device all), so training is on the CPU"
    return [PreflightFinding("gpus", Severity.NOTED, reason)]


def as_rows(trained: TrainingResult) -> list[dict[str, Any]]:
    """The stages as plain values, for `--json`."""
    return [
        {
            "stage": name,
            "derivation": finished.statement.derivation,
            "files": finished.statement.files,
            "measured": finished.statement.predicate["measured"],
            "energy": finished.statement.predicate["energy"],
        }
        for name, finished in trained.stages.items()
    ]
