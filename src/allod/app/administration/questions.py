"""What the policy would be asked about a request that nobody has sent: the main path's own question, from words.

The console asks about the gateway that runs; the command line about the one that these settings would make.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from allod.app.gateway.model_choice import AUTO, read_pace
from allod.app.gateway.weights import catalogue_models, model_called
from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.core.nations.nation import Nation
from allod.govern.policy.decision import Policy
from allod.govern.policy.request import Model, PolicyRequest, PolicySite
from allod.govern.tenancy.keys import caller_for
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import LOCAL, Key, Tenant
from allod.model.catalogue import best_for
from allod.serve.controls import Controls
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings

ANY_KEY = "any-key"  # stands for a key that has no limits of its own
ASSUMED_SEAL = "sealed"  # of an engine that is not asked: one that starts unsealed must be told to


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it might come in. Words that are not said are as where a client says nothing; without a `key` it is
    one that the tenant's own scope limits, and nothing else."""

    tenant: str = LOCAL
    tier: str = ""
    markings: Sequence[str] = ()
    purpose: str | None = None
    action: Literal["chat", "embed"] = "chat"
    model: str | None = None
    key: str | None = None


class Questions:
    """Put as the gateway with these controls puts them. `others` are models that the realm knows of besides."""

    def __init__(self, controls: Controls, store: TenantStore, others: Iterable[Model] = ()) -> None:
        self._controls = controls
        self._store = store
        served = controls.models.values()
        self.models = {model.name: model for model in (*served, *others, *served)}  # the served ones first

    def request_for(self, question: Question, now_ms: int) -> PolicyRequest:
        """What the main path would ask, but for markings that a text itself calls for. Blocks.

        Raises Invalid for words, tenants, keys and models that there are not, and for keys that open nothing.
        """
        nation = self._controls.nation
        tenant = self._store.tenant(question.tenant)
        if tenant.archived_ms is not None:
            raise Invalid("the tenant is archived: its keys open nothing", code="project_archived", param="tenant")
        caller = caller_for(tenant, self._key(tenant, question.key, now_ms), nation)
        model = self.models.get(question.model or self._controls.model.name)
        if model is None:
            raise Invalid(
                f"the model {question.model!r} is not known here",
                code="model_not_found",
                param="model",
                hint=f"there are: {', '.join(self.models)}",
            )
        label = caller.label.join(_label_from(question, nation)).join(model.label)
        served = model if model.name in self._controls.models else self._controls.model  # of whose site it is told
        return replace(self._controls.request_for(caller, question.action, label, served.name), model=model)

    def _key(self, tenant: Tenant, key_id: str | None, now_ms: int) -> Key:
        if key_id is None:
            return Key(ANY_KEY, tenant.id, ANY_KEY, "0" * 64, "0000", created_ms=0)
        key = self._store.key(key_id)
        if key.tenant_id != tenant.id:
            raise Invalid(f"the tenant {tenant.id} has no such key", code="not_found", param="key")
        if key.revoked_ms is not None or (key.expires_ms is not None and key.expires_ms <= now_ms):
            raise Invalid("the key has ended: it opens nothing", code="key_ended", param="key")
        return key


def controls_of(settings: Settings, policy: Policy, *, model: str | None = None, seal: str = ASSUMED_SEAL) -> Controls:
    """The controls of the gateway that these settings would make, with this policy and an engine of this seal.

    `model` is what to ask about where the settings leave it to the machine. Raises Invalid where nobody says.
    """
    nation, realm = policy.nation, settings.realm
    tier = nation.tier(realm.tier) if realm.tier else nation.tiers[0]
    site = PolicySite(realm.site, realm.jurisdiction, tier, seal)
    return Controls(
        policy=policy, nation=nation, models=[_model_to_serve(settings, nation, model)], site=lambda name: site
    )


def _model_to_serve(settings: Settings, nation: Nation, wanted: str | None) -> Model:
    """The model that the settings name, as a gateway that serves it would describe it."""
    name = settings.model.name
    if name == AUTO:
        name = _best_by_measure(settings) or wanted or name
    found = model_called(name, settings, nation)
    if found is None:
        message = f"there is no model {name!r} in the catalogue, and none was released"
        if name == AUTO:
            message = "which model this machine serves is not measured yet"
        known = ", ".join(catalogue_models(nation))
        raise Invalid(message, code="model_not_found", param="model", hint=f"say --model: {known}")
    return found


def _best_by_measure(settings: Settings) -> str | None:
    """What `auto` serves here, as the first start measured it."""
    pace = read_pace(settings)
    return None if pace is None else best_for(load_catalogue(), pace).name


def _label_from(question: Question, nation: Nation) -> Label:
    purposes = None if question.purpose is None else [question.purpose]
    try:
        return nation.label(question.tier, markings=question.markings, purposes=purposes)
    except Invalid as error:
        param = "purpose" if error.param == "purposes" else error.param
        raise error.restate(param=param) from error
