"""Values as the JSON text that a database keeps, and back. A text that is no such value is damage, not bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid, Unavailable
from allod.govern.tenancy.tenants import Account, AuditEvent, Budget, Key, Quota, Scope, Tenant

_Value = TypeVar("_Value")


def text_of(value: Tenant | Account | Key | AuditEvent) -> str:
    """Canonical JSON of its fields; a set is a sorted list."""
    return canonical_json(_plain(value)).decode()


def tenant_from(text: str) -> Tenant:
    """The tenant that `text_of` wrote."""
    return _read(text, _tenant)


def account_from(text: str) -> Account:
    """The account that `text_of` wrote."""
    return _read(text, lambda row: Account(**row))


def key_from(text: str, last_used_ms: int | None = None) -> Key:
    """The key that `text_of` wrote, with when it was used last."""
    return _read(text, lambda row: Key(**{**row, "scope": _scope(row["scope"]), "last_used_ms": last_used_ms}))


def event_from(text: str) -> AuditEvent:
    """The event that `text_of` wrote."""
    return _read(text, lambda row: AuditEvent(**row))


def _read(text: str, make: Callable[[dict[str, Any]], _Value]) -> _Value:
    try:
        return make(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Invalid) as error:
        raise Unavailable(
            f"the tenants' database holds a row that is not whole: {error}",
            code="tenants_corrupt",
            hint="restore the database from a backup",
        ) from error


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _tenant(row: dict[str, Any]) -> Tenant:
    return Tenant(
        **{
            **row,
            "markings": frozenset(row["markings"]),
            "jurisdictions": _set(row["jurisdictions"]),
            "purposes": _set(row["purposes"]),
            "scope": _scope(row["scope"]),
            "quota": Quota(**row["quota"]),
            "model_quotas": {model: Quota(**quota) for model, quota in row["model_quotas"].items()},
            "budgets": tuple(Budget(**budget) for budget in row["budgets"]),
        }
    )


def _scope(row: dict[str, Any]) -> Scope:
    return Scope(models=_set(row["models"]), clearance=row["clearance"], purposes=_set(row["purposes"]))


def _set(words: list[str] | None) -> frozenset[str] | None:
    return None if words is None else frozenset(words)
