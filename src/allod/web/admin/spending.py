"""Spend limits: a tenant's, and the organisation's, in cents a calendar month of UTC.

A tenant's is its monthly budget's `micros`, the organisation's a setting of the realm. 10,000 micros are a cent.
"""

from __future__ import annotations

from dataclasses import replace

from allod.app.administration.tenants import find_active, put_changed
from allod.app.administration.terms import change_budget
from allod.core.errors import Invalid
from allod.govern.metering.windows import bounds_of, windows_at
from allod.govern.tenancy.store import MINUTE_MS, TenantStore, Totals
from allod.govern.tenancy.tenants import ORGANIZATION_MICROS, Tenant
from allod.web.admin import bodies
from allod.web.admin.bodies import MICROS_PER_CENT
from allod.web.admin.request import AdminRequest, Json


class Spending:
    """Handlers of spend limits. `currency` is the realm's (ISO 4217, upper case): another is refused."""

    def __init__(self, store: TenantStore, currency: str) -> None:
        self._store = store
        self._currency = currency

    def project(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET projects/{id}/spend_limit`."""
        tenant = self._store.tenant(project_id)
        micros = _micros_of(tenant)
        spent = self._store.used(tenant_id=tenant.id, since_ms=_month_ms(asked), until_ms=asked.now_ms + MINUTE_MS)
        return self._describe("project", micros, spent)

    def update_project(self, asked: AdminRequest, project_id: str) -> Json:
        """`POST projects/{id}/spend_limit`."""
        micros = self._read(asked)
        self._put(asked, project_id, micros)
        return self.project(asked, project_id)

    def delete_project(self, asked: AdminRequest, project_id: str) -> Json:
        """`DELETE projects/{id}/spend_limit`."""
        _set(_micros_of(self._store.tenant(project_id)))
        self._put(asked, project_id, None)
        return {"object": "project.spend_limit.deleted", "deleted": True}

    def organization(self, asked: AdminRequest) -> Json:
        """`GET spend_limit`."""
        spent = self._store.used(tenant_id=None, since_ms=_month_ms(asked), until_ms=asked.now_ms + MINUTE_MS)
        return self._describe("organization", self._organization_micros(), spent)

    def update_organization(self, asked: AdminRequest) -> Json:
        """`POST spend_limit`."""
        self._put_organization(asked, self._read(asked))
        return self.organization(asked)

    def delete_organization(self, asked: AdminRequest) -> Json:
        """`DELETE spend_limit`."""
        _set(self._organization_micros())
        self._put_organization(asked, None)
        return {"object": "organization.spend_limit.deleted", "deleted": True}

    def _read(self, asked: AdminRequest) -> int:
        body = asked.read(bodies.SpendLimitUpdate)
        if body.currency != self._currency:
            raise Invalid(f"this realm counts in {self._currency}", code="unsupported_parameter", param="currency")
        return body.threshold_amount * MICROS_PER_CENT

    def _put(self, asked: AdminRequest, project_id: str, micros: int | None) -> None:
        tenant = find_active(self._store, project_id)
        tenant = replace(tenant, budgets=change_budget(tenant.budgets, "month", {"micros": micros}))
        put_changed(self._store, asked.officer, tenant, {"allod": {"budgets": {"month": {"micros": micros}}}})

    def _put_organization(self, asked: AdminRequest, micros: int | None) -> None:
        changes = {"allod": {"micros_per_month": micros}}
        event = asked.officer.event("organization.updated", None, changes_requested=changes)
        self._store.put_setting(ORGANIZATION_MICROS, "" if micros is None else str(micros), event)

    def _organization_micros(self) -> int | None:
        word = self._store.read_setting(ORGANIZATION_MICROS)
        return int(word) if word else None

    def _describe(self, whose: str, micros: int | None, spent: Totals) -> Json:
        limit = _set(micros)
        return {
            "object": f"{whose}.spend_limit",
            "currency": self._currency,
            "interval": "month",
            "threshold_amount": limit // MICROS_PER_CENT,
            "enforcement": {"status": "enforcing" if spent.micros >= limit else "inactive"},
        }


def _micros_of(tenant: Tenant) -> int | None:
    return next((budget.micros for budget in tenant.budgets if budget.period == "month"), None)


def _set(micros: int | None) -> int:
    if micros is None:
        raise Invalid("no spend limit is set", code="not_found")
    return micros


def _month_ms(asked: AdminRequest) -> int:
    return bounds_of("month", windows_at(asked.now_ms).month)[0]
