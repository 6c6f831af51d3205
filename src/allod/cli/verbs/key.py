"""`allod key add`, `list`, `rotate`, `revoke`: the keys by which tenants are known; a key is shown once."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from allod.app.administration.tenants import check_active, find_tenant, list_tenants
from allod.app.administration.terms import change_scope, show_scope
from allod.app.gateway.open_store import open_store
from allod.app.home import Home, load_settings
from allod.cli.officer import account_here
from allod.cli.running import dated_ms, take_up_news
from allod.cli.tenant_words import plain, told, word_or_any, words_or_any
from allod.core.canonical import JsonValue
from allod.core.errors import Invalid
from allod.core.times import now_ms
from allod.govern.tenancy.keys import MAX_GRACE_S, check_not_last_admin, read_or_make_key, rotated
from allod.govern.tenancy.officer import Officer
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import (
    ADMIN_PREFIX,
    LOCAL,
    USE_PREFIX,
    Key,
    Scope,
    Tenant,
    api_key_digest,
    checked_name,
    new_api_key,
    new_id,
)
from allod.settings.files import load_nation
from allod.settings.tree import Settings

UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
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


def run(words: argparse.Namespace) -> int:
    """One of the parts."""
    settings = load_settings()
    with closing(open_store(settings)) as store:
        if words.part == "list":
            _list(store, words)
        elif words.part == "revoke":
            _revoke(store, settings, words)
        else:
            make = _added if words.part == "add" else _rotated
            key, secret = make(store, settings, words)
            take_up_news(settings)
            _hand_over(key, secret, as_json=words.json)
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


def keys_of(store: TenantStore, tenant_id: str | None) -> Iterator[Key]:
    """The tenant's keys, revoked ones too, page by page; None for the realm's admin keys."""
    after = ""
    while page := store.keys(tenant_id=tenant_id, after=after, limit=1000):
        yield from page
        after = page[-1].id


def find_key(store: TenantStore, key_id: str) -> Key:
    """The key of that id. Raises Invalid (`not_found`)."""
    try:
        return store.key(key_id)
    except Invalid as error:
        error.hint = "`allod key list` shows their ids"
        raise


def file_of(key: Key, settings: Settings) -> Path | None:
    """The file of this realm that holds the key: `local.key`, `admin.key`, or none."""
    home = Home(settings.home)
    file, prefix = (home.admin_key, ADMIN_PREFIX) if key.is_admin else (home.local_key, USE_PREFIX)
    return file if api_key_digest(read_or_make_key(file, prefix)) == key.digest else None


def _added(store: TenantStore, settings: Settings, words: argparse.Namespace) -> tuple[Key, str]:
    tenant = find_tenant(store, words.tenant)
    check_active(tenant)
    said = {"models": words.models, "clearance": words.clearance, "purposes": words.purposes}
    scope = change_scope(Scope(), said, load_nation(settings.realm.nation, home=settings.home))
    if words.expires == 0:
        raise Invalid("a key that ends at once opens nothing", code="invalid", param="--expires", hint="say 30d")
    secret, digest, hint = new_api_key(USE_PREFIX)
    made_ms = dated_ms(settings)
    key = Key(
        id=new_id("key_"),
        tenant_id=tenant.id,
        name=checked_name(words.name),
        digest=digest,
        hint=hint,
        created_ms=made_ms,
        scope=scope,
        expires_ms=None if words.expires is None else made_ms + words.expires,
    )
    event = Officer(account_here(), made_ms).event("api_key.created", tenant.id, id=key.id, data=_told_terms(key))
    store.put_key(key, event)
    return key, secret


def _rotated(store: TenantStore, settings: Settings, words: argparse.Namespace) -> tuple[Key, str]:
    """A key that opens what the old one does, for as long again; the old one ends after the overlap."""
    old, time_ms = find_key(store, words.key), dated_ms(settings)
    _refuse_own(old, settings)
    if old.tenant_id is not None:
        check_active(store.tenant(old.tenant_id))
    try:
        rotation = rotated(old, time_ms, words.overlap / 1000)
    except Invalid as error:
        error.hint = "`allod key add` makes a new one"
        raise
    new, ending = rotation.successor, rotation.key
    officer = Officer(account_here(), time_ms)
    terms = _told_terms(new)
    created = officer.event("api_key.created", new.tenant_id, id=new.id, data=terms, in_place_of=old.id)
    left_s = ((ending.expires_ms or time_ms) - time_ms) // 1000
    ended = officer.event("api_key.updated", old.tenant_id, id=old.id, changes_requested={"expires_in_seconds": left_s})
    store.put_key(new, created)
    store.put_key(ending, ended)
    return new, rotation.secret


def _revoke(store: TenantStore, settings: Settings, words: argparse.Namespace) -> None:
    key = find_key(store, words.key)
    if key.revoked_ms is None:
        _refuse_own(key, settings)
        if key.is_admin:
            check_not_last_admin(key, keys_of(store, None))
        officer = Officer(account_here(), now_ms())
        key = replace(key, revoked_ms=officer.now_ms)
        store.put_key(key, officer.event("api_key.deleted", key.tenant_id, id=key.id))
    take_up_news(settings)
    print(json.dumps(_shown(key)) if words.json else f"{key.id} opens nothing any more")


def _refuse_own(key: Key, settings: Settings) -> None:
    """The realm's own keys lie in files, which would hold dead ones from then on."""
    file = file_of(key, settings)
    if file is not None:
        raise Invalid(
            f"{key.id} is the key in {file.name} of ALLOD_HOME",
            code="key_in_use",
            hint="remove the file and start the gateway again: a new key is made, and this one ends",
        )


def _hand_over(key: Key, secret: str, *, as_json: bool) -> None:
    """The key on standard output, alone; what to know of it beside."""
    if as_json:
        print(json.dumps({**_shown(key), "key": secret}))
        return
    ends = "" if key.expires_ms is None else f", until {_day(key.expires_ms)}"
    print(f"{key.id}{ends}; the key is shown this once:", file=sys.stderr, flush=True)
    print(secret)


def _list(store: TenantStore, words: argparse.Namespace) -> None:
    time_ms = now_ms()
    owners: list[Tenant | None] = [find_tenant(store, words.tenant)] if words.tenant else [None]
    if not words.tenant:
        owners += list_tenants(store, include_archived=True)
    found = [(key, owner) for owner in owners for key in keys_of(store, None if owner is None else owner.id)]
    shown = [(key, why) for key, owner in found if not (why := _why_not(key, owner, time_ms)) or words.all]
    if words.json:
        print(json.dumps([{**_shown(key), "ended": why or None} for key, why in shown]))
        return
    for key, why in shown:
        print(_line(key, why))


def _line(key: Key, why_not: str) -> str:
    used = "never used" if key.last_used_ms is None else f"used {_day(key.last_used_ms)}"
    ends = why_not or ("" if key.expires_ms is None else f"until {_day(key.expires_ms)}")
    scope = f"models {told(key.scope.models)}, up to {key.scope.clearance or 'any tier'}"
    owner = key.tenant_id or "(administration)"
    first = f"{key.id:28} {owner:30} ...{key.hint} {key.name:16} {scope}"
    return "; ".join(part for part in (first, f"purposes {told(key.scope.purposes)}", used, ends) if part)


def _why_not(key: Key, owner: Tenant | None, time_ms: int) -> str:
    """Why it opens nothing; empty where it opens."""
    if key.revoked_ms is not None:
        return "revoked"
    if owner is not None and owner.archived_ms is not None:
        return "archived"
    return "expired" if key.expires_ms is not None and key.expires_ms <= time_ms else ""


def _told_terms(key: Key) -> dict[str, JsonValue]:
    """What the audit log says of a new key, in the shape that the HTTP interface gives it."""
    if key.is_admin:
        return {"allod": {"admin": True}}
    return {"allod": {"scope": show_scope(key.scope)}}


def _shown(key: Key) -> dict[str, JsonValue]:
    """What may be known of a key."""
    shown = plain(asdict(key))
    del shown["digest"]
    return shown


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
