"""`allod verify --lineage`: from the answer's model to the documents that it learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allod.core.errors import VerificationError
from allod.prove.releases.answer_lineage import UNKNOWN, Places, follow_answer
from allod.prove.releases.release import CheckedRelease
from allod.prove.trust import Trust
from allod.prove.verify import Report, Step
from allod.settings.files import load_catalogue

__all__ = ["UNKNOWN", "follow"]


def follow(report: Report, trust: Trust, home: Path) -> Iterator[tuple[tuple[Step, ...], dict[str, Any]]]:
    """The steps, and the chain as JSON, of each adapter and of the model that answered.

    Raises VerificationError, which says where an unknown model was imported from if the catalogue knows it.
    """
    places = Places(home / "logs" / "artefacts", home / "store" / "models", home / "keys" / "models.pub")
    try:
        for followed in follow_answer(report, trust, places):
            yield followed.steps, _chain_json(followed.release)
    except VerificationError as error:
        imported = _origin_note(report, error) if error.code == UNKNOWN else ""
        if not imported:
            raise
        unknown = VerificationError(imported, step=error.step, name=error.name)
        unknown.code = UNKNOWN
        raise unknown from error


def _origin_note(report: Report, error: VerificationError) -> str:
    """What the catalogue says of the answer's model; empty where it says nothing."""
    digest = report.statement.predicate["model"]["digest"]
    for entry in load_catalogue():
        if digest == f"sha256:{entry.sha256}" and entry.sha256 in error.message:
            return (
                f"{entry.name} is imported from {entry.publisher} ({entry.country}), {entry.licence}: "
                "its training is not known here"
            )
    return ""


def _chain_json(release: CheckedRelease) -> dict[str, Any]:
    chain, artefact = release.chain, release.artefact
    return {
        "name": artefact.name,
        "kind": artefact.kind,
        "digest": artefact.artefact_digest,
        "statement": artefact.id,
        "root": chain.root,
        "base": None if chain.base is None else dict(chain.base),
        "stages": [{"stage": stage.name, "derivation": stage.statement.derivation} for stage in reversed(chain.stages)],
        "sources": [dict(source) for source in chain.sources],
    }
