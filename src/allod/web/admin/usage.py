"""`usage/completions`, `usage/embeddings` and `costs`: the ledger, which is the sum of the receipts, by periods of UTC.

Every receipt is in exactly one of the first two: a model either answers chats or makes embeddings. A period that the
asked time does not fill is counted, and shown, from and to the asked minute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from allod.core.errors import Invalid
from allod.govern.tenancy.store import MINUTE_MS, TenantStore, Totals, UsageRow
from allod.web.admin.query import MAX_TIME_S, Query
from allod.web.admin.request import AdminRequest, Json, refusal

MINUTE_S = MINUTE_MS // 1000
_WIDTH_S = {"1d": 86_400, "1h": 3600, "1m": MINUTE_S}
_LIMITS = {"1d": (7, 31), "1h": (24, 168), "1m": (60, 1440)}  # usual and highest numbers of periods in one answer
_COST_LIMITS = {"1d": (7, 180)}
_GROUPS = {"project_id": "tenant", "api_key_id": "key", "model": "model"}
_COST_GROUPS = {"project_id": "tenant", "api_key_id": "key", "line_item": "model"}
_NOT_KEPT = ("user_ids", "batch")

Group = tuple[str | None, ...]  # tenant, key, model; None where not grouped by


@dataclass(frozen=True, slots=True)
class _Report:
    """One view of the ledger: whether a model is meant, how a result is written, and what a query may say: `items`
    lists models, `limits` are by width, `groups` names what the ledger is grouped by."""

    is_meant: Callable[[str], bool]
    result: Callable[[Group, Totals], Json]
    items: str = "models"
    limits: Mapping[str, tuple[int, int]] = field(default_factory=lambda: _LIMITS)
    groups: Mapping[str, str] = field(default_factory=lambda: _GROUPS)


class UsageReports:
    """Handlers of usage and costs. `embedding_models` are those that make embeddings and answer no chats."""

    def __init__(self, store: TenantStore, *, embedding_models: Collection[str], currency: str) -> None:
        self._store = store
        self._currency = currency.lower()
        self._completions = _Report(lambda model: model not in embedding_models, _completions)
        self._embeddings = _Report(lambda model: model in embedding_models, _embeddings)
        self._costs = _Report(lambda model: True, self._cost, "line_items", _COST_LIMITS, _COST_GROUPS)

    def completions(self, asked: AdminRequest) -> Json:
        """`GET usage/completions`."""
        return self._page(asked, self._completions)

    def embeddings(self, asked: AdminRequest) -> Json:
        """`GET usage/embeddings`."""
        return self._page(asked, self._embeddings)

    def costs(self, asked: AdminRequest) -> Json:
        """`GET costs`: by days. A line item is a model, its quantity the tokens that it read and wrote."""
        return self._page(asked, self._costs)

    def _page(self, asked: AdminRequest, report: _Report) -> Json:
        query = _search(asked, report)
        periods = _periods(asked, query, report.limits)
        sums = self._sums(query, periods, report)
        data = [
            {
                "object": "bucket",
                "start_time": start,
                "end_time": end,
                "results": [report.result(*group) for group in sums.get(start - start % periods.width_s, {}).items()],
            }
            for start, end in periods.each()
        ]
        next_page = periods.next_page
        return {"object": "page", "data": data, "has_more": next_page is not None, "next_page": next_page}

    def _sums(self, query: Query, periods: _Periods, report: _Report) -> dict[int, dict[Group, Totals]]:
        """By the second at which the period begins, and by group. The ledger says which model; not all are meant."""
        groups = _groups(query, report.groups)
        rows = self._store.usage(
            since_ms=periods.start_s * 1000,
            until_ms=periods.end_s * 1000,
            bucket_ms=periods.width_s * 1000,
            group_by=groups | {"model"},
            tenant_ids=query.texts("project_ids"),
            models=query.texts(report.items),
            key_ids=query.texts("api_key_ids"),
        )
        sums: dict[int, dict[Group, Totals]] = {}
        for row in rows:
            if report.is_meant(row.model or ""):
                of_period = sums.setdefault(row.start_ms // 1000, {})
                group = _group(row, groups)
                of_period[group] = of_period.get(group, Totals()) + row.totals
        return sums

    def _cost(self, group: Group, totals: Totals) -> Json:
        tenant, key, model = group
        return {
            "object": "organization.costs.result",
            "amount": {"currency": self._currency, "value": totals.micros / 1_000_000},
            "line_item": model,
            "quantity": None if model is None else totals.prompt_tokens + totals.completion_tokens,
            "quantity_unit": None if model is None else "tokens",
            "project_id": tenant,
            "api_key_id": key,
            "user_id": None,
        }


@dataclass(frozen=True, slots=True)
class _Periods:
    """The periods of one answer, in seconds since 1970. The first and the last may be cut short."""

    start_s: int
    end_s: int
    width_s: int
    next_page: str | None

    def each(self) -> Iterator[tuple[int, int]]:
        start = self.start_s
        while start < self.end_s:
            end = min(start - start % self.width_s + self.width_s, self.end_s)
            yield start, end
            start = end


def _periods(asked: AdminRequest, query: Query, limits: Mapping[str, tuple[int, int]]) -> _Periods:
    """The periods that are asked for. Raises Invalid for times that are missing, out of range or turned round."""
    start, end = query.integer("start_time"), query.integer("end_time", lowest=1)
    if start is None:
        raise Invalid("start_time is required: seconds since 1970", param="start_time")
    end = min(asked.now_ms // 1000 + MINUTE_S, MAX_TIME_S) if end is None else end
    if end <= start:
        raise Invalid("the time ends before it starts", param="end_time" if query.text("end_time") else "start_time")
    start, end = start - start % MINUTE_S, end + -end % MINUTE_S
    chosen = query.choice("bucket_width", *limits)
    width = _WIDTH_S[chosen]
    usual, highest = limits[chosen]
    limit = query.limit(usual=usual, highest=highest)
    page = query.integer("page")
    if page is not None:
        if page % width or not start < page < end:
            raise Invalid("page is no next_page of this query", code="unknown_cursor", param="page")
        start = page
    last = min(start - start % width + limit * width, end)
    return _Periods(start, last, width, str(last) if last < end else None)


def _search(asked: AdminRequest, report: _Report) -> Query:
    """The query. Raises Invalid for what the ledger is not kept by."""
    lists = ("project_ids", "api_key_ids", "group_by", report.items, *_NOT_KEPT)
    query = asked.search("start_time", "end_time", "bucket_width", "limit", "page", lists=lists)
    for param in _NOT_KEPT:
        if query.texts(param):
            raise refusal(param, "usage is kept by project, key and model")
    return query


def _groups(query: Query, known: Mapping[str, str]) -> frozenset[str]:
    for name in query.texts("group_by"):
        if name not in known:
            raise Invalid(
                f"usage is not kept by {name[:64]!r}",
                code="unsupported_parameter",
                param="group_by",
                hint=f"group by {', '.join(known)}",
            )
    return frozenset(known[name] for name in query.texts("group_by"))


def _group(row: UsageRow, groups: frozenset[str]) -> Group:
    values = {"tenant": row.tenant_id, "key": row.key_id, "model": row.model}
    return tuple((value or None) if name in groups else None for name, value in values.items())


def _completions(group: Group, totals: Totals) -> Json:
    return {
        **_counts("completions", group, totals),
        "output_tokens": totals.completion_tokens,
        "input_cached_tokens": totals.cached_tokens,
        "batch": None,
        "service_tier": None,
        "allod": {
            "refused": totals.refused,
            "engine_ms": totals.engine_ms,
            "millijoules": None if totals.unmetered else totals.millijoules,
            "micros": totals.micros,
        },
    }


def _embeddings(group: Group, totals: Totals) -> Json:
    return _counts("embeddings", group, totals)


def _counts(kind: str, group: Group, totals: Totals) -> Json:
    tenant, key, model = group
    return {
        "object": f"organization.usage.{kind}.result",
        "input_tokens": totals.prompt_tokens,
        "num_model_requests": totals.requests,
        "project_id": tenant,
        "api_key_id": key,
        "model": model,
        "user_id": None,
    }
