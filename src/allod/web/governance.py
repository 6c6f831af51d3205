"""What the console's pages for governance read: shares now, the policy, why it decides as it does, and receipts.

For administrators. Nothing here changes anything: that is what `/v1/organization/` is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar

import msgspec

from allod.app.administration.explanations import describe_rule
from allod.app.gateway.realm import Realm
from allod.app.gateway.receipts import FoundReceipt, ReceiptQuery
from allod.app.gateway.shares import TenantShare
from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.errors import Invalid, Unavailable
from allod.core.nations.nation import Nation
from allod.core.statements.receipt import ANSWER
from allod.govern.policy.check import PolicyReport, check_policy
from allod.govern.policy.decision import Policy
from allod.prove.policy_history import LoggedVersion
from allod.web.admin.request import AdminRequest
from allod.web.explanations import ExplainBody, Explanations
from allod.web.http.asgi import Call
from allod.web.http.exchange import NOT_KEPT

BODY_LIMIT_BYTES = 64 << 10
NUM_VERSIONS = 100
Json = dict[str, Any]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Governance:
    """Handlers over one realm. What blocks is called in a thread, each thing by one caller at a time."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._controls = realm.gateway.controls
        explanations = Explanations(realm)
        self._shares = _one_at_a_time(realm.shares.read)
        self._receipts = _one_at_a_time(realm.receipts.read)
        self._versions = _one_at_a_time(realm.policy_versions)
        self._explain = _one_at_a_time(explanations.explain)
        self._check = _one_at_a_time(self._check_once)
        self._models = explanations.models
        self._report: PolicyReport | None = None

    async def shares(self, call: Call) -> None:
        """`GET /v1/governance/shares`: who has turns now, and what each tenant used today of what it may."""
        query = _request_of(call).search("limit")
        router = self._realm.gateway.router
        page = await self._shares(list(router.snapshots()), limit=query.limit(usual=100), now_ms=call.start_ms)
        answer = {
            "object": "governance.shares",
            "at_ms": call.start_ms,
            "num_slots": router.num_slots,
            "currency": self._realm.settings.prices.currency,
            "num_tenants": page.num_tenants,
            "common_limits": [asdict(limit) for limit in page.common],
            "data": [_describe_share(share) for share in page.tenants],
        }
        await _respond(call, answer)

    async def policy(self, call: Call) -> None:
        """`GET /v1/governance/policy`: what is in force, since when, and the words it is written in.

        `?check=true` adds what the check found, which takes seconds the first time.
        """
        is_check_wanted = _request_of(call).search("check").choice("check", "false", "true") == "true"
        versions = await self._versions()
        policy = self._controls.policy
        if not versions or versions[-1].version.digest != policy.digest:
            raise Unavailable("another policy is coming into force", code="policy_changing", retry_after_s=1)
        report = await self._check(policy) if is_check_wanted else None
        answer = {
            "object": "governance.policy",
            "digest": policy.digest,
            "text": policy.text,
            "rules": [describe_rule(rule) for rule in policy.rules.values()],
            "in_force": _describe_version(versions[-1]),
            "history": [_describe_version(version) for version in reversed(versions[-NUM_VERSIONS:])],
            "num_versions": len(versions),
            "words": self._words(),
            "check": None if report is None else {**asdict(report), "is_sound": report.is_sound},
        }
        await _respond(call, answer)

    async def explain(self, call: Call) -> None:
        """`POST /v1/governance/explain`: what would be decided, by which rules, and what would have to change."""
        body = await call.read_body(limit_bytes=BODY_LIMIT_BYTES)
        asked = AdminRequest(_actor(call), call.start_ms, call.query, body)
        asked.search()
        await _respond(call, await self._explain(asked.read(ExplainBody), call.start_ms))

    async def receipts(self, call: Call) -> None:
        """`GET /v1/governance/receipts`: the latest answers and refusals, newest first. No content: there is none."""
        search = _request_of(call).search("limit", "before", "tenant", "decision")
        decision = search.text("decision")
        if decision is not None:
            decision = search.choice("decision", "permit", "forbid")
        query = ReceiptQuery(
            limit=search.limit(),
            before=search.integer("before", highest=MAX_SAFE_INTEGER),
            tenant_id=search.text("tenant"),
            decision=decision,
        )
        if query.tenant_id is not None:
            await asyncio.to_thread(self._realm.store.tenant, query.tenant_id)
        reading = await self._receipts(query)
        names = await asyncio.to_thread(self._names, {found.tenant_id for found in reading.found if found.tenant_id})
        answer = {
            "object": "list",
            "data": list(_describe_receipts(reading.found, names)),
            "before": reading.before,
        }
        await _respond(call, answer)

    def _names(self, tenant_ids: set[str]) -> dict[str, str]:
        names = {tenant_id: tenant_id for tenant_id in tenant_ids}
        for tenant_id in tenant_ids:
            with suppress(Invalid):  # a store that was put back may not know it
                names[tenant_id] = self._realm.store.tenant(tenant_id).name
        return names

    def _check_once(self, policy: Policy) -> PolicyReport:
        """Made once for each policy, by its digest."""
        report = self._report
        if report is None or report.digest != policy.digest:
            report = self._report = check_policy(policy.text, policy.nation)
        return report

    def _words(self) -> Json:
        nation = self._controls.nation
        return {
            "nation": nation.name,
            "tiers": _tiers(nation),
            "markings": [{"name": marking.name, "meaning": marking.meaning} for marking in nation.markings.values()],
            "purposes": [{"name": name, "meaning": meaning} for name, meaning in nation.purposes.items()],
            "models": self._models,
        }


def _one_at_a_time(work: Callable[_Arguments, _Result]) -> Callable[_Arguments, Awaitable[_Result]]:
    """`work` in a thread; whoever comes meanwhile waits, so that polling cannot pile up."""
    lock = asyncio.Lock()

    async def run(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        async with lock:
            return await asyncio.to_thread(work, *arguments, **named)

    return run


def _request_of(call: Call) -> AdminRequest:
    return AdminRequest(_actor(call), call.start_ms, call.query)


def _actor(call: Call) -> str:
    assert call.administrator is not None  # the routes need an admin key
    return call.administrator.id


async def _respond(call: Call, answer: Json) -> None:
    await call.respond(200, msgspec.json.encode(answer), NOT_KEPT)


def _tiers(nation: Nation) -> list[str]:
    """From the lowest up, each followed by the words that stand for it with markings."""
    aliases = [(alias, tier) for alias, (tier, _) in nation.aliases.items()]
    return [
        word for step in nation.tiers for word in (step.name, *(alias for alias, tier in aliases if tier == step.name))
    ]


def _describe_share(share: TenantShare) -> Json:
    return {
        "id": share.tenant.id,
        "name": share.tenant.name,
        "weight": share.tenant.weight,
        "priority": share.tenant.priority,
        "share": round(share.share, 4),
        "num_running": share.num_running,
        "num_waiting": share.num_waiting,
        "service": share.service,
        "today": asdict(share.today),
        "limits": [asdict(limit) for limit in share.limits],
    }


def _describe_version(logged: LoggedVersion) -> Json:
    version = logged.version
    return {
        "version": version.version,
        "digest": version.digest,
        "at_ms": version.at_ms,
        "who": version.who,
        "note": version.note,
        "entry": logged.entry,
    }


def _describe_receipts(found: Sequence[FoundReceipt], names: dict[str, str]) -> Iterator[Json]:
    """Those that are receipts: what is none is named by `allod log fsck`."""
    for receipt in found:
        with suppress(LookupError, TypeError):
            yield _describe_receipt(receipt, names)


def _describe_receipt(found: FoundReceipt, names: dict[str, str]) -> Json:
    predicate, tenant_id = found.predicate, found.tenant_id
    answer, policy, model = predicate["answer"], predicate["policy"], predicate["model"]
    return {
        "id": predicate["id"],
        "entry": found.entry,
        "kind": "answer" if found.kind == ANSWER else "refusal",
        "at_ms": predicate["at"]["start_ms"],
        "tenant": None if tenant_id is None else {"id": tenant_id, "name": names[tenant_id]},
        "label": policy["label"],
        "decision": policy["decision"],
        "rules": policy["rules"],
        "policy": policy["digest"],
        "model": model["name"] if model else None,
        "tokens": {"prompt": predicate["request"]["tokens"], "completion": answer["tokens"] if answer else None},
        "finish": answer["finish"] if answer else None,
    }
