"""One stage performed: sealed on this machine, or as a job of the site. What needs the network is done outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from allod.app.training.prepared import Prepared
from allod.app.training.surroundings import Surroundings
from allod.core.canonical import JsonValue
from allod.core.stages import ROWS
from allod.train.energy import EnergyMeter
from allod.train.recipe_reading import recipe_json
from allod.train.sealed import StageResult, run_sealed
from allod.train.sources.collect import SourcePlaces, collect
from allod.train.stage_task import Limits


def perform(
    around: Surroundings,
    prepared: Prepared,
    stage: str,
    *,
    inputs: Mapping[str, Path],
    output: Path,
    meter: EnergyMeter,
) -> StageResult:
    """Have `stage` write `output`. Raises what it raised, and Unavailable (`clock_wrong`)."""
    if ROWS[stage].fetches:
        return _collect(around, prepared, output, meter)
    return _run_sealed(around, prepared, stage, inputs=inputs, output=output, meter=meter)


def _collect(around: Surroundings, prepared: Prepared, output: Path, meter: EnergyMeter) -> StageResult:
    """The first stage: fetching needs the network and is ours, what was fetched is opened in sealed processes."""

    def open_sealed(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
        return _run_sealed(around, prepared, stage, inputs=inputs, output=output, meter=meter, limits=limits)

    sources = around.settings.home / "sources"
    places = SourcePlaces(
        given=sources,
        cache=sources / "fetched",
        beside=around.options.beside,
        scratch=around.run.path / ".unpacked",
    )
    return collect(prepared.recipe, prepared.digests, places, output, perform=open_sealed, report=around.told.progress)


def _run_sealed(
    around: Surroundings,
    prepared: Prepared,
    stage: str,
    *,
    inputs: Mapping[str, Path],
    output: Path,
    meter: EnergyMeter,
    limits: Limits | None = None,
) -> StageResult:
    """A stage in a process of its own, which reads its inputs, writes its folder and reaches nothing else."""
    around.clock.now_ms()  # before hours of work, rather than after
    name = ROWS[stage].reads
    readable = {**inputs, **({name: prepared.folders[name]} if name in prepared.folders else {})}

    def report(what: str, done: int, total: int) -> None:
        meter.sample()
        around.told.progress(what, done, total)

    words: dict[str, JsonValue] = {
        "recipe": recipe_json(prepared.recipe),
        "inputs": {name: str(path) for name, path in readable.items()},
        "output": str(output),
    }
    read_paths = tuple(readable.values())
    if around.machines.places(stage):
        return around.jobs.run(stage, words, read_paths=read_paths, write_path=output)
    log_dir = around.run.path / "logs"
    log_dir.mkdir(exist_ok=True, mode=0o700)
    return run_sealed(
        stage,
        words,
        read_paths=read_paths,
        write_path=output,
        report=report,
        stop=around.should_stop,
        log_path=log_dir / f"{stage}.log",
        ranks=around.machines.ranks_of(stage)[1],
        threads=around.machines.threads,
        limits=limits,
        unsafe_no_seal=around.options.unsafe_no_seal,
    )
