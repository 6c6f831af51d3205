"""The `allod` member: under which terms a tenant, or a key, uses the engines.

    {"weight": 1, "priority": 0,
     "label":   {"tier": "OFFICIAL", "markings": [], "jurisdictions": null, "purposes": null},
     "scope":   {"models": null, "clearance": null, "purposes": null},
     "quota":   {"requests_per_minute": null, "tokens_per_minute": null, "concurrent": null},
     "budgets": {"day": null, "month": {"tokens": 1000000, "engine_ms": null, "millijoules": null, "micros": null}}}

null stands for "not restricted". A member that a request leaves out stays as it is, however deep it lies: what is not
mentioned is never widened.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from msgspec import UnsetType

from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.tenancy.keys import default_label
from allod.govern.tenancy.tenants import Budget, Scope, Tenant
from allod.web.admin import bodies
from allod.web.admin.asked import Json
from allod.web.admin.bodies import given

Budgets = tuple[Budget, ...]
_LABEL_WORDS = ("tier", "markings", "jurisdictions", "purposes")


def terms_of(tenant: Tenant, nation: Nation) -> Json:
    """A tenant's terms; those per model are its rate limits."""
    return {
        "weight": tenant.weight,
        "priority": tenant.priority,
        "label": {
            "tier": tenant.tier or nation.lowest.tier.name,
            **{name: _sorted(getattr(tenant, name)) for name in _LABEL_WORDS[1:]},
        },
        "scope": scope_of(tenant.scope),
        "quota": asdict(tenant.quota),
        "budgets": {"day": None, "month": None, **{budget.period: _amounts(budget) for budget in tenant.budgets}},
    }


def scope_of(scope: Scope) -> Json:
    """What a key or a tenant may use."""
    return {
        "models": _sorted(scope.models),
        "clearance": scope.clearance,
        "purposes": _sorted(scope.purposes),
    }


def with_terms(tenant: Tenant, asked: bodies.Terms | UnsetType, nation: Nation) -> Tenant:
    """The tenant under the terms that are asked for. Raises Invalid for a word that the nation does not know."""
    changes = given(asked)
    label = _words(given(changes.pop("label", bodies.LabelWords())))
    if "scope" in changes:
        changes["scope"] = with_scope(tenant.scope, changes["scope"], nation)
    if "quota" in changes:
        changes["quota"] = replace(tenant.quota, **given(changes["quota"]))
    for period, amounts in given(changes.pop("budgets", bodies.Budgets())).items():
        changes["budgets"] = with_budget(changes.get("budgets", tenant.budgets), period, amounts)
    changed = replace(tenant, **changes, **label)
    if label:
        _check_label(changed, nation)
    return changed


def with_scope(scope: Scope, asked: bodies.Scope | UnsetType, nation: Nation) -> Scope:
    """The scope with what is asked for. Raises Invalid for a word that the nation does not know."""
    changed = replace(scope, **_words(given(asked)))
    nation.label(changed.clearance or "", purposes=changed.purposes)
    return changed


def with_budget(budgets: Budgets, period: str, asked: bodies.Amounts | None) -> Budgets:
    """The budgets with these amounts for the period; None, or nothing but nulls, ends that period's."""
    others = tuple(budget for budget in budgets if budget.period != period)
    amounts: dict[str, int | None] = {}
    if asked is not None:
        for budget in budgets:
            if budget.period == period:
                amounts = _amounts(budget)
        amounts |= given(asked)
    return others if all(amount is None for amount in amounts.values()) else (*others, Budget(period, **amounts))


def _check_label(tenant: Tenant, nation: Nation) -> None:
    if default_label(tenant, nation).is_impossible:
        raise Invalid(
            "the label leaves no place or no purpose at all: every request would be forbidden",
            code="impossible_label",
            param="allod.label",
            hint="archive the project instead",
        )


def _amounts(budget: Budget) -> dict[str, int | None]:
    return {name: amount for name, amount in asdict(budget).items() if name != "period"}


def _words(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in fields.items()}


def _sorted(words: frozenset[str] | None) -> list[str] | None:
    return None if words is None else sorted(words)
