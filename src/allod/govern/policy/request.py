"""What a policy is asked, and how it is said in Cedar's words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from allod.core.errors import Invalid
from allod.core.labels import Label, Tier, is_within
from allod.govern.policy.schema import SEALS, WHOLE_SEALS, Vocabulary


@dataclass(frozen=True, slots=True)
class Model:
    """The model that would answer. `label` is what it was made from; None: its licence or country is not known."""

    name: str
    label: Label
    licence: str | None = None
    country: str | None = None
    informative: bool = False


@dataclass(frozen=True, slots=True)
class PolicySite:
    """Where it would answer: an ISO 3166 code ("ZZ": not known), the highest tier that the site is accredited for, and
    the kind of the engine's seal (`sealed`, `island`, `partial:<what is missing>`, `none`)."""

    id: str
    jurisdiction: str
    tier: Tier
    seal: str


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """Who asks what of which model, where. `models` are those that the key is scoped to; None: not restricted."""

    action: Literal["chat", "embed"]
    tenant_id: str
    key_id: str
    clearance: Tier
    models: frozenset[str] | None
    model: Model
    label: Label
    site: PolicySite


def request_of(asked: PolicyRequest, vocabulary: Vocabulary) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Cedar's request, and the entities that it names.

    A place without a name in the profile is left out on both sides: at a site that is not known, and for a label whose
    places are not known, a label that restricts places forbids. Raises Invalid for a tier of another nation.
    """
    request = {
        "principal": _name("Key", asked.key_id),
        "action": _name("Action", asked.action),
        "resource": _name("Model", asked.model.name),
        "context": {
            "label": _label(asked.label.join(asked.model.label), vocabulary),
            "site": {
                "id": asked.site.id,
                "places": _list_names("Place", (p for p in vocabulary.places if is_within(asked.site.jurisdiction, p))),
                "accredited": _level(asked.site.tier, vocabulary),
                "seal": _name("Seal", _seal(asked.site.seal)),
            },
        },
    }
    return request, [_key(asked, vocabulary), _model(asked.model)]


def sentence_of(asked: PolicyRequest) -> str:
    """One line for a person."""
    label, site = asked.label, asked.site
    parts = [label.tier.name, *sorted(label.markings)]
    if label.purposes is not None:
        parts.append(f"for {_words(label.purposes)}")
    if label.jurisdictions is not None:
        parts.append(f"only in {_words(label.jurisdictions)}")
    scope = "" if asked.models is None else f", scoped to {_words(asked.models)}"
    return (
        f"{asked.action} with {asked.model.name}: {', '.join(parts)}; "
        f"key {asked.key_id} of {asked.tenant_id}, cleared for {asked.clearance.name}{scope}; "
        f"site {site.id} in {site.jurisdiction}, accredited for {site.tier.name}, seal {site.seal}"
    )


def _words(names: frozenset[str]) -> str:
    return " or ".join(sorted(names)) or "nothing"


def _key(asked: PolicyRequest, vocabulary: Vocabulary) -> dict[str, Any]:
    attributes: dict[str, Any] = {"clearance": _level(asked.clearance, vocabulary)}
    if asked.models is not None:
        attributes["models"] = _list_names("Model", asked.models)
    return {
        "uid": _name("Key", asked.key_id),
        "attrs": attributes,
        "parents": [_name("Tenant", asked.tenant_id)],
    }


def _model(model: Model) -> dict[str, Any]:
    known = {"licence": model.licence, "country": model.country, "informative": model.informative}
    return {
        "uid": _name("Model", model.name),
        "attrs": {name: value for name, value in known.items() if value is not None},
        "parents": [],
    }


def _label(label: Label, vocabulary: Vocabulary) -> dict[str, Any]:
    said: dict[str, Any] = {**_level(label.tier, vocabulary), "markings": _list_names("Marking", label.markings)}
    if label.purposes is not None:
        said["purposes"] = _list_names("Purpose", label.purposes)
    if label.jurisdictions is not None:
        said["jurisdictions"] = _list_names("Place", filter(label.allows_place, vocabulary.places))
    return said


def _level(tier: Tier, vocabulary: Vocabulary) -> dict[str, Any]:
    if tier not in vocabulary.tiers:
        raise Invalid(f"{tier.name} of {tier.nation} is no tier of this realm", code="unknown_label", param="tier")
    return {"tier": _name("Tier", tier.name), "rank": vocabulary.tiers.index(tier)}


def _seal(kind: str) -> str:
    """Without what is missing; a kind that is not known is no seal."""
    if kind in WHOLE_SEALS:
        return "sealed"
    known = kind.split(":", 1)[0]
    return known if known in SEALS else "none"


def _list_names(kind: str, names: Iterable[str]) -> list[dict[str, str]]:
    return [_name(kind, name) for name in names]


def _name(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}
