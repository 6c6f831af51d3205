"""Tenants, their keys, and what is written about both: plain values, checked when they are made.

Words of labels are kept as words, so that storage needs no nation profile; `keys.KeyRing` turns them into labels.
Whatever is wrong with a field raises Invalid with `param` set to the field's name. Times are milliseconds since 1970.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from allod.core.canonical import MAX_SAFE_INTEGER, JsonValue, canonical_json, check_canonical
from allod.core.digests import is_hex
from allod.core.errors import Invalid
from allod.core.shown_text import is_plain_name
from allod.core.statements.shapes import LAST_MS, MAX_AMOUNT, MAX_TOKENS, is_id

LOCAL = "local"  # the tenant that is there from the first start
ORGANIZATION = "organization"  # stands for all tenants together, where they have a limit in common
ORGANIZATION_MICROS = "organization_micros_per_month"  # the setting that says it; an empty word for no limit
USE_PREFIX, ADMIN_PREFIX = "allod-", "allod-admin-"
MAX_MODEL_QUOTAS = 256
MAX_DETAILS_BYTES = 16384

_is_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}").fullmatch
_is_text = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}").fullmatch
_is_kind = re.compile(r"[a-z_]+(\.[a-z_]+)+").fullmatch


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key or a tenant may use: models by name, tiers up to `clearance`, purposes. None: it does not restrict."""

    models: frozenset[str] | None = None
    clearance: str | None = None
    purposes: frozenset[str] | None = None

    def __post_init__(self) -> None:
        _check_words("models", self.models, at_most=1024)
        _check_words("purposes", self.purposes)
        if self.clearance is not None:
            _check_text("clearance", self.clearance)


@dataclass(frozen=True, slots=True)
class Quota:
    """How fast a tenant may ask. None: no limit. 0 is refused: who may ask nothing is archived, where it is seen."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
            _check_limit(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Budget:
    """How much in a calendar day or month of UTC. `micros` are millionths of the realm's currency."""

    period: str  # "day" or "month"
    tokens: int | None = None
    engine_ms: int | None = None
    millijoules: int | None = None
    micros: int | None = None

    def __post_init__(self) -> None:
        if self.period not in ("day", "month"):
            raise _wrong("period", "must be day or month")
        amounts = {name: getattr(self, name) for name in ("tokens", "engine_ms", "millijoules", "micros")}
        for name, amount in amounts.items():
            _check_limit(name, amount)
        if all(amount is None for amount in amounts.values()):
            raise _wrong("tokens", "must be set, or another amount: a budget without any limits nothing")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who shares the engines. `tier` to `purposes` are the words of its default label; an empty tier is the lowest.

    `weight` is its share when engines are busy (1 to 1000); `priority` 0 goes before 1, which is for batches.
    """

    id: str
    name: str
    created_ms: int
    tier: str = ""
    markings: frozenset[str] = frozenset()
    jurisdictions: frozenset[str] | None = None
    purposes: frozenset[str] | None = None
    scope: Scope = field(default_factory=Scope)
    weight: int = 1
    priority: int = 0
    quota: Quota = field(default_factory=Quota)
    model_quotas: Mapping[str, Quota] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    archived_ms: int | None = None

    def __post_init__(self) -> None:
        _check_id("id", self.id)
        _check_text("name", self.name)
        if self.tier != "":
            _check_text("tier", self.tier)
        _check_words("markings", self.markings)
        _check_words("jurisdictions", self.jurisdictions)
        _check_words("purposes", self.purposes)
        _check_number("weight", self.weight, lowest=1, highest=1000)
        _check_number("priority", self.priority, highest=1)
        _check_words("model_quotas", frozenset(self.model_quotas), at_most=MAX_MODEL_QUOTAS)
        if len({budget.period for budget in self.budgets}) != len(self.budgets):
            raise _wrong("budgets", "must be at most one for each period")
        _check_number("created_ms", self.created_ms)
        _check_time("archived_ms", self.archived_ms)


@dataclass(frozen=True, slots=True)
class Account:
    """A service account: a program of a tenant's that holds keys. `role` is "owner" or "member"."""

    id: str
    tenant_id: str
    name: str
    role: str
    created_ms: int

    def __post_init__(self) -> None:
        _check_id("id", self.id)
        _check_id("tenant_id", self.tenant_id)
        _check_text("name", self.name)
        if self.role not in ("owner", "member"):
            raise _wrong("role", "must be owner or member")
        _check_number("created_ms", self.created_ms)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is kept: its SHA-256 in hexadecimal and its last four characters, never the key itself.

    An admin key belongs to the realm (`tenant_id` None) and is for administration alone; any other to one tenant.
    `last_used_ms` is what the ledger says when a key is read from a store; a store ignores it when one is put.
    """

    id: str
    tenant_id: str | None
    name: str
    digest: str
    hint: str
    created_ms: int
    account_id: str | None = None
    scope: Scope = field(default_factory=Scope)
    is_admin: bool = False
    expires_ms: int | None = None
    revoked_ms: int | None = None
    last_used_ms: int | None = None

    def __post_init__(self) -> None:
        _check_id("id", self.id)
        if (self.tenant_id is None) != self.is_admin:
            raise _wrong("tenant_id", "must be set, but for an admin key, which belongs to no tenant")
        if self.tenant_id is not None:
            _check_id("tenant_id", self.tenant_id)
        if self.account_id is not None:
            _check_id("account_id", self.account_id)
            if self.is_admin:
                raise _wrong("account_id", "must not be set for an admin key")
        _check_text("name", self.name)
        if not is_hex(self.digest):
            raise _wrong("digest", "must be a SHA-256 in hexadecimal")
        if not (isinstance(self.hint, str) and len(self.hint) == 4 and self.hint.isascii() and self.hint.isprintable()):
            raise _wrong("hint", "must be the key's last four characters")
        _check_number("created_ms", self.created_ms)
        for name in ("expires_ms", "revoked_ms", "last_used_ms"):
            _check_time(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of the audit log of administration. `kind` is one of OpenAI's event types, such as `project.created`;
    `actor` is who did it, `details` what a reader needs to see what changed: JSON without secrets."""

    id: str
    at_ms: int
    kind: str
    actor: str
    tenant_id: str | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_id("id", self.id)
        _check_number("at_ms", self.at_ms)
        if not (isinstance(self.kind, str) and len(self.kind) <= 64 and _is_kind(self.kind)):
            raise _wrong("kind", "must be words with dots, such as project.created")
        _check_text("actor", self.actor)
        if self.tenant_id is not None:
            _check_id("tenant_id", self.tenant_id)
        try:
            check_canonical(self.details)
            size = len(canonical_json(self.details))
        except Invalid as error:
            raise _wrong("details", f"must be JSON: {error.message}") from error
        if size > MAX_DETAILS_BYTES:
            raise _wrong("details", f"must not be longer than {MAX_DETAILS_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Charge:
    """What one receipt costs its tenant. `decision` is "permit" or "forbid"; `millijoules` is None where unmetered.

    `tenant_id` is "erased" and `key_id` empty where the receipt no longer tells, its day key being destroyed.
    """

    receipt_id: str
    tenant_id: str
    key_id: str
    model: str
    start_ms: int
    decision: str
    finish: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    engine_ms: int = 0
    millijoules: int | None = None
    micros: int = 0

    def __post_init__(self) -> None:
        if not is_id(self.receipt_id):
            raise _wrong("receipt_id", "must be a receipt's id")
        for name in ("tenant_id", "key_id"):
            if getattr(self, name) != "":
                _check_id(name, getattr(self, name))
        for name in ("model", "finish"):
            if getattr(self, name) != "":
                _check_text(name, getattr(self, name))
        if self.decision not in ("permit", "forbid"):
            raise _wrong("decision", "must be permit or forbid")
        _check_number("start_ms", self.start_ms, highest=LAST_MS)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            _check_number(name, getattr(self, name), highest=MAX_TOKENS)
        for name in ("engine_ms", "micros"):
            _check_number(name, getattr(self, name), highest=MAX_AMOUNT)
        if self.millijoules is not None:
            _check_number("millijoules", self.millijoules, highest=MAX_AMOUNT)


def new_id(prefix: str, random: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """`prefix` (`proj_`, `svc_acct_`, `key_`, `audit_log-`) and 24 hexadecimal digits."""
    return prefix + random(12).hex()


def new_api_key(prefix: str, random: Callable[[int], str] = secrets.token_urlsafe) -> tuple[str, str, str]:
    """A key that is to be shown once, its digest and its hint. `random(32)` is 32 bytes as 43 characters."""
    secret = prefix + random(32)
    return secret, api_key_digest(secret), secret[-4:]


def api_key_digest(secret: str) -> str:
    """Hexadecimal SHA-256 of a key, for any text that a header may hold."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_name(name: str) -> str:
    """The name that somebody gives now, if a reader sees all of it. Raises Invalid.

    No field's check, so that what was named before the rule can still be read, listed and ended.
    """
    if not is_plain_name(name) or not name.strip():
        raise Invalid("name must be text that can be seen, without control characters", param="name")
    return name


def organization(word: str | None) -> Tenant | None:
    """All tenants as one, with the monthly budget that the setting `ORGANIZATION_MICROS` says; None without a limit."""
    if not word:
        return None
    return Tenant(ORGANIZATION, "All tenants", created_ms=0, budgets=(Budget("month", micros=int(word)),))


def local_tenant(now_ms: int) -> Tenant:
    """The tenant of whoever holds the realm's own key: nothing limits it but policy."""
    return Tenant(id=LOCAL, name="This machine", created_ms=now_ms)


def _wrong(param: str, must: str, hint: str | None = None) -> Invalid:
    return Invalid(f"{param} {must}", code="invalid", param=param, hint=hint)


def _check_id(param: str, value: object) -> None:
    if not (isinstance(value, str) and _is_id(value)):
        raise _wrong(param, "must be 1 to 64 letters, digits, _ and -")


def _check_text(param: str, value: object) -> None:
    if not (isinstance(value, str) and _is_text(value)):
        raise _wrong(param, "must be 1 to 256 printable characters")


def _check_words(param: str, words: frozenset[str] | None, *, at_most: int = 64) -> None:
    if words is None:
        return
    if not isinstance(words, frozenset) or len(words) > at_most:
        raise _wrong(param, f"must be a set of at most {at_most} words")
    for word in words:
        _check_text(param, word)


def _check_number(param: str, value: object, *, lowest: int = 0, highest: int = MAX_SAFE_INTEGER) -> None:
    if type(value) is not int or not lowest <= value <= highest:  # True is an int to isinstance
        raise _wrong(param, f"must be a whole number from {lowest} to {highest}")


def _check_time(param: str, value: object) -> None:
    if value is not None:
        _check_number(param, value)


def _check_limit(param: str, value: object) -> None:
    if value == 0:
        raise _wrong(
            param,
            "must not be 0",
            "leave it out for no limit; to allow nothing, archive the tenant or revoke the key",
        )
    if value is not None:
        _check_number(param, value, lowest=1)
