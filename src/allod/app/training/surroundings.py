"""What a training run has around it, whatever its recipe: where it runs, who is told, whose clock counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from allod.app.home import nation_of
from allod.app.training.site_jobs import Machines, SiteJobs
from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.core.nations.nation import Nation
from allod.fleet.preflight.checks import PreflightFinding
from allod.fleet.preflight.gpu import cuda_of_torch
from allod.prove.receipts.clock import Clock
from allod.seal.devices.choosing import choose_devices
from allod.settings.files import load_site
from allod.settings.tree import Settings
from allod.train.pipeline import PipelineStage
from allod.train.recipe import Recipe
from allod.train.runs import FinishedStage, RunFolder
from allod.train.stage_task import StageProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What is asked of one `allod train`. `folder` None: `runs/<name>` of the realm. `until` names the last stage,
    `where` the site's profile. `ranks` are processes a node that pretrain together; `threads` are for making and using
    the tokenizer and for trying exports: what learns, or is examined, computes with one. `devices` are this machine's
    GPUs that it may use: `all`, or their numbers (seal/devices/grants.py)."""

    recipe: Path
    folder: Path | None = None
    minutes: int | None = None
    size: str | None = None
    name: str | None = None
    until: str = ""
    where: str = "local"
    nodes: int = 1
    ranks: int = 1
    threads: int = 1
    devices: tuple[str, ...] = ()
    unsafe_no_seal: bool = False

    @property
    def beside(self) -> Path:
        """The recipe's folder: what its paths begin at."""
        return self.recipe.absolute().parent


@dataclass(frozen=True, slots=True)
class RunCallbacks:
    """Where the run tells what happens: progress, the preflight's findings, each stage once it is done."""

    progress: StageProgress
    findings: Callable[[Sequence[PreflightFinding]], None]
    resolved: Callable[[Recipe], None]
    stage: Callable[[PipelineStage, FinishedStage, bool], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All that one run works with. `should_stop` turns true when somebody wants the machine."""

    settings: Settings
    options: TrainOptions
    callbacks: RunCallbacks
    run: RunFolder
    clock: Clock
    nation: Nation
    machines: Machines
    jobs: SiteJobs
    should_stop: Callable[[], bool]

    def label(self, recipe: Recipe) -> Label:
        """Never lower than that of anything that goes in."""
        labels = [self.nation.label(source.tier, markings=source.markings) for source in recipe.sources]
        return reduce(Label.join, labels)


def surroundings_of(
    settings: Settings,
    options: TrainOptions,
    callbacks: RunCallbacks,
    *,
    run: RunFolder,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> Surroundings:
    """What a run has around it. Raises Invalid for a site that is not known, and for ranks and devices that it cannot
    have, Unavailable (`seal_device`) for devices that cannot be used."""
    site = load_site(options.where, home=settings.home)
    if options.devices and site.scheduler != "local":
        message = f"{site.name} gives its jobs devices by itself"
        raise Invalid(message, code="seal_device", param="devices", hint="without --device")
    machines = Machines(
        site=site,
        nodes=options.nodes,
        ranks=options.ranks,
        threads=options.threads,
        devices=choose_devices(options.devices, cuda=cuda_of_torch() if options.devices else 0),
    )
    return Surroundings(
        settings=settings,
        options=options,
        callbacks=callbacks,
        run=run,
        clock=clock,
        nation=nation_of(settings),
        machines=machines,
        jobs=SiteJobs(machines, run.path / "jobs", report=callbacks.progress, should_stop=should_stop),
        should_stop=should_stop,
    )
