"""`usage/completions`, `usage/embeddings` and `costs`: the ledger, which is the sum of the receipts, by periods of UTC.

Every receipt is in exactly one of the first two: a model either answers chats or makes embeddings. A period that the
asked time does not fill is counted, and shown, from and to the asked minute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.govern.store import MINUTE_MS, TenantStore, Totals, UsageRow
from allod.web.admin.asked import Asked, Json, unsupported
from allod.web.admin.query import MAX_TIME_S, Query

MINUTE_S = MINUTE_MS // 1000
_WIDTH_S = {"1m": MINUTE_S, "1h": 3600, "1d": 86_400}
_LIMITS = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}  # usual and highest numbers of periods in one answer
_COST_LIMITS = (7, 180)
_GROUPS = {"project_id": "tenant", "api_key_id": "key", "model": "model"}
_COST_GROUPS = {"project_id": "tenant", "api_key_id": "key", "line_item": "model"}
_TIMES = ("start_time", "end_time", "bucket_width", "limit", "page")

Group = tuple[str | None, ...]  # tenant, key, model; None where not grouped by
Result = Callable[[Group, Totals], Json]


class Usage:
    """Handlers of usage and costs. `embedding_models` are those that make embeddings and answer no chats."""

    def __init__(self, store: TenantStore, *, embedding_models: Collection[str], currency: str) -> None:
        self._store = store
        self._embedding_models = embedding_models
        self._currency = currency.lower()

    def completions(self, asked: Asked) -> Json:
        """`GET usage/completions`."""
        query = _search(asked, "batch", lists=("models",))
        if query.text("batch") is not None:
            raise unsupported("batch", "batches are not told apart here")
        return self._page(asked, query, _completions, lambda model: model not in self._embedding_models)

    def embeddings(self, asked: Asked) -> Json:
        """`GET usage/embeddings`."""
        query = _search(asked, lists=("models",))
        return self._page(asked, query, _embeddings, lambda model: model in self._embedding_models)

    def costs(self, asked: Asked) -> Json:
        """`GET costs`: by days. A line item is a model, its quantity the tokens that it read and wrote."""
        query = _search(asked, lists=("line_items",))
        query.choice("bucket_width", "1d")
        groups = _groups(query, _COST_GROUPS)

        def result(group: Group, totals: Totals) -> Json:
            return self._cost(group, totals, is_by_item="model" in groups)

        return self._answer(asked, query, result, groups, _COST_LIMITS, query.texts("line_items"), lambda _: True)

    def _page(self, asked: Asked, query: Query, result: Result, is_meant: Callable[[str], bool]) -> Json:
        limits = _LIMITS[query.choice("bucket_width", "1d", "1h", "1m")]
        return self._answer(asked, query, result, _groups(query, _GROUPS), limits, query.texts("models"), is_meant)

    def _answer(
        self,
        asked: Asked,
        query: Query,
        result: Result,
        groups: frozenset[str],
        limits: tuple[int, int],
        models: list[str],
        is_meant: Callable[[str], bool],
    ) -> Json:
        periods = _periods(asked, query, limits)
        rows = self._store.usage(
            since_ms=periods.start_s * 1000,
            until_ms=periods.end_s * 1000,
            bucket_ms=periods.width_s * 1000,
            group_by=groups | {"model"},
            tenant_ids=query.texts("project_ids"),
            models=models,
            key_ids=query.texts("api_key_ids"),
        )
        sums: dict[int, dict[Group, Totals]] = {}
        for row in rows:
            if is_meant(row.model or ""):
                of_period = sums.setdefault(row.start_ms // 1000, {})
                group = _group(row, groups)
                of_period[group] = of_period.get(group, Totals()) + row.totals
        data = [
            {
                "object": "bucket",
                "start_time": start,
                "end_time": end,
                "results": [result(*one) for one in sums.get(start - start % periods.width_s, {}).items()],
            }
            for start, end in periods.each()
        ]
        return {
            "object": "page",
            "data": data,
            "has_more": periods.next_page is not None,
            "next_page": periods.next_page,
        }

    def _cost(self, group: Group, totals: Totals, *, is_by_item: bool) -> Json:
        tenant, key, model = group
        return {
            "object": "organization.costs.result",
            "amount": {"currency": self._currency, "value": totals.micros / 1_000_000},
            "line_item": model,
            "quantity": totals.prompt_tokens + totals.completion_tokens if is_by_item else None,
            "quantity_unit": "tokens" if is_by_item else None,
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


def _periods(asked: Asked, query: Query, limits: tuple[int, int]) -> _Periods:
    """The periods that are asked for. Raises Invalid for times that are missing, out of range or turned round."""
    start, end = query.integer("start_time"), query.integer("end_time", lowest=1)
    if start is None:
        raise Invalid("start_time is required: seconds since 1970", param="start_time")
    end = min(asked.now_ms // 1000 + MINUTE_S, MAX_TIME_S) if end is None else end
    if end <= start:
        raise Invalid("the time ends before it starts", param="end_time" if query.text("end_time") else "start_time")
    start, end = start - start % MINUTE_S, end + -end % MINUTE_S
    width = _WIDTH_S[query.choice("bucket_width", "1d", "1h", "1m")]
    usual, highest = limits
    limit = query.limit(usual=usual, highest=highest)
    page = query.integer("page")
    if page is not None:
        if page % width or not start < page < end:
            raise Invalid("page is no next_page of this query", code="unknown_cursor", param="page")
        start = page
    last = min(start - start % width + limit * width, end)
    return _Periods(start, last, width, str(last) if last < end else None)


def _search(asked: Asked, *names: str, lists: tuple[str, ...]) -> Query:
    """The query; whatever the ledger is not kept by is refused by name."""
    known = ("project_ids", "api_key_ids", "group_by", *lists)
    query = asked.search(*_TIMES, *names, lists=(*known, "user_ids"))
    if query.texts("user_ids"):
        raise unsupported("user_ids", "there are no users here; usage belongs to projects and keys")
    return query


def _groups(query: Query, known: dict[str, str]) -> frozenset[str]:
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
