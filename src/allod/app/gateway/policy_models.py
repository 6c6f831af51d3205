"""Models as a policy is told of them: those of the catalogue, one that is served, and one that a name stands for."""

from __future__ import annotations

from pathlib import Path

from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.model_choice import entry_of, is_file_name
from allod.app.gateway.weights import find_released
from allod.core.nations.nation import Nation
from allod.govern.policy.request import Model
from allod.serve.served_model import ServedModel
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings


def catalogue_models(nation: Nation) -> dict[str, Model]:
    """Those of the catalogue by name, as a policy is told of them."""
    return {
        entry.name: Model(entry.name, nation.lowest, entry.licence, entry.country, entry.informative)
        for entry in load_catalogue()
    }


def describe_model(served: ServedModel, nation: Nation) -> Model:
    """A model as the policy is told of it. Raises Invalid (`unknown_label`) for words that the nation does not have."""
    label = nation.label(served.tier, markings=served.markings)
    return Model(served.name, label, served.licence, served.country, served.informative)


def model_called(name: str, settings: Settings, nation: Nation) -> Model | None:
    """What a gateway that is started with this name would serve, as a policy is told of it; None where nothing is."""
    if name == ECHO_MODEL.name:
        return Model(name, nation.lowest, ECHO_MODEL.licence, ECHO_MODEL.country, ECHO_MODEL.informative)
    if is_file_name(name):
        return Model(Path(name).stem, nation.lowest, licence="not known", country="", informative=True)
    entry = entry_of(name, load_catalogue())
    if entry is not None:
        return catalogue_models(nation)[entry.name]
    released = find_released(settings, name)
    return describe_model(released, nation) if released is not None else None
