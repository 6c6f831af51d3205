"""One stage performed: sealed on this machine, or as a job of the site. What needs the network is done outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allod.app.training.prepared import PreparedRecipe
from allod.app.training.surroundings import Surroundings
from allod.core.stages import ROWS
from allod.train.energy import EnergyMeter
from allod.train.sealed_stage import SealedStages, StageResult, task_of
from allod.train.sources.collect import SourceFolders, collect


def perform(
    around: Surroundings,
    prepared: PreparedRecipe,
    stage: str,
    *,
    inputs: Mapping[str, Path],
    output: Path,
    meter: EnergyMeter,
) -> StageResult:
    """Have `stage` write `output`. Raises what it raised, and Unavailable (`clock_wrong`)."""
    around.clock.now_ms()  # before hours of work, rather than after
    sealed = _seal_stages(around, prepared, meter)
    if ROWS[stage].fetches:
        return _collect(around, prepared, output, sealed)
    name = ROWS[stage].reads
    readable = {**inputs, **({name: prepared.folders[name]} if name in prepared.folders else {})}
    if around.machines.is_job(stage):
        task = task_of(prepared.recipe, readable, output)
        return around.jobs.run(stage, task, read_paths=tuple(readable.values()), write_path=output)
    return sealed.run(stage, readable, output)


def _seal_stages(around: Surroundings, prepared: PreparedRecipe, meter: EnergyMeter) -> SealedStages:
    return SealedStages(
        recipe=prepared.recipe,
        meter=meter,
        report=around.callbacks.progress,
        stop=around.should_stop,
        logs=around.run.path / "logs",
        ranks=around.machines.ranks,
        threads=around.machines.threads,
        devices=around.machines.devices,
        unsafe_no_seal=around.options.unsafe_no_seal,
    )


def _collect(around: Surroundings, prepared: PreparedRecipe, output: Path, sealed: SealedStages) -> StageResult:
    """The first stage: fetching needs the network and is ours, what was fetched is opened in sealed processes."""
    sources = around.settings.home / "sources"
    folders = SourceFolders(
        given=sources,
        cache=sources / "fetched",
        beside=around.options.beside,
        scratch=around.run.path / ".unpacked",
    )
    report = around.callbacks.progress
    return collect(prepared.recipe, prepared.digests, folders, output, perform=sealed.run, report=report)
