"""`allod verify --lineage`: from the answer's model to the documents that it learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from allod.app.artefacts.log import read_artefacts
from allod.app.gateway.model_choice import entry_of
from allod.app.home import Home
from allod.core.errors import VerificationError
from allod.prove.releases.answer_lineage import UNKNOWN, RealmPaths, follow_answer
from allod.prove.releases.release import CheckedRelease
from allod.prove.trust import Trust
from allod.prove.verify import Report, Step
from allod.settings.files import load_catalogue

__all__ = ["UNKNOWN", "follow"]


def follow(report: Report, trust: Trust, home: Path) -> Iterator[tuple[tuple[Step, ...], dict[str, Any]]]:
    """The steps, and the chain as JSON, of each adapter and of the model that answered.

    Files alone are read, and believed by the key that `trust` names: a copy of a home has no keys of its own. Raises
    VerificationError, which says where an unknown model was imported from if the catalogue knows it.
    """
    realm = Home(home)
    paths = RealmPaths(realm.artefacts, realm.store, realm.models_pub, partial(read_artefacts, home))
    try:
        for followed in follow_answer(report, trust, paths):
            yield followed.steps, _chain_json(followed.release)
    except VerificationError as error:
        if error.code == UNKNOWN:
            entry = entry_of(report.statement.predicate["model"]["digest"], load_catalogue())
            if entry is not None and entry.sha256 in error.message:  # it is the model that is unknown, no adapter
                raise error.restate(f"{entry.name} is {entry.origin_note}") from error
        raise


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
