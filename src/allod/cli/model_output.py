"""What `allod model show` prints of a model: from what is served, through every stage, to every source."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from allod.app.artefacts.released_models import ReleasedModel
from allod.app.training.lineage import Walk, WalkedSource, walk
from allod.core.shown_text import make_plain
from allod.core.statements.training import Input, TrainingStatement
from allod.core.times import day_of
from allod.model.releases.facts import where_lines, where_of


def print_walk(model: ReleasedModel) -> None:
    """The walk as indented lines."""
    walked, passport = walk(model), model.passport
    evaluation = passport.value["evaluation"]
    energy = passport.value["energy"]
    print(f"{passport.name}  {passport.digest}")
    print(f"  {model.artefact.kind}, {passport.origin}, {passport.licence}; {passport.publisher} ({passport.country})")
    print(f"  released {day_of(model.artefact.at_ms)}, statement {model.artefact.id}")
    print(f"  evaluated: {make_plain(_figures(evaluation), limit=1000)}")
    print(f"  energy: {_energy(energy)}")
    for line in where_lines(where_of(walked.stages)):
        print(f"  {make_plain(line, limit=1000)}")
    print("stages, last first")
    for stage in reversed(walked.stages):
        after = ", ".join(str(item["name"]) for item in stage.inputs if "derivation" in item)
        print(f"  {stage.stage:15} {stage.derivation[:23]}…" + (f"  after {after}" if after else ""))
    base = model.checked.chain.base
    if base is not None:
        print("base")
        print(f"  {_base(base)}")
    print("sources")
    for source in walked.sources:
        print(f"  {_source(source)}")
    print("not controlled: " + "; ".join(f"{name}: {text}" for name, text in passport.value["not_controlled"].items()))


def walk_json(model: ReleasedModel) -> dict[str, Any]:
    """The walk as plain values."""
    walked = walk(model)
    return {
        "passport": dict(model.passport.value),
        "statement": model.artefact.id,
        "released_ms": model.artefact.at_ms,
        "base": _plain_base(walked),
        "stages": [_stage(stage) for stage in reversed(walked.stages)],
        "sources": [
            {**asdict(source.source), "learnt": asdict(source.use), "dropped": dict(source.dropped)}
            for source in walked.sources
        ],
    }


def _plain_base(walked: Walk) -> dict[str, Any] | None:
    base = walked.model.checked.chain.base
    return None if base is None else dict(base)


def _stage(stage: TrainingStatement) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "derivation": stage.derivation,
        "statement": stage.digest,
        "start_ms": stage.start_ms,
        "end_ms": stage.end_ms,
        "inputs": [dict(item) for item in stage.inputs],
        "stated": dict(stage.stated),
        "observed": {"machine": dict(stage.machine)},
        "measured": stage.predicate["measured"],
        "energy": stage.predicate["energy"],
    }


def _source(one: WalkedSource) -> str:
    source = one.source
    dropped = "".join(f", {number} dropped at {stage}" for stage, number in one.dropped.items())
    counts = f"{one.use.num_documents} of {source.num_documents} documents learnt from, {one.use.num_held_out} held out"
    return f"{source.name}: {source.licence}, {source.jurisdiction}, {source.origin}; {counts}{dropped}"


def _base(base: Input) -> str:
    return (
        f"{base['origin']} ({base['jurisdiction']}), {base['licence']}, {base['sha256']}: imported, not known further"
    )


def _figures(evaluation: dict[str, Any]) -> str:
    plain = [f"{name} {value}" for name, value in sorted(evaluation.items()) if isinstance(value, (str, int))]
    return ", ".join(text for text in plain if not text.startswith("weights ")) or "see passport.json"


def _energy(energy: dict[str, Any]) -> str:
    figure = energy["millijoules"]
    return str(energy["label"]) if figure is None else f"{figure / 1000:.0f} J, {energy['label']}"
