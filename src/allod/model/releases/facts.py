"""What a release's documents are rendered from: the manifests of its stages and what is kept of them, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from allod.core.canonical import JsonValue, digest_of
from allod.core.stages import ROWS
from allod.core.statements.training import Input, TrainingStatement
from allod.model.releases.licences import joint_licence
from allod.model.releases.records import TRAIN, DocumentRecord, SourceRecord


@dataclass(slots=True)
class SourceUse:
    """What of a source was learnt from, and what was held out."""

    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_held_out: int = 0

    def count(self, document: DocumentRecord) -> None:
        """Count one more document."""
        if document.split == TRAIN:
            self.num_documents += 1
            self.num_bytes += document.num_bytes
            self.num_tokens += document.num_tokens
        else:
            self.num_held_out += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """A model that is about to be released. Digests are `sha256:<hex>`.

    `digest` is of the file that is served, `root` the derivation of the last stage before the export. `stages` come
    in their order, `used` is by source. `publisher` is the realm, `country` its jurisdiction.
    """

    name: str
    kind: str
    digest: str
    root: str
    publisher: str
    country: str
    stages: Sequence[TrainingStatement]
    sources: Sequence[SourceRecord]
    used: Mapping[str, SourceUse]
    dropped: Mapping[str, int] = field(default_factory=dict)
    evaluation: Mapping[str, Any]
    architecture: str
    num_parameters: int
    label: Mapping[str, JsonValue]
    base: Input | None = None

    @property
    def licence(self) -> str:
        """An SPDX expression that asks for what every source, and the base model, asks for."""
        base = [str(self.base["licence"])] if self.base else []
        return joint_licence([*(source.licence for source in self.sources), *base])

    @property
    def origin(self) -> str:
        """`from-scratch` or `adapted`."""
        return "adapted" if self.base else "from-scratch"

    @property
    def num_tokens(self) -> int:
        """Of the documents that were learnt from, each counted once."""
        return sum(use.num_tokens for use in self.used.values())

    @property
    def ended_ms(self) -> int:
        """When the last stage was done."""
        return max(stage.end_ms for stage in self.stages)

    def corpus(self) -> TrainingStatement:
        """The stage whose files are what was learnt from."""
        return [stage for stage in self.stages if ROWS[stage.stage].role == "documents"][-1]


def where_of(stages: Sequence[TrainingStatement]) -> dict[str, JsonValue]:
    """Where the stages ran: what the operator stated, and beside it what the processes themselves saw."""
    stated, observed = _Grouped(), _Grouped()
    for stage in stages:
        stated.add(stage.stage, stage.stated)
        seen = {name: stage.machine.get(name) for name in _SEEN}
        by = stage.predicate["observed"]["by"] if "observed" in stage.predicate else "not told"
        observed.add(stage.stage, {**seen, "by": by})
    return {"stated": stated.rows, "observed": observed.rows}


def where_lines(where: Mapping[str, Any]) -> list[str]:
    """The same for people, a line for each thing that was said."""
    lines = []
    for item in where["stated"]:
        nodes = f", {item['nodes']} nodes of {item['accelerators_per_node']} accelerators" if item["nodes"] else ""
        lines.append(f"stated: {item['site']} ({item['jurisdiction']}){nodes}: {', '.join(item['stages'])}")
    for item in where["observed"]:
        seen = ", ".join(str(item[name]) for name in ("processor", "architecture", "kernel") if item[name])
        gpus = ", ".join([*(item["accelerators"] or []), *(item["torch_accelerators"] or [])])
        what = f"{seen or 'nothing'}, {gpus or 'no accelerator'}"
        lines.append(f"observed by the {item['by']}: {what}: {', '.join(item['stages'])}")
    return lines


_SEEN = ("architecture", "processor", "kernel", "accelerators", "torch_accelerators")


class _Grouped:
    """What is said of stages, with those of which the same is said named together."""

    def __init__(self) -> None:
        self.rows: list[JsonValue] = []
        self._stages: dict[str, list[JsonValue]] = {}

    def add(self, stage: str, said: Mapping[str, JsonValue]) -> None:
        """One more stage."""
        key = digest_of(said)
        if key not in self._stages:
            self._stages[key] = []
            self.rows.append({**said, "stages": self._stages[key]})
        self._stages[key].append(stage)


def energy_of(stages: Sequence[TrainingStatement]) -> dict[str, JsonValue]:
    """The energy of all stages: a sum where each has a figure, labelled as the least certain of them."""
    said = [stage.predicate["energy"] for stage in stages]
    figures = [part.get("millijoules") for part in said]
    labels = {part.get("label") for part in said}
    if "UNAVAILABLE" in labels or None in figures:
        return {"label": "UNAVAILABLE", "millijoules": None}
    return {"label": "MODELLED" if "MODELLED" in labels else "METERED", "millijoules": sum(figures)}
