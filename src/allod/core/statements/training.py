"""Statements about training: what a stage made of what (`urn:allod:training:v2`), and what was released
(`urn:allod:artefact:v1`). `spec/training.md` explains every field. Version 1 of the former, which did not tell what
was stated from what was observed, is still read (decision 0014).

A stage's *key* says what went in: its name and version, its parameters and its inputs. Its *derivation* says what
went in and what came out. Neither depends on time, machine or folder: whoever runs the same recipe again gets the
same two digests. As inputs are named by their derivations, a derivation commits to everything that led to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allod.core.canonical import JsonValue, canonical_json, digest_of
from allod.core.digests import digest_of_bytes, hex_of, is_digest
from allod.core.statements.receipt import STATEMENT_TYPE, Statement, check_statement
from allod.core.statements.shapes import refusal

TRAINING, TRAINING_V1 = "urn:allod:training:v2", "urn:allod:training:v1"
TRAININGS = frozenset({TRAINING, TRAINING_V1})
ARTEFACT = "urn:allod:artefact:v1"
MAX_INPUTS = 64

# Names that a run's folder and a release have in common (`spec/training.md`).
FILES, MANIFEST = "files.json", "manifest.json"
LINEAGE = "lineage"
WEIGHTS_FILES = {"model": "weights.gguf", "adapter": "adapter.gguf"}  # what is served, by the kind of release

_TRAINING_FIELDS = {
    "id", "at", "stage", "version", "run", "key", "derivation", "inputs", "parameters", "recipe", "code",
    "environment", "stated", "observed", "seed", "measured", "energy", "seal", "label",
}  # fmt: skip
_FIELDS_OF = {
    TRAINING: _TRAINING_FIELDS,
    TRAINING_V1: (_TRAINING_FIELDS - {"stated", "observed"}) | {"machine", "site", "jurisdiction"},
}
_STATED_FIELDS = {"site", "jurisdiction", "nodes", "accelerators_per_node"}
OBSERVERS = ("trainer", "stage")
_ARTEFACT_FIELDS = {
    "id", "at", "kind", "name", "digest", "base", "derivation", "stages", "passport", "bom", "summary", "signature",
    "label",
}  # fmt: skip
_SOURCE_FIELDS = {"name", "sha256", "licence", "jurisdiction", "origin", "date", "package"}
_STAGE_FIELDS = {"name", "derivation", "files"}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Input = Mapping[str, JsonValue]


def source_input(
    *, name: str, sha256: str, licence: str, jurisdiction: str, origin: str, date: str, package: str
) -> Input:
    """What comes from outside the run. `sha256` is the digest of its content."""
    return {
        "name": name, "sha256": sha256, "licence": licence, "jurisdiction": jurisdiction, "origin": origin,
        "date": date, "package": package,
    }  # fmt: skip


def stage_input(name: str, *, derivation: str, files: str) -> Input:
    """What another stage made: its derivation, and the digest of its list of files."""
    return {"name": name, "derivation": derivation, "files": files}


def key_of(stage: str, version: int, parameters: Mapping[str, JsonValue], inputs: Sequence[Input]) -> str:
    """What goes into a stage, as one digest."""
    return digest_of({"stage": stage, "version": version, "parameters": parameters, "inputs": list(inputs)})


def derivation_of(key: str, files: str) -> str:
    """What went in and what came out, as one digest. `files` is the digest of the stage's list of files."""
    return digest_of({"key": key, "files": files})


@dataclass(frozen=True, slots=True)
class TrainingStatement:
    """A stage's statement that passed `check_training_statement`. Digests are `sha256:<hex>`.

    `files` is the digest of files.json, which lists what the stage made. `digest` is of the statement's own bytes.
    """

    id: str
    digest: str
    start_ms: int
    end_ms: int
    stage: str
    version: int
    key: str
    derivation: str
    files: str
    inputs: tuple[Input, ...]
    predicate: Mapping[str, Any]

    @property
    def machine(self) -> Mapping[str, Any]:
        """The machine that it ran on, as far as the process that ran it could see. Version 1 has the one that it was
        started from."""
        held = self.predicate.get("observed", self.predicate)
        machine: Mapping[str, Any] = held["machine"]
        return machine

    @property
    def stated(self) -> Mapping[str, Any]:
        """Where it ran, by the operator's word: nobody observed it."""
        stated: Mapping[str, Any] = self.predicate.get("stated") or {
            "site": self.predicate["site"],
            "jurisdiction": self.predicate["jurisdiction"],
            "nodes": None,
            "accelerators_per_node": None,
        }
        return stated


@dataclass(frozen=True, slots=True)
class ArtefactStatement:
    """A release's statement that passed `check_artefact_statement`. `artefact_digest` is of the file that is served."""

    id: str
    digest: str
    at_ms: int
    kind: str
    name: str
    artefact_digest: str
    base: str | None
    derivation: str
    stages: tuple[Mapping[str, str], ...]
    predicate: Mapping[str, Any]


def make_training_statement(files: str, predicate: Mapping[str, JsonValue]) -> bytes:
    """The canonical statement of a stage. Raises Invalid for what `check_training_statement` would refuse."""
    data = _statement(TRAINING, str(predicate["stage"]), files, predicate)
    check_training_statement(data)
    return data


def artefact_statement(predicate: Mapping[str, JsonValue]) -> bytes:
    """The canonical statement of a release. Raises Invalid for what `check_artefact_statement` would refuse."""
    data = _statement(ARTEFACT, str(predicate["name"]), str(predicate["digest"]), predicate)
    check_artefact_statement(data)
    return data


def check_training_statement(data: bytes) -> TrainingStatement:
    """The stage in `data`, if its key and derivation follow from its own fields. Raises Invalid."""
    statement = check_statement(data)
    held = statement.predicate
    if held.keys() != _FIELDS_OF.get(statement.kind, set()):
        raise refusal("its fields are not those of a training statement")
    if statement.kind == TRAINING and not (_is_stated(held["stated"]) and _is_observed(held["observed"])):
        raise refusal("what was stated or observed of where it ran is not what it must be")
    stage, version, parameters, inputs = held["stage"], held["version"], held["parameters"], held["inputs"]
    if not _is(_NAME, stage) or type(version) is not int or not isinstance(parameters, dict):
        raise refusal("its stage, version or parameters are not what they must be")
    if not isinstance(inputs, list) or len(inputs) > MAX_INPUTS or not all(map(_is_input, inputs)):
        raise refusal("its inputs are not what they must be")
    files = _subject(statement, stage)
    if held["key"] != key_of(stage, version, parameters, inputs):
        raise refusal("its key does not follow from what went in")
    if held["derivation"] != derivation_of(held["key"], files):
        raise refusal("its derivation does not follow from its key and its files")
    return TrainingStatement(
        id=statement.id,
        digest=digest_of_bytes(data),
        start_ms=statement.start_ms,
        end_ms=statement.end_ms,
        stage=stage,
        version=version,
        key=held["key"],
        derivation=held["derivation"],
        files=files,
        inputs=tuple(inputs),
        predicate=held,
    )


def check_artefact_statement(data: bytes) -> ArtefactStatement:
    """The release in `data`, if it is a well-formed statement of this type with exactly its fields. Raises Invalid."""
    statement = check_statement(data)
    held = statement.predicate
    if statement.kind != ARTEFACT or held.keys() != _ARTEFACT_FIELDS:
        raise refusal("its fields are not those of an artefact statement")
    digests = ("digest", "derivation", "passport", "bom", "summary", "signature")
    if not all(is_digest(held[name]) for name in digests):
        raise refusal("one of its digests is none")
    is_adapter = held["kind"] == "adapter"
    if held["kind"] not in ("model", "adapter") or (held["base"] is not None) is not is_adapter:
        raise refusal("it is a model without a base, or an adapter with one")
    if is_adapter and not is_digest(held["base"]):
        raise refusal("its base is no digest")
    if not _is(_MODEL_NAME, held["name"]) or not isinstance(held["stages"], list) or not held["stages"]:
        raise refusal("its name or its stages are not what they must be")
    if len(held["stages"]) > MAX_INPUTS or not all(map(_is_stage, held["stages"])):
        raise refusal("its stages are not what they must be")
    if _subject(statement, held["name"]) != held["digest"]:
        raise refusal("its subject is not its digest")
    return ArtefactStatement(
        id=statement.id,
        digest=digest_of_bytes(data),
        at_ms=statement.end_ms,
        kind=held["kind"],
        name=held["name"],
        artefact_digest=held["digest"],
        base=held["base"],
        derivation=held["derivation"],
        stages=tuple(held["stages"]),
        predicate=held,
    )


def _statement(kind: str, name: str, digest: str, predicate: Mapping[str, JsonValue]) -> bytes:
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "predicateType": kind,
            "subject": [{"name": name, "digest": {"sha256": hex_of(digest)}}],
            "predicate": predicate,
        }
    )


def _subject(statement: Statement, name: str) -> str:
    """The digest of the one subject, which must have this name."""
    digest = statement.digest_of_subject(name)
    if digest is None:
        raise refusal(f"its subject is not {name}")
    return digest


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_input(value: object) -> bool:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        return False
    if value.keys() == _STAGE_FIELDS:
        return _is(_NAME, value["name"]) and is_digest(value["derivation"]) and is_digest(value["files"])
    return value.keys() == _SOURCE_FIELDS and _is(_NAME, value["name"]) and is_digest(value["sha256"])


def _is_stated(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == _STATED_FIELDS
        and all(isinstance(value[name], str) for name in ("site", "jurisdiction"))
        and all(type(value[name]) is int and value[name] >= 0 for name in ("nodes", "accelerators_per_node"))
    )


def _is_observed(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"by", "machine"}
        and value["by"] in OBSERVERS
        and isinstance(value["machine"], dict)
    )


def _is_stage(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"stage", "derivation", "statement"}
        and _is(_NAME, value["stage"])
        and is_digest(value["derivation"])
        and is_digest(value["statement"])
    )
