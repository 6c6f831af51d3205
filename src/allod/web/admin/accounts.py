"""`projects/{id}/service_accounts`: programs of a tenant's, which hold its keys."""

from __future__ import annotations

from dataclasses import replace

from allod.app.administration.keys import add_key
from allod.app.administration.tenants import find_active, seconds_of
from allod.app.administration.terms import describe_scope
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import Account, Key, Scope, check_name, new_id
from allod.web.admin import bodies
from allod.web.admin.keys import key_scope, refuse_scopes
from allod.web.admin.listing import a_cursor, page
from allod.web.admin.request import AdminRequest, Json, refusal


class Accounts:
    """Handlers of service accounts."""

    def __init__(self, store: TenantStore, nation: Nation) -> None:
        self._store = store
        self._nation = nation

    def list_page(self, asked: AdminRequest, project_id: str) -> Json:
        """`GET .../service_accounts`, in the order of their ids."""
        query = asked.search("after", "limit")
        limit, after = query.limit(), query.text("after")
        self._store.tenant(project_id)
        if after is not None:
            with a_cursor("after"):
                self._store.account(project_id, after)
        found = self._store.accounts(project_id, after=after or "", limit=limit + 1)
        return page([_account_json(account) for account in found], limit)

    def create(self, asked: AdminRequest, project_id: str) -> Json:
        """`POST .../service_accounts`: the account and its first key, which is shown in this answer alone."""
        body = asked.read(bodies.AccountCreate)
        find_active(self._store, project_id)
        if body.create_service_account_only and (body.expires_in_seconds or bodies.fields_of(body.allod)):
            raise Invalid("an account without a key has no key to limit", param="create_service_account_only")
        scope = key_scope(Scope(), body, self._nation)
        account = Account(new_id("svc_acct_"), project_id, check_name(body.name), "member", asked.now_ms)
        event = asked.officer.event("service_account.created", project_id, id=account.id, data={"role": account.role})
        self._store.put_account(account, event)
        key = None
        if not body.create_service_account_only:
            key = self._add_key(asked, account, body, scope)
        return {**_account_json(account), "api_key": key}

    def retrieve(self, asked: AdminRequest, project_id: str, account_id: str) -> Json:
        """`GET .../service_accounts/{account}`."""
        return _account_json(self._store.account(project_id, account_id))

    def update(self, asked: AdminRequest, project_id: str, account_id: str) -> Json:
        """`POST .../service_accounts/{account}`: another name."""
        body = asked.read(bodies.AccountUpdate)
        if body.role == "owner":
            raise refusal("role", "service accounts administer nothing here; admin keys do")
        find_active(self._store, project_id)
        account = self._store.account(project_id, account_id)
        changes = bodies.fields_of(body)
        account = replace(account, **changes)
        check_name(account.name)
        event = asked.officer.event(
            "service_account.updated", project_id, id=account.id, changes_requested={"allod": changes}
        )
        self._store.put_account(account, event)
        return _account_json(account)

    def delete(self, asked: AdminRequest, project_id: str, account_id: str) -> Json:
        """`DELETE .../service_accounts/{account}`, and its keys with it."""
        event = asked.officer.event("service_account.deleted", project_id, id=account_id)
        self._store.delete_account(project_id, account_id, event)
        return {"id": account_id, "object": "organization.project.service_account.deleted", "deleted": True}

    def create_key(self, asked: AdminRequest, project_id: str, account_id: str) -> Json:
        """`POST .../service_accounts/{account}/api_keys`: another key beside the first, for a change without a gap."""
        body = asked.read(bodies.KeyCreate)
        refuse_scopes(body)
        find_active(self._store, project_id)
        account = self._store.account(project_id, account_id)
        scope = key_scope(Scope(), body, self._nation)
        return self._add_key(asked, account, body, scope)

    def _add_key(
        self, asked: AdminRequest, account: Account, body: bodies.AccountCreate | bodies.KeyCreate, scope: Scope
    ) -> Json:
        key, secret = add_key(
            self._store,
            asked.officer,
            account.tenant_id,
            name=body.name,
            life_ms=bodies.life_ms_of(body),
            scope=scope,
            account_id=account.id,
        )
        return _secret_json(key, secret)


def _account_json(account: Account) -> Json:
    return {
        "id": account.id,
        "object": "organization.project.service_account",
        "name": account.name,
        "role": account.role,
        "created_at": seconds_of(account.created_ms),
    }


def _secret_json(key: Key, secret: str) -> Json:
    return {
        "id": key.id,
        "object": "organization.project.service_account.api_key",
        "name": key.name,
        "value": secret,
        "created_at": seconds_of(key.created_ms),
        "expires_at": seconds_of(key.expires_ms),
        "allod": {"scope": describe_scope(key.scope)},
    }
