"""The model's bill of materials in CycloneDX 1.6: the model with its card, and every source and base as a component.

Source: CycloneDX 1.6 JSON schema (`modelCard`, `componentData`), https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from allod import __version__
from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import hex_of
from allod.model.releases.facts import ReleaseFacts, SourceUse, energy_of
from allod.model.releases.records import SourceRecord

BOM_FILE = "bom.cdx.json"

_NOTHING = SourceUse()


def bom(facts: ReleaseFacts) -> bytes:
    """The bill of materials, in canonical JSON. Its serial number follows from the root digest and the model's."""
    serial = uuid5(NAMESPACE_URL, f"urn:allod:bom:{facts.name}:{facts.root}:{facts.digest}")
    datasets = [_dataset(source, facts.used.get(source.name, _NOTHING)) for source in facts.sources]
    bases = [_base(facts.base)] if facts.base else []
    components = [*datasets, *bases]
    value: dict[str, JsonValue] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(facts.ended_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "allod", "version": __version__}]},
            "component": _model(facts, bases),
        },
        "components": components,
        "dependencies": [
            {
                "ref": _ref("model", facts.name),
                "dependsOn": sorted(str(component["bom-ref"]) for component in components),
            },
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }
    return canonical_json(value)


def _model(facts: ReleaseFacts, bases: list[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    model: dict[str, JsonValue] = {
        "type": "machine-learning-model",
        "bom-ref": _ref("model", facts.name),
        "name": facts.name,
        "version": hex_of(facts.digest)[:16],
        "publisher": facts.publisher,
        "licenses": [{"expression": facts.licence}],
        "hashes": [_hash(facts.digest)],
        "modelCard": _card(facts),
        "properties": [
            {"name": name, "value": value}
            for name, value in (
                ("allod:derivation", facts.root),
                ("allod:origin", facts.origin),
                ("allod:country", facts.country),
                ("allod:parameters", str(facts.num_parameters)),
                *((f"allod:energy:{name}", str(value)) for name, value in sorted(energy_of(facts.stages).items())),
            )
        ],
    }
    if bases:  # an ancestor is described once more, so it must not bear the same reference
        model["pedigree"] = {"ancestors": [{key: value for key, value in bases[0].items() if key != "bom-ref"}]}
    return model


def _card(facts: ReleaseFacts) -> dict[str, JsonValue]:
    return {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "text generation",
            "architectureFamily": "transformer",
            "modelArchitecture": facts.architecture,
            "datasets": [{"ref": _ref("source", source.name)} for source in facts.sources],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": value} for name, value in sorted(_figures(facts.evaluation, ""))
            ]
        },
        "considerations": {
            "technicalLimitations": ["nobody has judged yet whether its answers are information"],
        },
    }


def _figures(value: Any, path: str, depth: int = 8) -> Iterator[tuple[str, str]]:
    """Every figure and verdict of an evaluation, by its path."""
    if isinstance(value, (Mapping, list)) and depth:
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _figures(item, f"{path}.{name}" if path else str(name), depth - 1)
    elif isinstance(value, (str, int)):
        yield path, str(value).lower() if isinstance(value, bool) else str(value)


def _dataset(source: SourceRecord, use: SourceUse) -> dict[str, JsonValue]:
    return {
        "type": "data",
        "bom-ref": _ref("source", source.name),
        "name": source.name,
        "version": source.date or "not dated",
        "description": source.origin,
        "licenses": [{"expression": source.licence}],
        "hashes": [_hash(source.sha256)],
        "data": [{"type": "dataset", "name": source.name, "description": source.origin}],
        "properties": [
            {"name": name, "value": value}
            for name, value in (
                ("allod:jurisdiction", source.jurisdiction),
                ("allod:package", source.package),
                ("allod:documents", str(source.num_documents)),
                ("allod:documents:learnt", str(use.num_documents)),
                ("allod:documents:held-out", str(use.num_held_out)),
                ("allod:tokens:learnt", str(use.num_tokens)),
            )
            if value
        ],
    }


def _base(base: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    digest = str(base["sha256"])
    return {
        "type": "machine-learning-model",
        "bom-ref": _ref("base", digest),
        "name": "base model",
        "version": hex_of(digest)[:16],
        "publisher": str(base["origin"]),
        "licenses": [{"expression": str(base["licence"])}],
        "hashes": [_hash(digest)],
        "properties": [
            {"name": "allod:jurisdiction", "value": str(base["jurisdiction"])},
            {"name": "allod:origin", "value": "imported: what it was trained on is not known here"},
        ],
    }


def _hash(digest: str) -> dict[str, JsonValue]:
    return {"alg": "SHA-256", "content": hex_of(digest)}


def _ref(kind: str, name: str) -> str:
    return f"{kind}:{name}"
