"""The words in which a tenant's label, scope, share, quotas and budgets are said on the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.metering.windows import BUDGET_UNITS
from allod.govern.tenancy.keys import default_label
from allod.govern.tenancy.tenants import Budget, Quota, Scope, Tenant, checked_name

QUOTA_UNITS = ("requests_per_minute", "tokens_per_minute", "concurrent")
NO_WORDS = ("any", "none")
LABEL_WORDS = ("tier", "markings", "jurisdictions", "purposes")


def add_changes(part: argparse.ArgumentParser) -> None:
    """The words for everything that can be set."""
    label = part.add_argument_group("what its requests carry if they say nothing (lists: A,B; any)")
    label.add_argument("--tier", help="as the nation calls it")
    label.add_argument("--markings", type=_some_words, metavar="A,B")
    label.add_argument("--jurisdictions", type=words_or_any, metavar="GB,FR")
    label.add_argument("--purposes", type=words_or_any, metavar="A,B")
    scope = part.add_argument_group("what it may use (lists: A,B; any)")
    scope.add_argument("--models", type=words_or_any, metavar="A,B")
    scope.add_argument("--clearance", type=word_or_any, metavar="TIER", help="the highest tier it may ask at")
    share = part.add_argument_group("its share (numbers; none lifts a limit)")
    share.add_argument("--weight", type=int, help="its share when engines are busy, 1 to 1000")
    share.add_argument("--priority", type=int, choices=(0, 1), help="0 goes first, 1 is for batches")
    for unit in QUOTA_UNITS:
        share.add_argument(f"--{unit.replace('_', '-')}", type=_limit, metavar="N")
    per_model = "'MODEL requests-per-minute=N ...'"
    share.add_argument("--model-quota", action="append", metavar=per_model, help="or 'MODEL none'")
    share.add_argument("--budget", action="append", metavar="'day tokens=N ...'", help="or 'month ...', or 'day none'")


def changed(tenant: Tenant, said: Mapping[str, Any], nation: Nation) -> Tenant:
    """The tenant with what was said, and nothing else, changed. Raises Invalid for words that the nation lacks."""
    label = {name: said[name] for name in (*LABEL_WORDS, "name", "weight", "priority") if name in said}
    if "name" in label:
        checked_name(label["name"])
    scope = {name: said[name] for name in ("models", "clearance") if name in said}
    quota = {name: said[name] for name in QUOTA_UNITS if name in said}
    new = replace(
        tenant,
        **label,
        scope=replace(tenant.scope, **scope),
        quota=replace(tenant.quota, **quota),
        model_quotas=_model_quotas(tenant.model_quotas, said.get("model_quota", [])),
        budgets=_budgets(tenant.budgets, said.get("budget", [])),
    )
    check_scope(new.scope, nation)
    if default_label(new, nation).is_impossible:
        raise Invalid(
            "these words together leave no place or no purpose",
            code="impossible_label",
            hint="a marking or a tier may restrict where things are processed: say fewer of them, or other places",
        )
    return new


def terms_of(tenant: Tenant, nation: Nation) -> dict[str, JsonValue]:
    """A tenant's terms in the shape that the audit log has them from the HTTP interface, and those per model."""
    fields = plain(asdict(tenant))
    budgets: dict[str, JsonValue] = {"day": None, "month": None}
    for budget in tenant.budgets:
        budgets[budget.period] = {unit: getattr(budget, unit) for unit in BUDGET_UNITS}
    return {
        **{name: fields[name] for name in ("weight", "priority", "scope", "quota", "model_quotas")},
        "label": {name: fields[name] for name in LABEL_WORDS} | {"tier": tenant.tier or nation.lowest.tier.name},
        "budgets": budgets,
    }


def plain(fields: Mapping[str, Any]) -> dict[str, JsonValue]:
    """A value's fields as JSON: a set is a sorted list."""
    made: dict[str, JsonValue] = json.loads(json.dumps(fields, default=sorted))
    return made


def check_scope(scope: Scope, nation: Nation) -> None:
    """Raise Invalid (`unknown_label`) for a clearance or a purpose that the nation does not know."""
    if scope.clearance is not None:
        nation.tier(scope.clearance)
    nation.label(purposes=scope.purposes)


def words_or_any(text: str) -> frozenset[str] | None:
    """`A,B` as a set; `any` as no restriction. Words may have blanks inside."""
    if text in NO_WORDS:
        return None
    words = frozenset(word.strip() for word in text.split(","))
    if "" in words:
        raise argparse.ArgumentTypeError("say A,B or any")
    return words


def word_or_any(text: str) -> str | None:
    """The word; `any` as no restriction."""
    return None if text in NO_WORDS else text


def _some_words(text: str) -> frozenset[str]:
    return words_or_any(text) or frozenset()


def _limit(text: str) -> int | None:
    return None if text in NO_WORDS else int(text)


def _model_quotas(old: Mapping[str, Quota], said: list[str]) -> dict[str, Quota]:
    quotas = dict(old)
    for text in said:
        model, limits = _parted(text)
        if limits == ["none"]:
            quotas.pop(model, None)
        else:
            quotas[model] = Quota(**_amounts("--model-quota", limits, QUOTA_UNITS))
    return quotas


def _budgets(old: tuple[Budget, ...], said: list[str]) -> tuple[Budget, ...]:
    budgets = {budget.period: budget for budget in old}
    for text in said:
        period, limits = _parted(text)
        if limits == ["none"]:
            budgets.pop(period, None)
        else:
            budgets[period] = Budget(period, **_amounts("--budget", limits, BUDGET_UNITS))
    return tuple(budgets[period] for period in sorted(budgets))


def _parted(text: str) -> tuple[str, list[str]]:
    """`a model's name tokens=5 engine-ms=7` as the name and the limits."""
    words = text.split()
    first = next((place for place, word in enumerate(words) if "=" in word or word == "none"), len(words))
    return " ".join(words[:first]), words[first:]


def _amounts(option: str, limits: list[str], known: tuple[str, ...]) -> dict[str, int]:
    """`tokens=5 engine-ms=7` as numbers."""
    amounts = {}
    for word in limits:
        name, _, number = word.partition("=")
        name = name.replace("-", "_")
        if name not in known or not number.isdecimal():
            names = ", ".join(f"{one.replace('_', '-')}=N" for one in known)
            raise Invalid(f"{option}: {word!r} is not understood", code="invalid", param=option, hint=f"say {names}")
        amounts[name] = int(number)
    if not amounts:
        names = ", ".join(f"{one.replace('_', '-')}=N" for one in known)
        raise Invalid(f"{option} names no limit", code="invalid", param=option, hint=f"say {names}, or none to lift it")
    return amounts
