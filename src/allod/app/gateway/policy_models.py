"""Models as a policy is told of them: those of the catalogue, one that is served, and one that a name stands for."""

from __future__ import annotations

from allod.app.gateway.weights import describe_entry, find_served
from allod.core.nations.nation import Nation
from allod.govern.policy.request import Model
from allod.serve.served_model import ServedModel
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings


def catalogue_models(nation: Nation) -> dict[str, Model]:
    """Those of the catalogue by name, as a policy is told of them."""
    return {entry.name: describe_model(describe_entry(entry), nation) for entry in load_catalogue()}


def describe_model(served: ServedModel, nation: Nation) -> Model:
    """A model as the policy is told of it. Raises Invalid (`unknown_label`) for words that the nation does not have."""
    label = nation.label(served.tier, markings=served.markings)
    return Model(served.name, label, served.licence, served.country, served.informative)


def model_called(name: str, settings: Settings, nation: Nation) -> Model | None:
    """What a gateway that is started with this name would serve, as a policy is told of it; None where nothing is."""
    served = find_served(settings, name)
    return None if served is None else describe_model(served, nation)
