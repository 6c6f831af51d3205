"""Step 5, first half: what a tenant may still use. `govern.metering.quotas` counts in memory; here it is awaited."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from allod.core.errors import Unavailable
from allod.core.requests import Chat, Embed, Usage
from allod.engine.token_estimate import BYTES_PER_TOKEN, estimate_tokens_of
from allod.govern.metering.prices import ModelPrices
from allod.govern.metering.quotas import Cost, NeedsLease, Quotas, Reservation
from allod.govern.tenancy.tenants import Tenant
from allod.serve.request import Request

MAX_LEASES = 8  # for one request: what one lease brings, other requests may take before it can be held
TOKENS_PER_MESSAGE = 8  # what a chat template adds


@dataclass(slots=True)
class RequestHold:
    """What one request may use: language tokens, estimated for its prompt, at most for its answer, at these prices."""

    reservations: tuple[Reservation, ...]
    prompt_tokens: int
    max_tokens: int
    prices: ModelPrices


class Allowance:
    """Holds what a request may use before its turn, and charges what it used when it is over.

    `prices` are those of the models that are served, by name. `organization` stands for all tenants, where they have a
    limit in common.
    """

    def __init__(self, quotas: Quotas, prices: Mapping[str, ModelPrices]) -> None:
        self._quotas = quotas
        self._prices = prices
        self.organization: Tenant | None = None

    async def hold(self, request: Request, prepared: Chat | Embed, context_tokens: int) -> RequestHold:
        """`prepared` is what an engine with that context will get. Raises Unavailable with `retry_after_s` where a
        limit is reached, Invalid for what no limit could hold."""
        held = RequestHold((), *_foreseen(prepared, context_tokens), self._prices[request.task.model])
        micros = held.prices.micros_of(prompt_tokens=held.prompt_tokens, completion_tokens=held.max_tokens, engine_ms=0)
        least = 0 if held.prices.is_free else 1  # what is free needs no money, and is there when that is spent
        tokens, cost = held.prompt_tokens + held.max_tokens, Cost(engine_ms=1, micros=max(least, micros))
        try:
            for tenant in filter(None, (request.caller.tenant, self.organization)):
                held.reservations += (await self._reserve(tenant, request, tokens, cost),)
        except BaseException:
            self.release(held)
            raise
        return held

    async def count_refusal(self, request: Request) -> None:
        """A refusal is a request, and no more: whoever sends nothing but these is held to its quota as well."""
        nothing = Cost(millijoules=0)
        reservation = await self._reserve(request.caller.tenant, request, 0, nothing)
        self._quotas.settle(reservation, tokens=0, cost=nothing)

    def settle(self, held: RequestHold, usage: Usage, engine_ms: int) -> int:
        """Charge what was used; how many millionths that is, for the receipt."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        micros = held.prices.micros_of(
            prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, engine_ms=engine_ms
        )
        for reservation in held.reservations:
            self._quotas.settle(reservation, tokens=tokens, cost=Cost(engine_ms=engine_ms, micros=micros))
        return micros

    def release(self, held: RequestHold) -> None:
        """Give everything back: the request never had its turn."""
        for reservation in held.reservations:
            self._quotas.release(reservation)

    async def _reserve(self, tenant: Tenant, request: Request, tokens: int, cost: Cost) -> Reservation:
        for _ in range(MAX_LEASES):
            found = self._quotas.reserve(
                tenant, model=request.task.model, tokens=tokens, now_ms=request.start_ms, cost=cost
            )
            if not isinstance(found, NeedsLease):
                return found
            await asyncio.to_thread(self._quotas.lease, found)
        raise Unavailable("too many requests ask for the same limit", code="rate_limited", retry_after_s=1)


def _foreseen(prepared: Chat | Embed, context_tokens: int) -> tuple[int, int]:
    """Tokens of the prompt, estimated, and the most that the answer can have."""
    if not isinstance(prepared, Chat):
        return estimate_tokens_of(prepared.texts, max_bytes=sys.maxsize), 0
    max_bytes = context_tokens * BYTES_PER_TOKEN  # more than the context holds is never computed
    prompt_tokens = estimate_tokens_of(prepared.texts, max_bytes=max_bytes)
    prompt_tokens = min(prompt_tokens + TOKENS_PER_MESSAGE * len(prepared.messages), context_tokens)
    left = max(1, context_tokens - prompt_tokens)
    return prompt_tokens, min(prepared.sampling.max_tokens or left, left)
