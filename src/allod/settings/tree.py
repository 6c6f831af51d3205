"""One frozen tree of settings.

`ALLOD_HOME/allod.toml` is optional; an unknown key or a wrong type in it is an error at start. Command-line arguments
come in as `overrides` and win.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from allod.core.deadlines import Deadlines
from allod.core.errors import Invalid
from allod.core.places import fault_of_place
from allod.core.tables import Complaint, Table
from allod.govern.metering.prices import ModelPrices, Prices
from allod.settings.environment import default_home
from allod.settings.external import ExternalOptions, check_externals
from allod.settings.files import read_toml

MAX_OTHERS = 15  # models beside the first

_Tree = TypeVar("_Tree")
_SECTIONS = ("realm", "server", "model", "external", "tenants", "prices", "deadlines")


@dataclass(frozen=True, slots=True)
class RealmOptions:
    """Whose gateway this is. An empty name is made on first use.

    The receipts log's origin is `<name>/receipts/<shard>`, or `<name>/receipts/<site>` where no shard is said.
    """

    name: str = ""  # the realm's name in its logs; made at the first start where it is empty
    site: str = "local"  # the site's name in receipts
    shard: str = ""  # what this gateway's receipts log is named by; the site unless said, and then one gateway a site
    jurisdiction: str = "ZZ"  # ISO 3166; "not known": a receipt must not claim a country that nobody set
    nation: str = "gb"  # whose tiers and markings labels are made of: nations/<nation>.toml
    tier: str = ""  # the highest tier that this site may handle; the nation's lowest unless said


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where the gateway listens and what it takes in. Loopback only, until it can speak TLS."""

    host: str = "127.0.0.1"  # the address to listen on: loopback
    port: int = 8400  # the port to listen on; 0 chooses a free one
    body_limit_bytes: int = 4 << 20  # the longest body of a request
    num_waiting: int = 256  # requests that may wait for a turn at the engine; who comes then is refused (`overloaded`)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What is served, and what its engine may use."""

    name: str = "auto"  # the model to serve: `auto`, a name, a GGUF file, or a folder of safetensors
    others: tuple[str, ...] = ()  # models to serve beside it, each in an engine of its own; not `auto`
    replicas: int = 1  # processes of each model's engine, each with its own slots and threads
    slots: int = 4  # requests that a replica works on at once
    context_tokens: int = 4096  # the longest prompt with its answer; at most what the model was made for
    threads: int = 0  # of a replica; 0: its part of the physical cores less one, at least one
    vllm_python: str = ""  # the Python of an environment that has vLLM, for folders of safetensors; empty: Allod's own
    vllm_cache_gib: int = 1  # of memory for vLLM's key-value cache, in each replica
    gpu_layers: int = 0  # layers of the model that an accelerator computes; 0: none
    devices: tuple[str, ...] = ()  # GPUs of this machine for it: `all`, numbers, or MIG instances as `0/gi7/ci0`
    ready_timeout_s: int = 300  # how long the engine may take to be ready
    spare_mib: int = 2048  # of memory that the engine (of vLLM: its API) may take beyond what it has when ready


@dataclass(frozen=True, slots=True)
class TenantsOptions:
    """Where tenants, keys and the ledger are kept: SQLite in `ALLOD_HOME`, or a PostgreSQL that gateways share."""

    database: str = ""  # postgresql://user@host/name, its password in ~/.pgpass; empty: SQLite
    max_wait_s: int = 60  # a request that would wait longer for its turn is refused at once


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set."""

    home: Path
    realm: RealmOptions = field(default_factory=RealmOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    external: Mapping[str, ExternalOptions] = field(default_factory=dict)  # by the name that a model is served by
    tenants: TenantsOptions = field(default_factory=TenantsOptions)
    prices: Prices = field(default_factory=Prices)
    deadlines: Deadlines = field(default_factory=Deadlines)
    unsafe_no_seal: bool = False  # a command-line word only: a file must not switch the seal off unseen
    is_private: bool = False  # a gateway for one `allod ask`, announced to nobody else

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models to serve, the first of which stands for the gateway."""
        return (self.model.name, *self.model.others)

    @property
    def shard(self) -> str:
        """What tells this gateway from the realm's others: its site, where nothing else is said."""
        return self.realm.shard or self.realm.site

    @property
    def origin(self) -> str:
        """The receipts log's name."""
        return f"{self.realm.name}/receipts/{self.shard}"


def load(overrides: Mapping[str, Any] | None = None, *, home: Path | None = None) -> Settings:
    """The settings of `home` (default: ALLOD_HOME, else the platform's data directory).

    `overrides` are dotted names and their values (`{"server.port": 0}`); None means "not said". Raises Invalid.
    """
    home = (home or default_home()).absolute()
    settings = Settings(home=home)
    file = home / "allod.toml"
    if file.exists():
        table = Table(read_toml(file), str(file), _error_of, limit=MAX_OTHERS)
        settings = replace(settings, **table.read_fields(Settings, only=_SECTIONS))
    for name, value in (overrides or {}).items():
        if value is not None:
            settings = _set(settings, name.split("."), value)
    _check(settings)
    return settings


def _error_of(complaint: Complaint) -> Invalid:
    if complaint.fault == "unknown":
        unknown = replace(complaint, problem=f"unknown setting {complaint.key!r}")
        return Invalid(unknown.message, code="settings_unknown", param=complaint.key, hint=complaint.hint)
    return Invalid(complaint.message, code="settings_type", param=complaint.key)


def _set(tree: _Tree, names: list[str], value: Any) -> _Tree:
    first, *rest = names
    return replace(tree, **{first: _set(getattr(tree, first), rest, value) if rest else value})  # type: ignore[type-var]


def _check(settings: Settings) -> None:
    limits = {
        "server.port": (settings.server.port, 0, 65535),
        "server.body_limit_bytes": (settings.server.body_limit_bytes, 1 << 10, 1 << 30),
        "server.num_waiting": (settings.server.num_waiting, 0, 100_000),
        "model.replicas": (settings.model.replicas, 1, 64),
        "model.slots": (settings.model.slots, 1, 1024),
        "model.context_tokens": (settings.model.context_tokens, 64, 1 << 24),
        "model.threads": (settings.model.threads, 0, 1024),
        "model.vllm_cache_gib": (settings.model.vllm_cache_gib, 1, 1 << 14),
        "model.ready_timeout_s": (settings.model.ready_timeout_s, 1, 86_400),
        "model.spare_mib": (settings.model.spare_mib, 16, 1 << 24),
        "tenants.max_wait_s": (settings.tenants.max_wait_s, 1, 86_400),
    }
    if len(settings.model.others) > MAX_OTHERS or "auto" in settings.model.others:
        raise Invalid(
            f"model.others names at most {MAX_OTHERS} models, and none of them is auto",
            code="settings_range",
            param="model.others",
        )
    limits |= {
        f"deadlines.{each.name}": (getattr(settings.deadlines, each.name), 1, 86_400) for each in fields(Deadlines)
    }
    own = {f"prices.models.{name}": prices for name, prices in settings.prices.models.items()}
    limits |= {
        f"{where}.{each.name}": (getattr(prices, each.name), 0, 10**12)
        for where, prices in {"prices": settings.prices, **own}.items()
        for each in fields(ModelPrices)
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise Invalid(f"{name} is {value}; it must lie in {low} to {high}", code="settings_range", param=name)
    if settings.server.host not in ("127.0.0.1", "::1", "localhost"):
        raise Invalid(
            f"server.host is {settings.server.host!r}: only loopback is served without TLS",
            code="settings_host",
            param="server.host",
            hint="use 127.0.0.1; a TLS proxy on this machine must send it Host: 127.0.0.1:<port>",
        )
    names = {
        "realm.name": (settings.realm.name, r"[A-Za-z0-9.-]{0,64}", "up to 64 letters, digits, - and ."),
        "realm.site": (settings.realm.site, r"[A-Za-z0-9.-]{1,64}", "1 to 64 letters, digits, - and ."),
        "realm.shard": (settings.realm.shard, r"[A-Za-z0-9.-]{0,64}", "up to 64 letters, digits, - and ."),
        "realm.nation": (settings.realm.nation, r"[a-z][a-z0-9-]{1,31}", "a nation profile's name: small letters"),
        "tenants.database": (
            settings.tenants.database,
            r"(postgres(ql)?://(?!.*password=)[^\s:@]*@?[^\s@]*)?",  # libpq reads one from the query too
            "a PostgreSQL address without a password",
        ),
        "prices.currency": (settings.prices.currency, r"[A-Z]{3}", "a code of ISO 4217"),
    }
    for name, (text, pattern, what) in names.items():
        if re.fullmatch(pattern, text) is None:
            raise Invalid(f"{name} must be {what}", code="settings_name", param=name)
    check_externals(settings.external)
    if fault := fault_of_place(settings.realm.jurisdiction):
        raise Invalid(f"realm.jurisdiction: {fault}", code="settings_name", param="realm.jurisdiction")
