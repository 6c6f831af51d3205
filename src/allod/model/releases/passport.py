"""The passport: what a model declares about itself, what was measured of it, and what nobody controls
(`spec/passport.md`). Written from manifests, read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from allod.core.canonical import JsonValue, canonical_json, check_canonical
from allod.core.digests import is_digest
from allod.core.errors import Invalid
from allod.model.releases.facts import ReleaseFacts, energy_of, where_of

FORMAT, FORMAT_V1 = "urn:allod:passport:v2", "urn:allod:passport:v1"
PASSPORT_FILE = "passport.json"
MAX_PASSPORT_BYTES = 4 << 20
NOT_CONTROLLED = {
    "chips": "the processors that trained and serve the model, and whoever designed and made them",
    "firmware": "firmware and microcode of those machines",
    "base-model origin": "what an imported base model was trained on; its digest is pinned, its history is not known",
}

_FIELDS = {
    "format", "name", "kind", "digest", "publisher", "licence", "origin", "informative", "architecture",
    "num_parameters", "lineage", "corpus", "evaluation", "energy", "where", "label", "not_controlled",
}  # fmt: skip
_FIELDS_OF = {FORMAT: _FIELDS, FORMAT_V1: _FIELDS - {"where"}}  # of what was released before
_LABEL_FIELDS = {"tier", "markings", "jurisdictions", "purposes"}
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")


@dataclass(frozen=True, slots=True)
class Passport:
    """What a server needs of a passport that passed `read_passport`; `value` is all of it."""

    name: str
    digest: str
    publisher: str
    country: str
    licence: str
    origin: str
    informative: bool
    tier: str
    markings: tuple[str, ...]
    value: Mapping[str, Any]


def passport_of(facts: ReleaseFacts) -> bytes:
    """The passport of a release, in canonical JSON: the same manifests make the same bytes."""
    value: dict[str, JsonValue] = {
        "format": FORMAT,
        "name": facts.name,
        "kind": facts.kind,
        "digest": facts.digest,
        "publisher": {"name": facts.publisher, "country": facts.country},
        "licence": facts.licence,
        "origin": facts.origin,
        "informative": False,  # nobody has judged yet whether its answers are information
        "architecture": facts.architecture,
        "num_parameters": facts.num_parameters,
        "lineage": {
            "root": facts.root,
            "base": dict(facts.base) if facts.base else None,
            "stages": [
                {
                    "stage": stage.stage,
                    "derivation": stage.derivation,
                    "statement": stage.digest,
                    "parents": [item.get("derivation", item.get("sha256")) for item in stage.inputs],
                }
                for stage in facts.stages
            ],
        },
        "corpus": {
            "stage": facts.corpus().stage,
            "manifest": facts.corpus().digest,
            "files": facts.corpus().files,
            "num_tokens": facts.num_tokens,
            "num_documents": sum(use.num_documents for use in facts.used.values()),
            "sources": [
                {"name": source.name, "licence": source.licence, "jurisdiction": source.jurisdiction}
                for source in facts.sources
            ],
        },
        "evaluation": dict(facts.evaluation),
        "energy": energy_of(facts.stages),
        "where": where_of(facts.stages),
        "label": dict(facts.label),
        "not_controlled": {
            name: text for name, text in NOT_CONTROLLED.items() if facts.base or name != "base-model origin"
        },
    }
    check_canonical(value)
    return canonical_json(value)


def read_passport(data: bytes) -> Passport:
    """A passport from its bytes. Raises Invalid (`bad_passport`) for what `passport` does not write."""
    if len(data) > MAX_PASSPORT_BYTES:
        raise _refusal("too long")
    try:
        value = json.loads(data)
        check_canonical(value)
        if canonical_json(value) != data:
            raise _refusal("not in canonical form")
    except (ValueError, RecursionError) as error:
        raise _refusal("not JSON") from error
    if not isinstance(value, dict) or value.keys() != _FIELDS_OF.get(str(value.get("format")), set()):
        raise _refusal("its fields are not those of a passport")
    publisher, label = value["publisher"], value["label"]
    if not isinstance(publisher, dict) or publisher.keys() != {"name", "country"}:
        raise _refusal("its publisher is a name and a country")
    if not isinstance(label, dict) or label.keys() != _LABEL_FIELDS or not isinstance(label["markings"], list):
        raise _refusal("its label is not one")
    texts = [value["name"], *publisher.values(), value["licence"], label["tier"], *label["markings"]]
    if not all(isinstance(text, str) and _TEXT.fullmatch(text) for text in texts):
        raise _refusal("one of its texts is missing")
    if not is_digest(value["digest"]):
        raise _refusal("its digest is none")
    if value["origin"] not in ("from-scratch", "adapted", "imported") or not isinstance(value["informative"], bool):
        raise _refusal("its origin, or whether it informs, is not said")
    return Passport(
        name=value["name"],
        digest=value["digest"],
        publisher=publisher["name"],
        country=publisher["country"],
        licence=value["licence"],
        origin=value["origin"],
        informative=value["informative"],
        tier=label["tier"],
        markings=tuple(label["markings"]),
        value=value,
    )


def _refusal(message: str) -> Invalid:
    return Invalid(f"not a passport: {message}", code="bad_passport")
