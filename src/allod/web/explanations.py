"""Why a request would be decided as it would: the question that the main path would ask, and the policy's answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.core.nations import Nation
from allod.govern.keys import caller_for
from allod.govern.policy_asked import Asked, Model, describe
from allod.govern.policy_explain import explain
from allod.govern.policy_text import Rule
from allod.govern.store import TenantStore
from allod.govern.tenants import Key, Tenant
from allod.serve.controls import Controls

ANY_KEY = "any-key"  # stands for a key that has no limits of its own
Json = dict[str, Any]

_Word = Annotated[str, msgspec.Meta(max_length=256)]


class ExplainBody(msgspec.Struct, forbid_unknown_fields=True):
    """A request as it might come in. Words that are not said are as where a client says nothing."""

    tenant: _Word = "local"
    tier: _Word = ""
    markings: Annotated[list[_Word], msgspec.Meta(max_length=64)] = []
    purpose: _Word | None = None
    action: Literal["chat", "embed"] = "chat"
    model: _Word | None = None
    key: _Word | None = None


class Explanations:
    """Of the policy in force. `models` are those that the realm knows of, besides the one it serves."""

    def __init__(self, controls: Controls, store: TenantStore, models: Iterable[Model] = ()) -> None:
        self._controls = controls
        self._store = store
        self._models = {model.name: model for model in (controls.model, *models, controls.model)}

    @property
    def models(self) -> list[str]:
        """What can be asked about, the served one first."""
        return list(self._models)

    def made(self, body: ExplainBody, now_ms: int) -> Json:
        """The answer to `body`. Blocks. Raises Invalid for words, tenants, keys and models that there are not."""
        policy, question = self._controls.policy, self._question(body, now_ms)
        told = explain(policy, question, self._models.values())
        return {
            "object": "governance.explanation",
            "asked": describe(question),
            "label": question.label.as_json(),
            "policy": policy.digest,
            "decision": "permit" if told.decision.permitted else "forbid",
            "reason": told.decision.reason,
            "rules": [shown_rule(rule) for rule in told.rules],
            "fault": told.decision.fault,
            "changes": told.changes,
            "advice": told.advice,
        }

    def _question(self, body: ExplainBody, now_ms: int) -> Asked:
        """As the main path would ask it, but for markings that a text itself calls for."""
        nation = self._controls.nation
        tenant = self._store.tenant(body.tenant)
        if tenant.archived_ms is not None:
            raise Invalid("the tenant is archived: its keys open nothing", code="project_archived", param="tenant")
        caller = caller_for(tenant, self._key(tenant, body.key, now_ms), nation)
        model = self._models.get(body.model or self._controls.model.name)
        if model is None:
            raise Invalid(f"the model {body.model!r} is not known here", code="model_not_found", param="model")
        label = caller.label.join(_declared(body, nation)).join(model.label)
        return replace(self._controls.asked(caller, body.action, label), model=model)

    def _key(self, tenant: Tenant, key_id: str | None, now_ms: int) -> Key:
        if key_id is None:
            return Key(ANY_KEY, tenant.id, ANY_KEY, "0" * 64, "0000", created_ms=0)
        key = self._store.key(key_id)
        if key.tenant_id != tenant.id:
            raise Invalid("the tenant has no such key", code="not_found", param="key")
        if key.revoked_ms is not None or (key.expires_ms is not None and key.expires_ms <= now_ms):
            raise Invalid("the key has ended: it opens nothing", code="key_ended", param="key")
        return key


def _declared(body: ExplainBody, nation: Nation) -> Label:
    try:
        return nation.label(
            body.tier, markings=body.markings, purposes=None if body.purpose is None else [body.purpose]
        )
    except Invalid as error:
        param = "purpose" if error.param == "purposes" else error.param
        raise Invalid(error.message, code=error.code, param=param, hint=error.hint) from error


def shown_rule(rule: Rule) -> Json:
    """A rule as the interface shows it."""
    return {"name": rule.name, "effect": rule.effect, "reason": rule.reason, "source": rule.source}
