"""`allod tenant add`, `list`, `show`, `set`, `archive`, `recount`: who shares the engines, and how much of them.

They change the realm's store, whether a gateway runs or not; one that runs here has it in force when they return,
another within a second.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace

from allod.app.gateway.meter import recount
from allod.app.gateway.open_store import open_store
from allod.app.home import load_settings, now_ms
from allod.cli.running import dated_ms, take_up_news
from allod.cli.tenant_words import QUOTA_UNITS, add_changes, changed, plain, terms_of
from allod.core.canonical import JsonValue
from allod.core.errors import Invalid, Unavailable
from allod.core.nations.nation import Nation
from allod.govern.metering.windows import BUDGET_UNITS, bounds_of, windows_at
from allod.govern.tenancy.store import TenantStore, Totals
from allod.govern.tenancy.tenants import LOCAL, Budget, Event, Tenant, new_id
from allod.settings.files import load_nation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
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


def run(words: argparse.Namespace) -> int:
    """One of the parts."""
    settings = load_settings()
    nation = load_nation(settings.realm.nation, home=settings.home)
    with closing(open_store(settings)) as store:
        if words.part == "list":
            _list(store, words)
            return 0
        if words.part == "recount":
            with the_log_to_itself():
                num_receipts = recount(settings, store)
            print(json.dumps({"receipts": num_receipts}) if words.json else f"{num_receipts} receipts counted")
            return 0
        if words.part == "add":
            tenant = Tenant(new_id("proj_"), words.name, created_ms=dated_ms(settings))
            tenant = changed(tenant, vars(words), nation)
            store.put_tenant(tenant, _created(tenant, nation))
        else:
            tenant = find_tenant(store, words.tenant)
        if words.part == "set":
            dated_ms(settings)
            tenant = _put_changed(store, tenant, changed(tenant, vars(words), nation), nation)
        elif words.part == "archive":
            tenant = _archive(store, tenant)
        if words.part != "show":
            take_up_news(settings)
        _show(store, tenant, as_json=words.json)
    return 0


def find_tenant(store: TenantStore, word: str) -> Tenant:
    """The tenant of that id, or else of that name. Raises Invalid where there is none, or more than one."""
    every = list(tenants_of(store, include_archived=True))
    found = [one for one in every if one.id == word] or [one for one in every if one.name == word]
    current = [one for one in found if one.archived_ms is None] or found
    if len(current) == 1:
        return current[0]
    if current:
        ids = ", ".join(one.id for one in current)
        raise Invalid(f"{len(current)} tenants are called {word!r}", code="ambiguous", hint=f"say which: {ids}")
    raise Invalid(
        f"there is no tenant {word!r}", code="not_found", hint="`allod tenant list --all` shows all there are"
    )


def tenants_of(store: TenantStore, *, include_archived: bool = False) -> Iterator[Tenant]:
    """All tenants, page by page."""
    after = ""
    while page := store.tenants(after=after, limit=1000, include_archived=include_archived):
        yield from page
        after = page[-1].id


def check_active(tenant: Tenant) -> None:
    """Raise Invalid (`archived`) for a tenant that has ended."""
    if tenant.archived_ms is not None:
        raise Invalid(f"{tenant.name!r} is archived", code="archived", hint="`allod tenant add` makes a new one")


@contextmanager
def the_log_to_itself() -> Iterator[None]:
    """What is done inside needs the receipts' log: where another process has it, the error says whose that is."""
    try:
        yield
    except Unavailable as error:
        if error.code == "log_locked":
            error.hint = "stop the gateway (`allod up`) first: while it runs, the log is its"
        raise


def _created(tenant: Tenant, nation: Nation) -> Event:
    data: dict[str, JsonValue] = {"name": tenant.name, "title": tenant.name, "allod": terms_of(tenant, nation)}
    return event("project.created", tenant.id, tenant.id, data=data)


def _put_changed(store: TenantStore, old: Tenant, new: Tenant, nation: Nation) -> Tenant:
    check_active(old)
    before, after = terms_of(old, nation), terms_of(new, nation)
    terms = {name: value for name, value in after.items() if value != before[name]}
    changes: dict[str, JsonValue] = {} if new.name == old.name else {"title": new.name}
    if terms:
        changes["allod"] = terms
    if new == old:
        raise Invalid("nothing was to be changed", code="invalid", hint="`allod tenant set --help` shows what can be")
    store.put_tenant(new, event("project.updated", new.id, new.id, changes_requested=changes))
    return new


def _archive(store: TenantStore, tenant: Tenant) -> Tenant:
    if tenant.id == LOCAL:
        raise Invalid(
            "the local tenant cannot be archived: the realm's own key is its",
            code="invalid",
            hint="`allod tenant set local` can limit it",
        )
    if tenant.archived_ms is None:
        tenant = replace(tenant, archived_ms=now_ms())
        store.put_tenant(tenant, event("project.archived", tenant.id, tenant.id))
    return tenant


def _list(store: TenantStore, words: argparse.Namespace) -> None:
    tenants = list(tenants_of(store, include_archived=words.all))
    if words.json:
        print(json.dumps([plain(asdict(tenant)) for tenant in tenants]))
        return
    for one in tenants:
        limits = "; ".join([*_told_quotas(one), *(_told_budget(budget) for budget in one.budgets)]) or "no limits"
        ended = "  (archived)" if one.archived_ms is not None else ""
        print(f"{one.id:30} {one.name:24} weight {one.weight:<4} {limits}{ended}")


def _show(store: TenantStore, tenant: Tenant, *, as_json: bool) -> None:
    used = {period: _used(store, tenant, period) for period in ("day", "month")}
    if as_json:
        print(
            json.dumps({**plain(asdict(tenant)), "used": {period: asdict(totals) for period, totals in used.items()}})
        )
        return
    print(f"{tenant.id}  {tenant.name}" + ("  (archived)" if tenant.archived_ms is not None else ""))
    print(
        f"label     {tenant.tier or 'the lowest tier'}; markings {told(tenant.markings) if tenant.markings else 'none'}"
    )
    print(f"          places {told(tenant.jurisdictions)}; purposes {told(tenant.purposes)}")
    print(f"may use   models {told(tenant.scope.models)}; up to {tenant.scope.clearance or 'any tier'}")
    print(f"share     weight {tenant.weight}, priority {tenant.priority}")
    print(f"quota     {'; '.join(_told_quotas(tenant)) or 'none'}")
    for budget in tenant.budgets:
        print(f"budget    {_told_budget(budget)}")
    for period, totals in used.items():
        tokens = totals.prompt_tokens + totals.completion_tokens
        energy = f", {totals.millijoules} mJ" + (" and more that nobody measured" if totals.unmetered else "")
        print(
            f"{'today' if period == 'day' else 'month':9} {totals.requests} requests, {totals.refused} refused, "
            f"{tokens} tokens, {totals.engine_ms} ms of engines{energy}, {totals.micros} micros"
        )


def _used(store: TenantStore, tenant: Tenant, period: str) -> Totals:
    since_ms, until_ms = bounds_of("day" if period == "day" else "month", getattr(windows_at(now_ms()), period))
    return store.used(tenant_id=tenant.id, since_ms=since_ms, until_ms=until_ms)


def _told_quotas(tenant: Tenant) -> Iterator[str]:
    for model, quota in (("", tenant.quota), *sorted(tenant.model_quotas.items())):
        limits = [
            f"{getattr(quota, unit)} {unit.replace('_', ' ')}"
            for unit in QUOTA_UNITS
            if getattr(quota, unit) is not None
        ]
        if limits:
            yield (f"{model}: " if model else "") + ", ".join(limits)


def _told_budget(budget: Budget) -> str:
    limits = [f"{getattr(budget, unit)} {unit}" for unit in BUDGET_UNITS if getattr(budget, unit) is not None]
    return f"{', '.join(limits)} a {budget.period}"


def told(words: frozenset[str] | None) -> str:
    """A restriction as text."""
    return "any" if words is None else ", ".join(sorted(words)) or "none"


def event(kind: str, tenant_id: str | None, about: str, **details: JsonValue) -> Event:
    """A line of the audit log, by the account that runs this: what it is about, and what changed of that.

    Its details have the shape of those that the HTTP interface writes, so that one search finds both.
    """
    try:
        account = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        account = str(os.getuid())
    return Event(new_id("audit_log-"), now_ms(), kind, f"cli:{account}", tenant_id, {"id": about, **details})
