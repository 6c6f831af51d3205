"""`allod tenant add`, `list`, `show`, `set`, `archive`, `recount`: who shares the engines, and how much of them.

They change the realm's store, whether a gateway runs or not; one that runs here has it in force when they return,
another within a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

from allod.app.administration.limits import describe_rate_limit
from allod.app.administration.tenants import (
    add_tenant,
    archive_tenant,
    change_tenant,
    describe_tenant,
    find_tenant,
    list_tenants,
)
from allod.app.administration.terms import change_terms
from allod.app.gateway.meter import recount
from allod.app.gateway.open_store import open_store
from allod.app.home import load_settings, nation_of
from allod.cli.json_text import json_text
from allod.cli.officer import officer_of, officer_who_ends
from allod.cli.running import take_up_news, the_log_to_itself
from allod.cli.tenant_arguments import QUOTA_UNITS, add_changes, changes_of, format_restriction
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.core.times import now_ms
from allod.govern.metering.windows import BUDGET_UNITS, bounds_of, windows_at
from allod.govern.tenancy.officer import Officer
from allod.govern.tenancy.store import TenantStore, Totals
from allod.govern.tenancy.tenants import Budget, Tenant
from allod.settings.tree import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    adding = parts.add_parser("add", help="a new tenant", argument_default=argparse.SUPPRESS)
    adding.add_argument("name", metavar="NAME")
    listing = parts.add_parser("list", help="the tenants there are")
    listing.add_argument("--all", action="store_true", help="archived ones too")
    showing = parts.add_parser("show", help="one tenant: its limits, and what it used")
    setting = parts.add_parser("set", help="change what is named, and nothing else", argument_default=argparse.SUPPRESS)
    archiving = parts.add_parser("archive", help="end it: its keys open nothing any more, its receipts stay")
    counting = parts.add_parser("recount", help="make the ledger anew from the log's receipts (no gateway may run)")
    for part in (showing, setting, archiving):
        part.add_argument("tenant", metavar="TENANT", help="its id or its name")
    setting.add_argument("--name", help="another name")
    for part in (adding, setting):
        add_changes(part)
    for part in (adding, listing, showing, setting, archiving, counting):
        part.add_argument("--json", action="store_true", default=False)


def run(arguments: argparse.Namespace) -> int:
    """One of the parts."""
    settings = load_settings()
    nation = nation_of(settings)
    with closing(open_store(settings)) as store:
        if arguments.part == "list":
            _list(store, nation, arguments)
            return 0
        if arguments.part == "recount":
            with the_log_to_itself():
                num_receipts = recount(settings, store)
            print(json_text({"receipts": num_receipts}) if arguments.json else f"{num_receipts} receipts counted")
            return 0
        tenant = _change(store, settings, arguments, nation)
        if arguments.part != "show":
            take_up_news(settings)
        _show(store, tenant, nation, as_json=arguments.json)
    return 0


def _change(store: TenantStore, settings: Settings, arguments: argparse.Namespace, nation: Nation) -> Tenant:
    """The tenant as it is after what was asked for."""
    if arguments.part == "add":
        return add_tenant(store, officer_of(settings), arguments.name, changes_of(vars(arguments)), nation)
    tenant = find_tenant(store, arguments.tenant)
    if arguments.part == "set":
        return _set(store, officer_of(settings), tenant, vars(arguments), nation)
    if arguments.part == "archive" and tenant.archived_ms is None:
        return archive_tenant(store, officer_who_ends(), tenant)
    return tenant


def _set(store: TenantStore, officer: Officer, tenant: Tenant, said: Mapping[str, Any], nation: Nation) -> Tenant:
    name, terms = said.get("name"), changes_of(said)
    if name in (None, tenant.name) and change_terms(tenant, terms, nation) == tenant:
        raise Invalid("nothing was to be changed", code="invalid", hint="`allod tenant set --help` shows what can be")
    return change_tenant(store, officer, tenant, nation, name=name, terms=terms)


def _list(store: TenantStore, nation: Nation, arguments: argparse.Namespace) -> None:
    tenants = list(list_tenants(store, include_archived=arguments.all))
    if arguments.json:
        print(json_text([describe_tenant(tenant, nation) for tenant in tenants]))
        return
    for tenant in tenants:
        limits = (
            "; ".join([*_format_quotas(tenant), *(_format_budget(budget) for budget in tenant.budgets)]) or "no limits"
        )
        ended = "  (archived)" if tenant.archived_ms is not None else ""
        print(f"{tenant.id:30} {tenant.name:24} weight {tenant.weight:<4} {limits}{ended}")


def _show(store: TenantStore, tenant: Tenant, nation: Nation, *, as_json: bool) -> None:
    used = {period: _add_up(store, tenant, period) for period in ("day", "month")}
    if as_json:
        shown_used = {period: asdict(totals) for period, totals in used.items()}
        limits = [describe_rate_limit(tenant, model) for model in sorted(tenant.model_quotas)]
        print(json_text({**describe_tenant(tenant, nation), "rate_limits": limits, "used": shown_used}))
        return
    print(f"{tenant.id}  {tenant.name}" + ("  (archived)" if tenant.archived_ms is not None else ""))
    print(f"label     {tenant.tier or 'the lowest tier'}; markings {format_restriction(tenant.markings)}")
    print(
        f"          places {format_restriction(tenant.jurisdictions)}; purposes {format_restriction(tenant.purposes)}"
    )
    print(f"may use   models {format_restriction(tenant.scope.models)}; up to {tenant.scope.clearance or 'any tier'}")
    print(f"share     weight {tenant.weight}, priority {tenant.priority}")
    print(f"quota     {'; '.join(_format_quotas(tenant)) or 'none'}")
    for budget in tenant.budgets:
        print(f"budget    {_format_budget(budget)}")
    for period, totals in used.items():
        tokens = totals.prompt_tokens + totals.completion_tokens
        energy = f", {totals.millijoules} mJ" + (" and more that nobody measured" if totals.unmetered else "")
        print(
            f"{'today' if period == 'day' else 'month':9} {totals.requests} requests, {totals.refused} refused, "
            f"{tokens} tokens, {totals.engine_ms} ms of engines{energy}, {totals.micros} micros"
        )


def _add_up(store: TenantStore, tenant: Tenant, period: str) -> Totals:
    since_ms, until_ms = bounds_of("day" if period == "day" else "month", getattr(windows_at(now_ms()), period))
    return store.used(tenant_id=tenant.id, since_ms=since_ms, until_ms=until_ms)


def _format_quotas(tenant: Tenant) -> Iterator[str]:
    for model, quota in (("", tenant.quota), *sorted(tenant.model_quotas.items())):
        limits = [
            f"{getattr(quota, unit)} {unit.replace('_', ' ')}"
            for unit in QUOTA_UNITS
            if getattr(quota, unit) is not None
        ]
        if limits:
            yield (f"{model}: " if model else "") + ", ".join(limits)


def _format_budget(budget: Budget) -> str:
    limits = [f"{getattr(budget, unit)} {unit}" for unit in BUDGET_UNITS if getattr(budget, unit) is not None]
    return f"{', '.join(limits)} a {budget.period}"
