"""Make `training.json`: statements of training and of a release, and what is none. Run it from the root."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import sha256_hex
from allod.core.statements.training import (
    TRAINING_V1,
    artefact_statement,
    check_training_statement,
    derivation_of,
    key_of,
    make_training_statement,
    source_input,
    stage_input,
)

AT = {"start_ms": 1_795_000_000_000, "end_ms": 1_795_000_000_900}
LABEL: dict[str, JsonValue] = {"tier": "OFFICIAL", "markings": [], "jurisdictions": None, "purposes": None}
OTHER = "sha256:" + "9" * 64


def main() -> None:
    given = source_input(
        name="novels", sha256="sha256:" + "1" * 64, licence="MIT", jurisdiction="GB", origin="Nofelau – novels",
        date="2020", package="pypi:novels==1",
    )  # fmt: skip
    first, first_files = stage("source", [given], {}, [("index.jsonl", b"{}\n")])
    told = check_training_statement(first)
    after = stage_input("source", derivation=told.derivation, files=told.files)
    second, second_files = stage("clean", [after], {"redact": True}, [("novels-00000.jsonl", b"{}\n")])
    release = artefact()
    vectors = {
        "stages": [
            {
                "manifest": manifest.decode(),
                "files": files.decode(),
                "key": check_training_statement(manifest).key,
                "derivation": check_training_statement(manifest).derivation,
            }
            for manifest, files in ((first, first_files), (second, second_files))
        ],
        "version_1": as_version_1(second),
        "artefact": release.decode(),
        "bad_training": [{"why": why, "statement": spoilt(second, path, value)} for why, path, value in TRAINING],
        "bad_artefact": [{"why": why, "statement": spoilt(release, path, value)} for why, path, value in ARTEFACT],
    }
    text = json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_name("training.json").write_text(text, encoding="utf-8")


def stage(
    name: str, inputs: list[Any], parameters: dict[str, Any], outputs: list[tuple[str, bytes]]
) -> tuple[bytes, bytes]:
    """A stage's manifest and list of files."""
    files = canonical_json([{"name": file, "sha256": sha256_hex(data), "bytes": len(data)} for file, data in outputs])
    digest = f"sha256:{sha256_hex(files)}"
    key = key_of(name, 1, parameters, inputs)
    predicate: dict[str, Any] = {
        "id": f"training_{name}", "at": AT, "stage": name, "version": 1, "run": "vectors", "key": key,
        "derivation": derivation_of(key, digest), "inputs": inputs, "parameters": parameters, "recipe": OTHER,
        "code": {"version": "1", "sha256": OTHER}, "environment": {},
        "stated": {"site": "home", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 0},
        "observed": {"by": "trainer", "machine": {}}, "seed": 1, "measured": {"num_documents": 1},
        "energy": {"label": "UNAVAILABLE", "millijoules": None, "method": None},
        "seal": {"kind": "island", "proof": None}, "label": LABEL,
    }  # fmt: skip
    return make_training_statement(digest, predicate), files


def as_version_1(manifest: bytes) -> str:
    """The same stage as it was said before what is stated and what was observed were told apart."""
    statement = json.loads(manifest)
    statement["predicateType"] = TRAINING_V1
    held = statement["predicate"]
    stated, observed = held.pop("stated"), held.pop("observed")
    held |= {"site": stated["site"], "jurisdiction": stated["jurisdiction"], "machine": observed["machine"]}
    return canonical_json(statement).decode()


def artefact() -> bytes:
    digests = {name: f"sha256:{sha256_hex(name.encode())}" for name in ("passport", "bom", "summary", "signature")}
    return artefact_statement(
        {
            "id": "artefact_1",
            "at": {"start_ms": AT["end_ms"], "end_ms": AT["end_ms"]},
            "kind": "model",
            "name": "vectors",
            "digest": "sha256:" + "2" * 64,
            "base": None,
            "derivation": "sha256:" + "3" * 64,
            "stages": [{"stage": "evaluate", "derivation": "sha256:" + "3" * 64, "statement": "sha256:" + "4" * 64}],
            "label": LABEL,
            **digests,
        }
    )


TRAINING: list[tuple[str, tuple[Any, ...], Any]] = [
    ("another type", ("predicateType",), "urn:allod:artefact:v1"),
    ("another subject", ("subject", 0, "name"), "dedupe"),
    ("other files", ("subject", 0, "digest", "sha256"), "9" * 64),
    ("another parameter", ("predicate", "parameters", "redact"), False),
    ("another version", ("predicate", "version"), 2),
    ("another parent", ("predicate", "inputs", 0, "derivation"), OTHER),
    ("another key", ("predicate", "key"), OTHER),
    ("another derivation", ("predicate", "derivation"), OTHER),
    ("an input with one field more", ("predicate", "inputs", 0, "more"), "1"),
    ("one field more", ("predicate", "more"), 1),
    ("fields of version 2 under version 1", ("predicateType",), "urn:allod:training:v1"),
    ("observed by nobody", ("predicate", "observed", "by"), "a friend"),
    ("no machine", ("predicate", "observed", "machine"), None),
    ("a negative number of nodes", ("predicate", "stated", "nodes"), -1),
    ("more that is stated", ("predicate", "stated", "more"), 1),
]
ARTEFACT: list[tuple[str, tuple[Any, ...], Any]] = [
    ("another type", ("predicateType",), "urn:allod:training:v1"),
    ("another subject", ("subject", 0, "name"), "other"),
    ("another digest", ("subject", 0, "digest", "sha256"), "9" * 64),
    ("a model with a base", ("predicate", "base"), OTHER),
    ("an adapter without one", ("predicate", "kind"), "adapter"),
    ("another kind", ("predicate", "kind"), "tool"),
    ("no stages", ("predicate", "stages"), []),
    ("a digest without its algorithm", ("predicate", "signature"), "1" * 64),
    ("a name that leads elsewhere", ("predicate", "name"), "../other"),
    ("one field more", ("predicate", "more"), 1),
]


def spoilt(good: bytes, path: tuple[Any, ...], value: Any) -> str:
    statement = copy.deepcopy(json.loads(good))
    at = statement
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return canonical_json(statement).decode()


main()
