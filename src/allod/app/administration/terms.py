"""The terms under which a tenant, or a key, uses the engines: their one JSON form, and their change.

    {"weight": 1, "priority": 0,
     "label":   {"tier": "OFFICIAL", "markings": [], "jurisdictions": null, "purposes": null},
     "scope":   {"models": null, "clearance": null, "purposes": null},
     "quota":   {"requests_per_minute": null, "tokens_per_minute": null, "concurrent": null},
     "budgets": {"day": null, "month": {"tokens": 1000000, "engine_ms": null, "millijoules": null, "micros": null}}}

null stands for "not restricted". A change has the same form, and what it leaves out stays as it is, however deep it
lies: what is not mentioned is never widened. A change may also have `model_quotas`, by the models' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.tenancy.keys import default_label
from allod.govern.tenancy.tenants import Budget, Quota, Scope, Tenant

Json = dict[str, Any]
Changes = Mapping[str, Any]
Budgets = tuple[Budget, ...]
ModelQuotas = Mapping[str, Quota]

LABEL_WORDS = ("tier", "markings", "jurisdictions", "purposes")


def describe_terms(tenant: Tenant, nation: Nation) -> Json:
    """A tenant's terms; those per model are its rate limits."""
    return {
        "weight": tenant.weight,
        "priority": tenant.priority,
        "label": {
            "tier": tenant.tier or nation.lowest.tier.name,
            **{name: _as_sorted(getattr(tenant, name)) for name in LABEL_WORDS[1:]},
        },
        "scope": describe_scope(tenant.scope),
        "quota": asdict(tenant.quota),
        "budgets": {"day": None, "month": None, **{budget.period: _amounts(budget) for budget in tenant.budgets}},
    }


def describe_scope(scope: Scope) -> Json:
    """What a key or a tenant may use."""
    return {"models": _as_sorted(scope.models), "clearance": scope.clearance, "purposes": _as_sorted(scope.purposes)}


def change_terms(tenant: Tenant, changes: Changes, nation: Nation) -> Tenant:
    """The tenant with these changes. Raises Invalid for what cannot be set, and for words that the nation lacks."""
    label = _with_sets(changes.get("label", {}))
    fields: Json = label | {name: changes[name] for name in ("weight", "priority") if name in changes}
    if "scope" in changes:
        fields["scope"] = change_scope(tenant.scope, changes["scope"], nation)
    if "quota" in changes:
        fields["quota"] = replace(tenant.quota, **changes["quota"])
    for period, amounts in changes.get("budgets", {}).items():
        fields["budgets"] = change_budget(fields.get("budgets", tenant.budgets), period, amounts)
    for model, limits in changes.get("model_quotas", {}).items():
        fields["model_quotas"] = change_model_quota(fields.get("model_quotas", tenant.model_quotas), model, limits)
    changed = replace(tenant, **fields)
    if label:
        _check_label(changed, nation)
    return changed


def change_scope(scope: Scope, changes: Changes, nation: Nation) -> Scope:
    """The scope with these changes. Raises Invalid for a word that the nation does not know."""
    changed = replace(scope, **_with_sets(changes))
    nation.label(changed.clearance or "", purposes=changed.purposes)
    return changed


def change_budget(budgets: Budgets, period: str, changes: Changes | None) -> Budgets:
    """The budgets with these amounts for the period; None, or nothing but nulls, ends that period's."""
    kept = {budget.period: budget for budget in budgets}
    old = kept.pop(period, None)
    amounts = {} if changes is None else {**(_amounts(old) if old else {}), **changes}
    if any(amount is not None for amount in amounts.values()):
        kept[period] = Budget(period, **amounts)
    return tuple(kept[name] for name in sorted(kept))


def change_model_quota(quotas: ModelQuotas, model: str, changes: Changes | None) -> ModelQuotas:
    """The quotas with these limits for the model; None, or nothing but nulls, ends that model's."""
    kept = dict(quotas)
    old = kept.pop(model, Quota())
    quota = Quota() if changes is None else replace(old, **changes)
    return kept if quota == Quota() else {**kept, model: quota}


def _check_label(tenant: Tenant, nation: Nation) -> None:
    if default_label(tenant, nation).is_impossible:
        raise Invalid(
            "the label leaves no place or no purpose at all: every request would be forbidden",
            code="impossible_label",
            param="allod.label",
            hint="say fewer markings, a lower tier or other places; to end a tenant, archive it",
        )


def _amounts(budget: Budget) -> Json:
    return {name: amount for name, amount in asdict(budget).items() if name != "period"}


def _with_sets(changes: Changes) -> Json:
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in changes.items()}


def _as_sorted(words: frozenset[str] | None) -> list[str] | None:
    return None if words is None else sorted(words)
