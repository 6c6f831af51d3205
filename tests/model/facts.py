"""Facts of a finished run, as a release gathers them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from tests.app.finished_runs import LABEL, FinishedRun

from allod.model.releases.facts import ReleaseFacts, SourceUse
from allod.model.releases.records import read_dropped, read_json, read_records, read_sources
from allod.prove.releases.lineage import chain_of
from allod.prove.releases.release import read_stage_folder


def facts_of(run: FinishedRun, **source: Any) -> ReleaseFacts:
    """The facts; `source` says something else of every source."""
    chain = chain_of(read_stage_folder(path) for path in run.folder.iterdir())
    packed, evaluated = ("pack", "evaluate") if chain.kind == "model" else ("adapt", "adapt")
    used: dict[str, SourceUse] = {}
    for document in read_records(run.folder / packed / "documents.jsonl"):
        used.setdefault(document.source, SourceUse()).count(document)
    dropped = [read_dropped(run.folder / stage / "report.json") for stage in ("clean", "dedupe")]
    return ReleaseFacts(
        name=str(chain.export.statement.predicate["parameters"]["name"]),
        kind=chain.kind,
        digest="sha256:" + "a" * 64,
        root=chain.root,
        publisher="realm.example",
        country="GB",
        stages=[stage.statement for stage in chain.stages],
        sources=[replace(one, **source) for one in read_sources(run.folder / "source" / "sources.json")],
        used=used,
        dropped=Counter(one.rule for report in dropped for one in report.values()),
        evaluation=read_json(run.folder / evaluated / "evaluation.json"),
        architecture="llama",
        num_parameters=1_000_000,
        label=LABEL,
        base=chain.base,
    )
