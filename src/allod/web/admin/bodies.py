"""The bodies of requests, read strictly: an unknown field or a wrong type is an error that says where it stands.

A field that is not sent leaves what is there as it is; null lifts a limit. Fields of the dialect that this realm has
no use for are known here, so that they are refused by name (`asked.unsupported`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from allod.core.canonical import MAX_SAFE_INTEGER

MAX_LIFE_S = 10 * 365 * 86_400
MICROS_PER_CENT = 10_000

Count = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
Cents = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER // MICROS_PER_CENT)]
Life = Annotated[int, Meta(ge=1, le=MAX_LIFE_S)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Word = Annotated[str, Meta(min_length=1, max_length=256)]
Words = Annotated[list[Word], Meta(max_length=64)]
Models = Annotated[list[Word], Meta(max_length=1024)]


class Empty(Struct, forbid_unknown_fields=True):
    pass


class ScopeBody(Struct, forbid_unknown_fields=True):
    models: Models | UnsetType | None = UNSET
    clearance: Word | UnsetType | None = UNSET
    purposes: Words | UnsetType | None = UNSET


class LabelWords(Struct, forbid_unknown_fields=True):
    tier: Word | UnsetType = UNSET
    markings: Words | UnsetType = UNSET
    jurisdictions: Words | UnsetType | None = UNSET
    purposes: Words | UnsetType | None = UNSET


class QuotaBody(Struct, forbid_unknown_fields=True):
    requests_per_minute: Count | UnsetType | None = UNSET
    tokens_per_minute: Count | UnsetType | None = UNSET
    concurrent: Count | UnsetType | None = UNSET


class Amounts(Struct, forbid_unknown_fields=True):
    tokens: Count | UnsetType | None = UNSET
    engine_ms: Count | UnsetType | None = UNSET
    millijoules: Count | UnsetType | None = UNSET
    micros: Count | UnsetType | None = UNSET


class Budgets(Struct, forbid_unknown_fields=True):
    day: Amounts | UnsetType | None = UNSET
    month: Amounts | UnsetType | None = UNSET


class Terms(Struct, forbid_unknown_fields=True):
    weight: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    priority: Literal[0, 1] | UnsetType = UNSET
    label: LabelWords | UnsetType = UNSET
    scope: ScopeBody | UnsetType = UNSET
    quota: QuotaBody | UnsetType = UNSET
    budgets: Budgets | UnsetType = UNSET


class ProjectCreate(Struct, forbid_unknown_fields=True):
    name: Name
    external_key_id: str | None = None
    geography: str | None = None
    residency: str | None = None
    allod: Terms | UnsetType = UNSET


class ProjectUpdate(Struct, forbid_unknown_fields=True):
    name: Name | None = None
    external_key_id: str | None = None
    geography: str | None = None
    allod: Terms | UnsetType = UNSET


class KeyTerms(Struct, forbid_unknown_fields=True):
    scope: ScopeBody | UnsetType = UNSET


class AccountCreate(Struct, forbid_unknown_fields=True):
    name: Name
    create_service_account_only: bool | None = None
    expires_in_seconds: Life | None = None
    allod: KeyTerms | UnsetType = UNSET


class AccountUpdate(Struct, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    role: Literal["member", "owner"] | UnsetType = UNSET


class KeyCreate(Struct, forbid_unknown_fields=True):
    name: Name = "Secret Key"
    expires_in_seconds: Life | None = None
    scopes: list[str] | UnsetType = UNSET
    allod: KeyTerms | UnsetType = UNSET


class KeyUpdate(Struct, forbid_unknown_fields=True):
    expires_in_seconds: Life | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    allod: KeyTerms | UnsetType = UNSET


class AdminKeyCreate(Struct, forbid_unknown_fields=True):
    name: Name
    expires_in_seconds: Life | None = None


class Concurrent(Struct, forbid_unknown_fields=True):
    concurrent: Count | UnsetType | None = UNSET


class RateLimitUpdate(Struct, forbid_unknown_fields=True):
    max_requests_per_1_minute: Count | UnsetType = UNSET
    max_tokens_per_1_minute: Count | UnsetType = UNSET
    max_requests_per_1_day: Any = UNSET
    max_images_per_1_minute: Any = UNSET
    max_audio_megabytes_per_1_minute: Any = UNSET
    batch_1_day_max_input_tokens: Any = UNSET
    allod: Concurrent | UnsetType = UNSET


class SpendLimitUpdate(Struct, forbid_unknown_fields=True):
    currency: str
    interval: Literal["month"]
    threshold_amount: Cents


class RetentionUpdate(Struct, forbid_unknown_fields=True):
    retention_type: str


class ModelPermissionsUpdate(Struct, forbid_unknown_fields=True):
    mode: Literal["allow_list", "deny_list"]
    model_ids: Models


def fields_of(body: Struct | UnsetType) -> dict[str, Any]:
    """The fields of a body that were sent, however deep they lie, as plain values."""
    if isinstance(body, UnsetType):
        return {}
    fields: dict[str, Any] = to_builtins(body)
    return fields


def life_ms_of(body: AccountCreate | KeyCreate | AdminKeyCreate) -> int | None:
    """For how long the key is to open, in milliseconds; None for ever."""
    return None if body.expires_in_seconds is None else body.expires_in_seconds * 1000
