"""`allod key add`, `list`, `rotate`, `revoke`: the keys by which tenants are known; a key is shown once."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import closing
from datetime import UTC, datetime

from allod.app.administration.keys import (
    add_key,
    describe_keys,
    find_file,
    find_key,
    list_keys,
    revoke_key,
    rotate_key,
)
from allod.app.administration.tenants import check_active, find_tenant, list_tenants, seconds_of
from allod.app.administration.terms import Json, change_scope
from allod.app.gateway.open_store import open_store
from allod.app.home import load_settings, nation_of
from allod.cli.json_text import json_text
from allod.cli.officer import officer_of, officer_who_ends
from allod.cli.running import take_up_news
from allod.cli.tenant_arguments import format_restriction, word_or_any, words_or_any
from allod.core.errors import Invalid
from allod.core.times import now_ms
from allod.govern.tenancy.keys import MAX_GRACE_S
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import LOCAL, Key, Scope, Tenant
from allod.settings.tree import Settings

UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    adding = parts.add_parser("add", help="a new key; it is shown once")
    adding.add_argument("tenant", metavar="TENANT", nargs="?", default=LOCAL, help="its id or its name (local)")
    adding.add_argument("--name", default="key", help="what it is for")
    adding.add_argument("--models", type=words_or_any, metavar="A,B", help="the only models that it opens")
    adding.add_argument("--clearance", type=word_or_any, metavar="TIER", help="the highest tier that it may ask at")
    adding.add_argument("--purposes", type=words_or_any, metavar="A,B", help="the only purposes that it serves")
    adding.add_argument("--expires", type=length_ms, metavar="30d", help="it ends after so many m, h, d or w")
    listing = parts.add_parser("list", help="a tenant's keys, or everybody's; never the keys themselves")
    listing.add_argument("tenant", metavar="TENANT", nargs="?")
    listing.add_argument("--all", action="store_true", help="revoked and expired ones too")
    rotating = parts.add_parser("rotate", help="a new key in an old one's place; for a while both open")
    rotating.add_argument(
        "--overlap", type=_overlap_ms, metavar="24h", default="24h", help="for how long, 30d at most (24h)"
    )
    revoking = parts.add_parser("revoke", help="end a key at once")
    for part in (rotating, revoking):
        part.add_argument("key", metavar="KEY", help="its id, as in `allod key list`")
    for part in (adding, listing, rotating, revoking):
        part.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """One of the parts."""
    settings = load_settings()
    with closing(open_store(settings)) as store:
        if arguments.part == "list":
            _list(store, arguments)
        elif arguments.part == "revoke":
            _revoke(store, settings, arguments)
        else:
            make = _add if arguments.part == "add" else _rotate
            key, secret = make(store, settings, arguments)
            take_up_news(settings)
            _hand_over(store, key, secret, as_json=arguments.json)
    return 0


def length_ms(text: str) -> int:
    """`30d` in milliseconds. Raises ArgumentTypeError."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError("say a number and m, h, d or w, such as 30d")
    return int(found[1]) * UNITS_MS[found[2]]


def _overlap_ms(text: str) -> int:
    found = length_ms(text)
    if found > MAX_GRACE_S * 1000:
        raise argparse.ArgumentTypeError("say 30d at most: two keys for good are two keys (`allod key add`)")
    return found


def _add(store: TenantStore, settings: Settings, arguments: argparse.Namespace) -> tuple[Key, str]:
    tenant = find_tenant(store, arguments.tenant)
    check_active(tenant)
    said = {"models": arguments.models, "clearance": arguments.clearance, "purposes": arguments.purposes}
    scope = change_scope(Scope(), said, nation_of(settings))
    if arguments.expires == 0:
        raise Invalid("a key that ends at once opens nothing", code="invalid", param="--expires", hint="say 30d")
    return add_key(store, officer_of(settings), tenant.id, name=arguments.name, life_ms=arguments.expires, scope=scope)


def _rotate(store: TenantStore, settings: Settings, arguments: argparse.Namespace) -> tuple[Key, str]:
    old, officer = find_key(store, arguments.key), officer_of(settings)
    _refuse_own(old, settings)
    try:
        return rotate_key(store, officer, old, arguments.overlap / 1000)
    except Invalid as error:
        if error.code != "key_ended":
            raise
        raise error.restate(hint="`allod key add` makes a new one") from error


def _revoke(store: TenantStore, settings: Settings, arguments: argparse.Namespace) -> None:
    key = find_key(store, arguments.key)
    if key.revoked_ms is None:
        _refuse_own(key, settings)
        key = revoke_key(store, officer_who_ends(), key)
    take_up_news(settings)
    print(
        json_text(_describe(store, _find_owner(store, key), key))
        if arguments.json
        else f"{key.id} opens nothing any more"
    )


def _refuse_own(key: Key, settings: Settings) -> None:
    """The realm's own keys lie in files, which would hold dead ones from then on."""
    file = find_file(key, settings)
    if file is not None:
        raise Invalid(
            f"{key.id} is the key in {file.name} of ALLOD_HOME",
            code="key_in_use",
            hint="remove the file and start the gateway again: a new key is made, and this one ends",
        )


def _hand_over(store: TenantStore, key: Key, secret: str, *, as_json: bool) -> None:
    """The key on standard output, alone; what to know of it beside."""
    if as_json:
        print(json_text({**_describe(store, _find_owner(store, key), key), "value": secret}))
        return
    ends = "" if key.expires_ms is None else f", until {_day(key.expires_ms)}"
    print(f"{key.id}{ends}; the key is shown this once:", file=sys.stderr, flush=True)
    print(secret)


def _list(store: TenantStore, arguments: argparse.Namespace) -> None:
    time_ms = now_ms()
    owners: list[Tenant | None] = [find_tenant(store, arguments.tenant)] if arguments.tenant else [None]
    if not arguments.tenant:
        owners += list_tenants(store, include_archived=True)
    found = [(owner, key) for owner in owners for key in list_keys(store, None if owner is None else owner.id)]
    listed = [(owner, key, why) for owner, key in found if not (why := _why_not(key, owner, time_ms)) or arguments.all]
    if arguments.json:
        print(json_text([{**_describe(store, owner, key), "ended": why or None} for owner, key, why in listed]))
        return
    for _, key, why in listed:
        print(_line(key, why))


def _line(key: Key, why_not: str) -> str:
    used = "never used" if key.last_used_ms is None else f"used {_day(key.last_used_ms)}"
    ends = why_not or ("" if key.expires_ms is None else f"until {_day(key.expires_ms)}")
    scope = f"models {format_restriction(key.scope.models)}, up to {key.scope.clearance or 'any tier'}"
    owner = key.tenant_id or "(administration)"
    first = f"{key.id:28} {owner:30} ...{key.hint} {key.name:16} {scope}"
    return "; ".join(part for part in (first, f"purposes {format_restriction(key.scope.purposes)}", used, ends) if part)


def _why_not(key: Key, owner: Tenant | None, time_ms: int) -> str:
    """Why it opens nothing; empty where it opens."""
    if key.revoked_ms is not None:
        return "revoked"
    if owner is not None and owner.archived_ms is not None:
        return "archived"
    return "expired" if key.expires_ms is not None and key.expires_ms <= time_ms else ""


def _find_owner(store: TenantStore, key: Key) -> Tenant | None:
    return None if key.tenant_id is None else store.tenant(key.tenant_id)


def _describe(store: TenantStore, owner: Tenant | None, key: Key) -> Json:
    """The key as HTTP shows it; and beside that whose it is, and since when it is revoked."""
    (shown,) = describe_keys(store, owner, [key])
    return {**shown, "project_id": key.tenant_id, "revoked_at": seconds_of(key.revoked_ms)}


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
