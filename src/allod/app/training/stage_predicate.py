"""What a stage's statement says of how, where and with what it ran."""

from __future__ import annotations

import secrets

from allod.app.training.surroundings import Surroundings
from allod.core.canonical import JsonValue, digest_of
from allod.core.statements.training import derivation_of, make_training_statement
from allod.train.energy import EnergyMeter, energy
from allod.train.environment import code, environment, machine
from allod.train.recipe import Recipe
from allod.train.recipe_reading import recipe_json
from allod.train.resolving import PROBE, PROBE_VERSION, digest_of_measure, key_of_measure, parameters_of_measure
from allod.train.sealed_stage import StageResult
from allod.train.stage_task import as_stated


def predicate_of(
    around: Surroundings, recipe: Recipe, stage: str, result: StageResult, meter: EnergyMeter
) -> dict[str, JsonValue]:
    """The statement's predicate but for what went in. Raises Unavailable (`clock_wrong`)."""
    around.clock.now_ms()  # the stage's times are this clock's
    nodes, ranks = around.machines.ranks_of(stage)
    power = around.machines.site.power
    used = energy(
        None if around.machines.is_job(stage) else meter.millijoules(),
        seconds=(result.ended_ms - result.started_ms) / 1000,
        node_watts=power.watts_per_node if power else 0,
        nodes=nodes,
    )
    return {
        "id": f"training_{secrets.token_hex(16)}",
        "at": {"start_ms": result.started_ms, "end_ms": result.ended_ms},
        "run": recipe.name,
        "recipe": digest_of(recipe_json(recipe)),
        "code": code(),
        "environment": environment(around.machines.threads, nodes * ranks),
        "stated": _state_place(around, stage, nodes),
        "observed": _observe_machine(around, stage, result),
        "seed": recipe.seed,
        "measured": {**as_stated(result.facts), "cpu_ms": int(result.cpu_s * 1000)},
        "energy": used,
        "seal": {"kind": result.seal_kind, "proof": result.seal_proof or None},
        "label": around.label(recipe).as_json(),
    }


def measurement(
    around: Surroundings, given: Recipe, resolved: Recipe, result: StageResult, meter: EnergyMeter
) -> bytes:
    """What was measured, as a statement: before it is recorded where others may write."""
    parameters, key, files = parameters_of_measure(given), key_of_measure(given), digest_of_measure(resolved)
    known: dict[str, JsonValue] = {
        "stage": PROBE,
        "version": PROBE_VERSION,
        "key": key,
        "inputs": [],
        "parameters": parameters,
        "derivation": derivation_of(key, files),
    }
    return make_training_statement(files, {**predicate_of(around, given, PROBE, result, meter), **known})


def _state_place(around: Surroundings, stage: str, nodes: int) -> dict[str, JsonValue]:
    """Where it ran, by the site's profile or the settings: nobody here looked."""
    site, realm = around.machines.site, around.settings.realm
    if not around.machines.is_job(stage):
        return {"site": realm.site, "jurisdiction": realm.jurisdiction, "nodes": 1, "accelerators_per_node": 0}
    return {
        "site": site.name,
        "jurisdiction": site.jurisdiction,
        "nodes": nodes,
        "accelerators_per_node": site.gpus_per_node,
    }


def _observe_machine(around: Surroundings, stage: str, result: StageResult) -> dict[str, JsonValue]:
    """The machine as it was seen: by this process where it ran here; of a job, by the job's own."""
    if around.machines.is_job(stage):
        return {"by": "stage", "machine": dict(result.observed)}
    by_torch = result.observed.get("torch_accelerators")
    return {"by": "trainer", "machine": {**machine(), "torch_accelerators": by_torch}}
