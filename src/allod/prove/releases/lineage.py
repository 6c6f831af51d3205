"""Lineage: the stages that made a model, as one chain in which every link is a digest that is computed again here.

Pure: the bytes of manifests and lists of files in, a `Chain` out, or Invalid (`bad_lineage`) with the link that does
not hold. A stage names what went into it by derivation and by list of files, and its own derivation commits to both
(`core/statements/training.py`). So whoever holds the last derivation holds them all: a stage of another run, a
changed source or a forged parent gives another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from allod.core.canonical import canonical_json
from allod.core.digests import digest_of_bytes, digest_of_hex, is_hex
from allod.core.errors import Invalid
from allod.core.stages import ADAPTER_STAGES, BASE, MODEL_STAGES, ROWS, SOURCES, Role, StageRow
from allod.core.statements.training import (
    ArtefactStatement,
    Input,
    TrainingStatement,
    check_training_statement,
)

MAX_LIST_BYTES = 64 << 20
MAX_OUTPUTS = 100_000


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a stage made; `sha256` is hex."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ChainStage:
    """A stage's statement, and the files that it made by name."""

    statement: TrainingStatement
    files: Mapping[str, OutputFile]

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.statement.stage

    @property
    def row(self) -> StageRow:
        """The stage's row in the table. Of a stage in a chain: of another there may be none."""
        return ROWS[self.name]


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages that follow from one another, the first one first. `base` is the model that was adapted, if one was."""

    stages: tuple[ChainStage, ...]
    sources: tuple[Input, ...]
    base: Input | None

    @property
    def kind(self) -> str:
        """`model` or `adapter`."""
        return "model" if self.base is None else "adapter"

    @property
    def export(self) -> ChainStage:
        """The last stage: it made what is served."""
        return self.stages[-1]

    @property
    def root(self) -> str:
        """The derivation of the last stage before the export: the digest of the whole history."""
        return self.stages[-2].statement.derivation

    @property
    def learnt(self) -> ChainStage:
        """The stage whose weights are exported."""
        return self.of_role("weights")[-1]

    def of_role(self, role: Role) -> list[ChainStage]:
        """The stages that make this."""
        return [stage for stage in self.stages if stage.row.role == role]

    def stages_that_keep(self, record: str) -> list[str]:
        """The stages that keep this record, by name."""
        return [stage.name for stage in self.stages if record in stage.row.records]

    def stage(self, name: str) -> ChainStage:
        """The stage of that name. Raises Invalid where the chain has none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise _refusal(f"there is no stage {name}")


def read_stage(manifest: bytes, files: bytes) -> ChainStage:
    """A stage from its two files, which must belong together. Raises Invalid."""
    statement = check_training_statement(manifest)
    if digest_of_bytes(files) != statement.files:
        raise _refusal(f"{statement.stage}: its list of files is not the one that its manifest names")
    return ChainStage(statement, _read_files(files, statement.stage))


def chain_of(stages: Iterable[ChainStage]) -> Chain:
    """The chain that these stages make, in any order. Raises Invalid for a link that is missing or does not hold."""
    by_name: dict[str, ChainStage] = {}
    for stage in stages:
        if stage.name in by_name:
            raise _refusal(f"the stage {stage.name} is there twice")
        by_name[stage.name] = stage
    rows = ADAPTER_STAGES if ADAPTER_STAGES[-1].name in by_name else MODEL_STAGES
    order = [row.name for row in rows]
    if unknown := by_name.keys() - set(order):
        raise _refusal(f"the stage {min(unknown)} has no place in it")
    if missing := {row.name for row in rows if not row.is_optional} - by_name.keys():
        raise _refusal(f"the stage {min(missing, key=order.index)} is missing")
    ordered = tuple(by_name[name] for name in order if name in by_name)
    outside = _check_links(ordered)
    chain = Chain(ordered, outside.get(SOURCES, ()), next(iter(outside.get(BASE, ())), None))
    _check_all_are_used(chain)
    return chain


def check_artefact(chain: Chain, artefact: ArtefactStatement) -> None:
    """Raise Invalid unless `artefact` speaks of what this chain made, and of each of its stages."""
    base = None if chain.base is None else chain.base["sha256"]
    if (artefact.kind, artefact.base) != (chain.kind, base):
        raise _refusal("the artefact's kind or base is another")
    if artefact.derivation != chain.root:
        raise _refusal("the artefact's derivation is not the one that its stages lead to")
    if list(artefact.stages) != rows_of(chain):
        raise _refusal("the artefact names other stages")
    made = {digest_of_hex(file.sha256) for file in chain.export.files.values()}
    if artefact.artefact_digest not in made:
        raise _refusal("the artefact is no file that its last stage made")


def rows_of(chain: Chain) -> list[dict[str, str]]:
    """The stages as an artefact statement names them."""
    return [
        {
            "stage": stage.name,
            "derivation": stage.statement.derivation,
            "statement": stage.statement.digest,
        }
        for stage in chain.stages
    ]


def _check_links(stages: tuple[ChainStage, ...]) -> dict[str, tuple[Input, ...]]:
    """Follow every input to the stage that made it; what came from outside, by what it is."""
    outside: dict[str, tuple[Input, ...]] = {}
    before: dict[str, ChainStage] = {}
    for stage in stages:
        given = tuple(item for item in stage.statement.inputs if "derivation" not in item)
        made = [item for item in stage.statement.inputs if "derivation" in item]
        if len({str(item["name"]) for item in stage.statement.inputs}) != len(stage.statement.inputs):
            raise _refusal(f"{stage.name}: an input is named twice")
        if given:
            outside[stage.row.takes] = given
        _check_outside(stage.row, given, made)
        for each in made:
            parent = before.get(str(each["name"]))
            if parent is None:
                raise _refusal(f"{stage.name}: its input {each['name']} is none of the stages before it")
            if (each["derivation"], each["files"]) != (parent.statement.derivation, parent.statement.files):
                raise _refusal(f"{stage.name}: its input {each['name']} is not the stage {parent.name} that is here")
        before[stage.name] = stage
    return outside


def _check_outside(row: StageRow, given: tuple[Input, ...], made: list[Input]) -> None:
    """Sources and a base model come in at the stages that take them, nothing anywhere else."""
    if row.takes == SOURCES:
        if not given or made:
            raise _refusal(f"{row.name}: it takes in sources and nothing else")
    elif row.takes == BASE:
        if len(given) != 1 or given[0]["name"] != BASE:
            raise _refusal(f"{row.name}: it takes in one base model")
    elif given:
        raise _refusal(f"{row.name}: its input {given[0]['name']} comes from outside the run")
    if row.takes != SOURCES and not made:
        raise _refusal(f"{row.name}: nothing went into it")


def _check_all_are_used(chain: Chain) -> None:
    """Every stage went into a later one, and the export took the weights that were learnt last and their evaluation."""
    used = {str(item["name"]) for stage in chain.stages for item in stage.statement.inputs}
    if idle := [stage.name for stage in chain.stages[:-1] if stage.name not in used]:
        raise _refusal(f"the stage {idle[0]} went into nothing")
    evaluations = chain.of_role("evaluation")
    needed = {chain.learnt.name, *(stage.name for stage in evaluations)}
    exported = {str(item["name"]) for item in chain.export.statement.inputs}
    if missing := needed - exported:
        raise _refusal(f"the export did not take in {min(missing)}")
    for stage in evaluations:
        if chain.learnt.name not in {str(item["name"]) for item in stage.statement.inputs}:
            raise _refusal("other weights were evaluated than those that are exported")


def _read_files(data: bytes, stage: str) -> dict[str, OutputFile]:
    if len(data) > MAX_LIST_BYTES:
        raise _refusal(f"{stage}: its list of files is too long")
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refusal(f"{stage}: its list of files is no JSON") from error
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_OUTPUTS or not all(map(_is_row, rows)):
        raise _refusal(f"{stage}: its list of files is not what it must be")
    files = {row["name"]: OutputFile(row["sha256"], row["bytes"]) for row in rows}
    if len(files) != len(rows) or canonical_json(rows) != data:
        raise _refusal(f"{stage}: its list of files names one twice, or is not canonical")
    return files


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == {"name", "sha256", "bytes"}
        and isinstance(row["name"], str)
        and is_hex(row["sha256"])
        and type(row["bytes"]) is int
        and row["bytes"] >= 0
    )


def _refusal(message: str) -> Invalid:
    return Invalid(f"the lineage does not hold: {message}", code="bad_lineage")
