"""Who is asking: the keys that open this gateway, held in memory and refreshed from the store.

Only digests are held. A key is 256 random bits, looked up by its SHA-256 in a dictionary: how long that takes can at
most tell how the digest of some key begins, and neither a part of a digest nor the whole of it leads to a key. So
nothing is gained by comparing with every key in constant time, which 10,000 keys would not allow, nor by a slow hash.

Nobody is let in on news from the store that is older than `MAX_NEWS_AGE_S`: a key that was revoked on another machine
works at most that much longer, and while the store is gone no key works.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.files.secret import write_secret_once
from allod.core.labels import Label, Tier
from allod.core.nations.nation import Nation
from allod.govern.tenancy.store import Changes, TenantStore
from allod.govern.tenancy.tenants import (
    ADMIN_PREFIX,
    USE_PREFIX,
    Key,
    Scope,
    Tenant,
    api_key_digest,
    new_api_key,
    new_id,
)

MAX_NEWS_AGE_S = 1.0
MAX_GRACE_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant by one of its keys. `scope` is what both allow, `clearance` the highest tier of that; `label` is what a
    request carries that declares nothing: the tenant's default label, for the scope's purposes only."""

    tenant: Tenant
    key: Key
    scope: Scope
    clearance: Tier
    label: Label


class Rotation(NamedTuple):
    """A key's successor, whose `secret` is to be shown once, and the key itself, which now ends by itself."""

    secret: str
    successor: Key
    key: Key


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key with its caller, or with why it opens nothing, or with what is wrong with labels that should be its own."""

    key: Key
    caller: Caller | None = None
    why_not: str | None = None
    trouble: str | None = None


class _Book:
    """All keys as of one version of the store. A change is applied to what it touches and to nothing else."""

    def __init__(self, nation: Nation) -> None:
        self.version = 0
        self.entries: dict[str, _Entry] = {}  # by digest
        self._nation = nation
        self._tenants: dict[str | None, Tenant] = {}
        self._keys: dict[str, Key] = {}
        self._keys_of: dict[str | None, set[str]] = defaultdict(set)

    def apply(self, changes: Changes) -> None:
        for tenant in changes.tenants:
            self._tenants[tenant.id] = tenant
        for key in changes.keys:
            old = self._keys.get(key.id)
            if old is not None and old.digest != key.digest:
                self.entries.pop(old.digest, None)
            self._keys[key.id] = key
            self._keys_of[key.tenant_id].add(key.id)
        touched = {key.id for key in changes.keys}.union(*(self._keys_of[tenant.id] for tenant in changes.tenants))
        for key_id in touched:
            key = self._keys[key_id]
            self.entries[key.digest] = self._entry(key)
        self.version = changes.version

    def tenant_ids(self) -> list[str]:
        return [tenant.id for tenant in list(self._tenants.values()) if tenant.archived_ms is None]

    def _entry(self, key: Key) -> _Entry:
        tenant = self._tenants.get(key.tenant_id)
        if key.revoked_ms is not None:
            return _Entry(key, why_not="it is revoked")
        if key.is_admin:
            return _Entry(key)
        if tenant is None or tenant.archived_ms is not None:
            return _Entry(key, why_not=f"its tenant {key.tenant_id} is archived or unknown")
        try:
            return _Entry(key, caller_for(tenant, key, self._nation))
        except Invalid as error:  # of this tenant alone: the others' keys go on working
            return _Entry(key, trouble=f"tenant {tenant.id}, key {key.id}: {error.message}")


class KeyRing:
    """The keys that open this gateway. Reading is free of locks; `apply` is for one thread at a time."""

    def __init__(self, nation: Nation, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._nation = nation
        self._monotonic_s = monotonic_s
        self._book = _Book(nation)
        self._news_s = float("-inf")
        self._refreshing = Lock()
        self._latest_ms = 0  # the highest time seen: a clock that is set back must not revive what expired

    @property
    def version(self) -> int:
        """The version of the store that this is."""
        return self._book.version

    @property
    def tenant_ids(self) -> list[str]:
        """Of the tenants that are not archived."""
        return self._book.tenant_ids()

    def refresh(self, store: TenantStore) -> None:
        """Ask the store what changed and apply it. Blocks; raises what the store raises, and then nothing changed."""
        with self._refreshing:
            asked_s = self._monotonic_s()
            self.apply(store.changes_since(self.version), asked_s)

    def apply(self, changes: Changes, asked_s: float) -> None:
        """Take up the answer to what was asked at `asked_s`, by the ring's monotonic clock: its news is that old."""
        if changes.is_everything:
            book = _Book(self._nation)
            book.apply(changes)
            self._book = book
        elif changes.version != self.version:
            self._book.apply(changes)
        self._news_s = asked_s

    def caller_of(self, presented: str, now_ms: int) -> Caller:
        """Who uses this key. Raises Denied (`invalid_api_key`; `wrong_kind_of_key` for a valid admin key), and
        Unavailable (`tenants_unavailable`) when the ring is too old to say, or the nation lacks the tenant's words."""
        entry = self._valid(presented, now_ms)
        if entry.key.is_admin:
            raise _wrong_kind("an admin key is for administration alone", "make a key for use in one of the tenants")
        if entry.caller is None:
            raise Unavailable(
                f"this realm's nation does not know the labels of {entry.trouble}",
                code="tenants_unavailable",
                hint="correct the tenant's or the key's words, or the nation's profile",
            )
        return entry.caller

    def administrator_of(self, presented: str, now_ms: int) -> Key:
        """The admin key. Raises as `caller_of` does, `wrong_kind_of_key` for a valid key for use."""
        entry = self._valid(presented, now_ms)
        if not entry.key.is_admin:
            raise _wrong_kind("this is a key for use", "the first admin key is in the file `admin.key` of ALLOD_HOME")
        return entry.key

    def check_news(self) -> None:
        """Raise Unavailable (`tenants_unavailable`) when the ring is too old for any key to be checked."""
        if self._monotonic_s() - self._news_s > MAX_NEWS_AGE_S:
            raise Unavailable(
                "the tenants' database does not answer, so no key can be checked",
                code="tenants_unavailable",
                retry_after_s=1,
            )

    def _valid(self, presented: str, now_ms: int) -> _Entry:
        self.check_news()
        self._latest_ms = max(self._latest_ms, now_ms)
        entry = self._book.entries.get(api_key_digest(presented))
        if entry is None:
            raise _invalid("no such key")
        if entry.why_not is not None:
            raise _invalid(f"{entry.key.id}: {entry.why_not}")
        if entry.key.expires_ms is not None and entry.key.expires_ms <= self._latest_ms:
            raise _invalid(f"{entry.key.id}: it has expired")
        return entry


def rotate(key: Key, now_ms: int, grace_s: float, *, random: Callable[[int], str] = secrets.token_urlsafe) -> Rotation:
    """A successor that is made to last as long as `key` was, and `key` ending after `grace_s` if not before.

    Put the successor first: whatever happens between the two, one of them works. Raises Invalid for a key that has
    ended (`key_ended`), and for a `grace_s` below nought or above 30 days.
    """
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise Invalid(f"grace_s must be from 0 to {MAX_GRACE_S}", param="grace_s")
    if key.revoked_ms is not None or (key.expires_ms is not None and key.expires_ms <= now_ms):
        raise Invalid("this key has ended: make a new one", code="key_ended", param="key_id")
    secret, digest, hint = new_api_key(ADMIN_PREFIX if key.is_admin else USE_PREFIX, random)
    successor = replace(
        key,
        id=new_id("key_"),
        digest=digest,
        hint=hint,
        created_ms=now_ms,
        expires_ms=None if key.expires_ms is None else now_ms + key.expires_ms - key.created_ms,
        last_used_ms=None,
    )
    ends_ms = now_ms + round(grace_s * 1000)
    return Rotation(secret, successor, replace(key, expires_ms=min(ends_ms, key.expires_ms or ends_ms)))


def read_or_make_key(path: Path, prefix: str = USE_PREFIX) -> str:
    """The key in `path`, made on first use: `USE_PREFIX` for the local key, `ADMIN_PREFIX` for the first admin key.

    Raises Invalid when others than its owner can read it, or when it is no such key.
    """
    if not path.exists():
        secret, _, _ = new_api_key(prefix)
        write_secret_once(path, f"{secret}\n".encode())
    return _read(path, prefix)


def _read(path: Path, prefix: str) -> str:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise Invalid(
            f"{path} must be a file that only its owner can read", code="key_permissions", hint=f"chmod 600 {path}"
        )
    key = path.read_bytes().decode("ascii", "replace").strip()
    if re.fullmatch(re.escape(prefix) + "[A-Za-z0-9_-]{43}", key) is None:
        raise Invalid(f"{path} holds no key of this realm", code="key_malformed", hint="remove it to have one made")
    return key


def default_label(tenant: Tenant, nation: Nation) -> Label:
    """What the tenant's requests carry that declare nothing. Raises Invalid for words the nation lacks."""
    return nation.label(
        tenant.tier, markings=tenant.markings, purposes=tenant.purposes, jurisdictions=tenant.jurisdictions
    )


def check_not_last_admin(key: Key, admin_keys: Iterable[Key]) -> None:
    """Raise Invalid (`last_admin_key`) if without `key` none of these would be left that lasts: who could make one?"""
    if not any(other.id != key.id and other.revoked_ms is None and other.expires_ms is None for other in admin_keys):
        raise Invalid(
            "this is the last admin key that does not expire",
            code="last_admin_key",
            hint="make another admin key without an expiry first",
        )


def caller_for(tenant: Tenant, key: Key, nation: Nation) -> Caller:
    """Who asks with this key, whether or not it opens anything now. Raises Invalid for words the nation lacks."""
    default = default_label(tenant, nation)
    clearances = [
        nation.label(scope.clearance).tier for scope in (tenant.scope, key.scope) if scope.clearance is not None
    ]
    clearance = min(clearances, key=lambda tier: tier.rank, default=nation.tiers[-1])
    scope = Scope(
        models=_both(tenant.scope.models, key.scope.models),
        clearance=clearance.name if clearances else None,
        purposes=_both(tenant.scope.purposes, key.scope.purposes),
    )
    return Caller(tenant, key, scope, clearance, default.join(nation.label(purposes=scope.purposes)))


def _both(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    if left is None:
        return right
    return left if right is None else left & right


def _invalid(reason: str) -> Denied:
    """One message for every reason, so that a guess learns nothing; the reason is a note, which no answer shows."""
    denied = Denied(
        "a valid API key is required",
        code="invalid_api_key",
        hint="send `Authorization: Bearer <key>`; the local key is in the file `local.key` of ALLOD_HOME",
    )
    denied.add_note(reason)
    return denied


def _wrong_kind(message: str, hint: str) -> Denied:
    return Denied(message, code="wrong_kind_of_key", hint=hint)
