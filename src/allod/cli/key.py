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
from typing import Any

from allod.app.home import load_settings, now_ms
from allod.app.tenants import open_store
from allod.cli.tenant import event, find_tenant, plain, told
from allod.cli.tenant_words import check_scope, word_or_any, words_or_any
from allod.core.errors import Invalid
from allod.govern.store import TenantStore
from allod.govern.tenants import ADMIN_PREFIX, LOCAL, USE_PREFIX, Key, Scope, Tenant, new_api_key, new_id
from allod.settings import load_nation

HELP = "the keys by which tenants are known"

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
    rotating.add_argument("--overlap", type=length_ms, metavar="24h", default="24h", help="for how long (24h)")
    revoking = parts.add_parser("revoke", help="end a key at once")
    for part in (rotating, revoking):
        part.add_argument("key", metavar="KEY", help="its id, as in `allod key list`")
    for part in (adding, listing, rotating, revoking):
        part.add_argument("--json", action="store_true")


def run(words: argparse.Namespace) -> int:
    """One of the parts."""
    with closing(open_store(load_settings())) as store:
        if words.part == "list":
            _list(store, words)
        elif words.part == "revoke":
            _revoke(store, words)
        else:
            key, secret = _added(store, words) if words.part == "add" else _rotated(store, words)
            _hand_over(key, secret, as_json=words.json)
    return 0


def length_ms(text: str) -> int:
    """`30d` in milliseconds. Raises ArgumentTypeError."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError("say a number and m, h, d or w, such as 30d")
    return int(found[1]) * UNITS_MS[found[2]]


def _added(store: TenantStore, words: argparse.Namespace) -> tuple[Key, str]:
    settings = load_settings()
    tenant = find_tenant(store, words.tenant)
    if tenant.archived_ms is not None:
        raise Invalid(f"{tenant.name!r} is archived", code="archived", hint="`allod tenant add` makes a new one")
    scope = Scope(words.models, words.clearance, words.purposes)
    check_scope(scope, load_nation(settings.realm.nation, home=settings.home))
    if words.expires == 0:
        raise Invalid("a key that ends at once opens nothing", code="invalid", param="--expires", hint="say 30d")
    secret, digest, hint = new_api_key(USE_PREFIX)
    made_ms = now_ms()
    key = Key(
        id=new_id("key_"),
        tenant_id=tenant.id,
        name=words.name,
        digest=digest,
        hint=hint,
        created_ms=made_ms,
        scope=scope,
        expires_ms=None if words.expires is None else made_ms + words.expires,
    )
    store.put_key(key, event("api_key.created", tenant.id, _shown(key)))
    return key, secret


def _rotated(store: TenantStore, words: argparse.Namespace) -> tuple[Key, str]:
    """A key that opens what the old one does, for as long again; the old one ends after the overlap."""
    old, time_ms = _find_key(store, words.key), now_ms()
    if _state(old, time_ms):
        raise Invalid(f"{old.id} is {_state(old, time_ms)}", code="key_ended", hint="`allod key add` makes a new one")
    secret, digest, hint = new_api_key(ADMIN_PREFIX if old.is_admin else USE_PREFIX)
    lasts_ms = None if old.expires_ms is None else old.expires_ms - old.created_ms
    new = replace(
        old,
        id=new_id("key_"),
        digest=digest,
        hint=hint,
        created_ms=time_ms,
        expires_ms=None if lasts_ms is None else time_ms + lasts_ms,
        last_used_ms=None,
    )
    until_ms = min(time_ms + words.overlap, time_ms + words.overlap if old.expires_ms is None else old.expires_ms)
    store.put_key(new, event("api_key.created", new.tenant_id, {**_shown(new), "in_place_of": old.id}))
    store.put_key(
        replace(old, expires_ms=until_ms),
        event("api_key.updated", old.tenant_id, {"id": old.id, "expires_ms": until_ms}),
    )
    return new, secret


def _revoke(store: TenantStore, words: argparse.Namespace) -> None:
    key = _find_key(store, words.key)
    if key.revoked_ms is None:
        key = replace(key, revoked_ms=now_ms())
        store.put_key(key, event("api_key.deleted", key.tenant_id, {"id": key.id}))
    print(json.dumps(_shown(key)) if words.json else f"{key.id} opens nothing any more")


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
    keys = _keys_of(store, find_tenant(store, words.tenant)) if words.tenant else store.changes_since(0).keys
    shown = [key for key in keys if words.all or not _state(key, time_ms)]
    if words.json:
        print(json.dumps([_shown(key) for key in shown]))
        return
    for key in shown:
        used = "never used" if key.last_used_ms is None else f"used {_day(key.last_used_ms)}"
        ends = _state(key, time_ms) or ("" if key.expires_ms is None else f"until {_day(key.expires_ms)}")
        scope = f"models {told(key.scope.models)}, up to {key.scope.clearance or 'any tier'}"
        purposes = f"purposes {told(key.scope.purposes)}"
        owner = key.tenant_id or "(administration)"
        parts = [f"{key.id:28} {owner:30} ...{key.hint} {key.name:16} {scope}", purposes, used, ends]
        print("; ".join(part for part in parts if part))


def _keys_of(store: TenantStore, tenant: Tenant) -> Iterator[Key]:
    after = ""
    while page := store.keys(tenant_id=tenant.id, after=after, limit=1000):
        yield from page
        after = page[-1].id


def _find_key(store: TenantStore, key_id: str) -> Key:
    try:
        return store.key(key_id)
    except Invalid as error:
        error.hint = "`allod key list` shows their ids"
        raise


def _state(key: Key, time_ms: int) -> str:
    """Why it opens nothing; empty where it opens."""
    if key.revoked_ms is not None:
        return "revoked"
    return "expired" if key.expires_ms is not None and key.expires_ms <= time_ms else ""


def _shown(key: Key) -> dict[str, Any]:
    """What may be known of a key."""
    shown = plain(asdict(key))
    del shown["digest"]
    return shown


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
