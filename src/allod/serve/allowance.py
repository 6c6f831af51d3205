"""Step 5, first half: what a tenant may still use. `govern.quotas` counts in memory; here it is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from allod.core.errors import Unavailable
from allod.core.requests import Chat, Request, Usage
from allod.govern.prices import Prices
from allod.govern.quotas import Cost, NeedsLease, Quotas, Reservation
from allod.govern.tenants import Tenant

MAX_LEASES = 8  # each brings what lacks, unless others take it in the same moment
BYTES_PER_TOKEN = 3  # of UTF-8 text, rather few: what is reserved should be enough
TOKENS_PER_MESSAGE = 8  # what a chat template adds


@dataclass(slots=True)
class Held:
    """What one request may use: language tokens, estimated for its prompt and at most for its answer."""

    reservations: tuple[Reservation, ...]
    prompt_tokens: int
    max_tokens: int


class Allowance:
    """Holds what a request may use before its turn, and charges what it used when it is over.

    `organization` stands for all tenants, where they have a limit in common.
    """

    def __init__(self, quotas: Quotas, prices: Prices, *, context_tokens: Callable[[], int]) -> None:
        self._quotas = quotas
        self._prices = prices
        self._context_tokens = context_tokens
        self.organization: Tenant | None = None

    async def hold(self, tenant: Tenant, request: Request) -> Held:
        """Raises Unavailable with `retry_after_s` where a limit is reached, Invalid for what no limit could hold."""
        prompt_tokens, max_tokens = self._foreseen(request)
        held = Held((), prompt_tokens, max_tokens)
        try:
            for one in (tenant,) if self.organization is None else (tenant, self.organization):
                held.reservations += (await self._reserved(one, request, held),)
        except BaseException:
            self.release(held)
            raise
        return held

    def settle(self, held: Held, usage: Usage, engine_ms: int) -> None:
        """Charge what was used."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        micros = self._prices.micros_of(
            prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, engine_ms=engine_ms
        )
        for reservation in held.reservations:
            self._quotas.settle(reservation, tokens=tokens, cost=Cost(engine_ms=engine_ms, micros=micros))

    def release(self, held: Held) -> None:
        """Give everything back: the request never had its turn."""
        for reservation in held.reservations:
            self._quotas.release(reservation)

    async def _reserved(self, tenant: Tenant, request: Request, held: Held) -> Reservation:
        micros = self._prices.micros_of(
            prompt_tokens=held.prompt_tokens, completion_tokens=held.max_tokens, engine_ms=0
        )
        for _ in range(MAX_LEASES):
            found = self._quotas.reserve(
                tenant,
                model=request.task.model,
                tokens=held.prompt_tokens + held.max_tokens,
                now_ms=request.start_ms,
                cost=Cost(engine_ms=1, micros=max(1, micros)),
            )
            if not isinstance(found, NeedsLease):
                return found
            await asyncio.to_thread(self._quotas.lease, found)
        raise Unavailable("too many requests ask for the same limit", code="rate_limited", retry_after_s=1)

    def _foreseen(self, request: Request) -> tuple[int, int]:
        """Tokens of the prompt, estimated, and the most that the answer can have."""
        task = request.task
        context_tokens = self._context_tokens()
        num_messages = len(task.messages) if isinstance(task, Chat) else 0
        prompt_tokens = len(task.text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * num_messages
        if not isinstance(task, Chat):
            return prompt_tokens, 0
        left = max(1, context_tokens - prompt_tokens)
        return min(prompt_tokens, context_tokens), min(task.sampling.max_tokens or left, left)
