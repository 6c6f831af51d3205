"""The allowance: what a request may use is held before it runs, and afterwards its tenants have what it did not use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.serve.conftest import START_MS, TENANT, by, chat, request, to_hold

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.requests import Embed, Sampling, Usage
from allod.engine.token_estimate import BYTES_PER_TOKEN
from allod.govern.metering.prices import ModelPrices
from allod.govern.metering.quotas import NeedsLease, Quotas, Reservation
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.tenants import Budget, Quota, Tenant, organization
from allod.serve.allowance import MAX_LEASES, TOKENS_PER_MESSAGE, Allowance, RequestHold
from allod.serve.request import Request

PROMPT_TOKENS = 100
MICROS = ModelPrices(micros_per_1k_prompt_tokens=1_000, micros_per_1k_completion_tokens=1_000)  # a millionth a token
LIMITED = replace(TENANT, quota=Quota(tokens_per_minute=1_000))


class Gone:
    """A store that nobody can reach."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*words: Any, **named: Any) -> Any:
            raise Unavailable("the tenants' database does not answer", code="tenants_unavailable", retry_after_s=1)

        return fail


class Restless:
    """Limits that others always empty in the moment in which something was leased."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.threads: list[threading.Thread] = []

    def reserve(self, tenant: Tenant, **wanted: Any) -> NeedsLease:
        self.num_asked += 1
        return NeedsLease(())

    def lease(self, needed: NeedsLease) -> None:
        self.threads.append(threading.current_thread())


def allowance(quotas: Any = None, **prices: ModelPrices) -> Allowance:
    """Of two models, m and n, which cost `MICROS` unless it is said."""
    return Allowance(quotas or Quotas(MemoryStore(), gateway="a"), {"m": MICROS, "n": MICROS, **prices})


def asked(max_tokens: int | None = 100, *, prompt_tokens: int = PROMPT_TOKENS, **changes: Any) -> Request:
    """A chat that is taken to have so many tokens in its prompt, and that may be answered with so many."""
    text = "x" * BYTES_PER_TOKEN * (prompt_tokens - TOKENS_PER_MESSAGE)
    sampling = Sampling(seed=1, max_tokens=max_tokens)
    return request(chat(messages=({"role": "user", "content": text},), sampling=sampling), **changes)


async def refusal(made: Allowance, tenant: Tenant, one: Request) -> AllodError:
    with pytest.raises(AllodError) as caught:
        await made.hold(*to_hold(one, tenant))
    return caught.value


async def is_left(made: Allowance, tenant: Tenant, tokens: int) -> None:
    """Exactly that many tokens are left: one request for all of them can be held, one for one more cannot.

    Whatever was held for it is given back.
    """
    probe = replace(tenant, quota=replace(tenant.quota, requests_per_minute=None))
    assert (await refusal(made, probe, asked(tokens - PROMPT_TOKENS + 1))).code in ("rate_limited", "exceeds_limit")
    made.release(
        await made.hold(*to_hold(asked(tokens - PROMPT_TOKENS, start_ms=START_MS + 2_000), probe))
    )  # a no holds for 1 s


# What is held


async def test_a_tenant_without_limits_is_held_to_none() -> None:
    """However much it asks for, and although the store is gone: nothing is asked of it."""
    made = allowance(Quotas(Gone(), gateway="a"))
    for _ in range(50):
        await made.hold(*to_hold(asked(10**6)))


async def test_prompt_and_answer_are_held_together() -> None:
    """Until it is settled nobody else can have them, though nothing was used yet."""
    made = allowance()
    await made.hold(*to_hold(asked(300), LIMITED))
    await made.hold(*to_hold(asked(400), LIMITED))
    assert (await refusal(made, LIMITED, asked(1))).code == "rate_limited"


@pytest.mark.parametrize(
    ("one", "foreseen"),
    [
        (asked(50), (100, 50)),
        (asked(None), (100, 900)),  # all that the context has left
        (asked(5_000), (100, 900)),
        (asked(None, prompt_tokens=999), (999, 1)),
        (asked(50, prompt_tokens=5_000), (1_000, 1)),  # the engine will refuse it: it is no more than a whole context
        (request(Embed("m", ("x" * 30, "y" * 29))), (20, 0)),
        (request(Embed("m", ("x" * 9_000,))), (3_000, 0)),  # many texts, each within the context
        (request(chat(messages=({"role": "user", "content": "é" * 3},) * 2)), (4 + 2 * TOKENS_PER_MESSAGE, 980)),
        (request(chat(messages=({"role": "user", "content": "\ud800"},))), (TOKENS_PER_MESSAGE + 1, 991)),
    ],
)
async def test_what_a_request_may_use_is_foreseen(one: Request, foreseen: tuple[int, int]) -> None:
    """From its length in bytes, its messages, what it asks for, and what the engine's context has room for."""
    held = await allowance().hold(*to_hold(one))
    assert (held.prompt_tokens, held.max_tokens) == foreseen


async def test_what_no_window_can_hold_is_told_so() -> None:
    """Not "come back later", which would never be true."""
    error = await refusal(allowance(), LIMITED, asked(None, prompt_tokens=1_001))
    assert isinstance(error, Invalid)
    assert (error.code, error.param) == ("exceeds_limit", "max_tokens")


async def test_a_refusal_says_when_to_come_back() -> None:
    """At the end of the minute in which the request started, by the time that its receipt would say."""
    made, one = allowance(), asked(900)
    await made.hold(*to_hold(one, LIMITED))
    error = await refusal(made, LIMITED, one)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 60 - START_MS % 60_000 / 1000
    await made.hold(*to_hold(replace(one, start_ms=START_MS + 60_000), LIMITED))


async def test_a_limit_of_one_model_counts_for_that_model() -> None:
    """The name that the request asks for is the one that is counted."""
    tenant = replace(TENANT, model_quotas={"m": Quota(concurrent=1)})
    made = allowance()
    await made.hold(*to_hold(asked(), tenant))
    assert (await refusal(made, tenant, asked())).code == "rate_limited"
    await made.hold(*to_hold(request(chat(model="n")), tenant))


async def test_money_is_held_at_the_price_of_what_is_foreseen() -> None:
    """A budget cannot be spent twice by two that run at the same time."""
    tenant = replace(TENANT, budgets=(Budget("day", micros=500),))
    made = allowance()
    await made.hold(*to_hold(asked(200), tenant))
    assert (await refusal(made, tenant, asked(101))).code == "budget_exhausted"
    await made.hold(*to_hold(asked(100, start_ms=START_MS + 2_000), tenant))
    assert (await refusal(made, tenant, asked(100, prompt_tokens=8))).code == "budget_exhausted"


# What is charged


async def test_what_was_used_is_charged_and_the_rest_given_back() -> None:
    """Of 1,000 held 30 were used: 970 are left, to the token."""
    made = allowance()
    held = await made.hold(*to_hold(asked(900), LIMITED))
    made.settle(held, Usage(10, 20), engine_ms=5)
    await is_left(made, LIMITED, 970)


async def test_release_gives_everything_back() -> None:
    """Tokens, the place among those at a time, and the request itself, which counts as none."""
    tenant = replace(TENANT, quota=Quota(requests_per_minute=1, tokens_per_minute=1_000, concurrent=1))
    made = allowance()
    for _ in range(5):
        made.release(await made.hold(*to_hold(asked(900), tenant)))
    made.settle(await made.hold(*to_hold(asked(900), tenant)), Usage(1, 1), engine_ms=1)
    assert (await refusal(made, tenant, asked(1, prompt_tokens=8))).code == "rate_limited"


@pytest.mark.parametrize(
    ("budget", "usage", "engine_ms"),
    [
        (Budget("day", tokens=1_000), Usage(400, 600), 0),
        (Budget("day", engine_ms=70), Usage(1, 1), 70),
        (Budget("month", micros=1_000), Usage(400, 600), 0),
    ],
)
async def test_each_budget_is_charged_what_its_receipt_will_say(budget: Budget, usage: Usage, engine_ms: int) -> None:
    """Tokens of prompt and answer, the engine's time, money: used up exactly, nothing more is held."""
    tenant = replace(TENANT, budgets=(budget,))
    made = allowance()
    held = await made.hold(*to_hold(asked(100), tenant))
    made.settle(held, usage, engine_ms)
    assert (await refusal(made, tenant, asked(1, prompt_tokens=8))).code == "budget_exhausted"


async def test_what_is_free_needs_no_money() -> None:
    """A budget of a millionth lasts for ever, and one that is overrun by another model keeps nobody from it."""
    tenant = replace(TENANT, budgets=(Budget("day", micros=1),))
    made = allowance(m=ModelPrices(), n=ModelPrices(micros_per_engine_second=1_000))
    free = [await made.hold(*to_hold(asked(), tenant)) for _ in range(5)]
    dear = replace(asked(), task=replace(asked().task, model="n"))
    made.settle(await made.hold(*to_hold(dear, tenant)), Usage(1, 1), engine_ms=5_000)
    assert (await refusal(made, tenant, dear)).code == "budget_exhausted"
    free += [await made.hold(*to_hold(asked(), tenant)) for _ in range(5)]
    assert [made.settle(held, Usage(100, 100), engine_ms=1_000) for held in free] == [0] * 10


async def test_a_refusal_is_told_though_a_budget_is_overrun() -> None:
    """It needs nothing of it: who may not is not told to come back tomorrow."""
    tenant = replace(TENANT, budgets=(Budget("day", tokens=500),))
    made = allowance()
    made.settle(await made.hold(*to_hold(asked(), tenant)), Usage(400, 400), engine_ms=1)
    await made.count_refusal(by(tenant, asked()))


async def test_money_is_charged_for_the_engines_time() -> None:
    """Nobody knows before how long it will be; it counts against the next."""
    tenant = replace(TENANT, budgets=(Budget("day", micros=1_000),))
    made = allowance(m=ModelPrices(micros_per_engine_second=2_000))
    made.settle(await made.hold(*to_hold(asked(), tenant)), Usage(1, 1), engine_ms=500)
    assert (await refusal(made, tenant, asked())).code == "budget_exhausted"


async def test_each_model_is_held_and_charged_at_its_own_prices() -> None:
    """What the dear one may cost is more than the budget has; the cheap one runs, and says what it cost."""
    tenant = replace(TENANT, budgets=(Budget("day", micros=1_000),))
    made = allowance(n=ModelPrices(micros_per_1k_completion_tokens=20_000))
    held = await made.hold(*to_hold(asked(100), tenant))
    assert made.settle(held, Usage(100, 90), engine_ms=1) == 190
    dear = replace(asked(41), task=replace(asked(41).task, model="n"))
    assert (await refusal(made, tenant, dear)).code == "budget_exhausted"
    dear = replace(asked(40), task=replace(asked(40).task, model="n"), start_ms=START_MS + 2_000)
    assert made.settle(await made.hold(*to_hold(dear, tenant)), Usage(100, 5), engine_ms=1) == 100


# What is forbidden


async def test_a_refusal_counts_as_a_request_and_as_no_more() -> None:
    """It takes no tokens, no money and no place at a time: only the next of the minute's requests."""
    quota = Quota(requests_per_minute=3, tokens_per_minute=1_000, concurrent=1)
    tenant = replace(TENANT, quota=quota, budgets=(Budget("day", tokens=1_000, engine_ms=1, micros=1_000),))
    made, one = allowance(), asked(900)
    for _ in range(2):
        await made.count_refusal(by(tenant, one))
    made.release(await made.hold(*to_hold(one, tenant)))
    await made.count_refusal(by(tenant, one))
    for refused in (made.count_refusal(by(tenant, one)), made.hold(*to_hold(one, tenant))):
        with pytest.raises(Unavailable) as caught:
            await refused
        assert caught.value.code == "rate_limited"


async def test_a_refusal_asks_nothing_of_what_cannot_be_measured() -> None:
    """A budget of energy keeps answers out where none is metered; a refusal uses none."""
    await allowance().count_refusal(by(replace(TENANT, budgets=(Budget("day", millijoules=5),)), asked()))


# All tenants together


@pytest.fixture
def shared() -> Allowance:
    """An organisation that may spend 1,000 millionths a month: a thousand tokens."""
    made = allowance()
    made.organization = organization("1000")
    return made


async def test_what_one_tenant_spends_no_other_can(shared: Allowance) -> None:
    """Each is within its own limits; together they are at the end of theirs."""
    for name in ("a", "b"):
        held = await shared.hold(*to_hold(asked(400), replace(TENANT, id=name)))
        shared.settle(held, Usage(PROMPT_TOKENS, 400), engine_ms=1)
    assert (await refusal(shared, replace(TENANT, id="c"), asked(1, prompt_tokens=8))).code == "budget_exhausted"


async def test_what_all_have_in_common_is_given_back_too(shared: Allowance) -> None:
    """Settled for less, or released: the rest is there for the others."""
    shared.release(await shared.hold(*to_hold(asked(900))))
    shared.settle(await shared.hold(*to_hold(asked(900))), Usage(100, 0), engine_ms=1)
    await shared.hold(*to_hold(asked(800), replace(TENANT, id="b")))


async def test_where_all_together_may_not_the_tenant_gets_its_own_back(shared: Allowance) -> None:
    """A refusal for what others spent takes nothing of its own: neither tokens nor its place nor a request."""
    tenant = replace(TENANT, id="b", quota=Quota(requests_per_minute=1, tokens_per_minute=1_000, concurrent=1))
    shared.settle(await shared.hold(*to_hold(asked(900))), Usage(1_000, 0), engine_ms=1)
    for _ in range(3):
        assert (await refusal(shared, tenant, asked(900))).code == "budget_exhausted"
    shared.organization = None
    await shared.hold(*to_hold(asked(900), tenant))


async def test_where_the_tenant_may_not_nothing_of_all_is_held(shared: Allowance) -> None:
    """Its refusals leave the others' money alone."""
    tenant = replace(TENANT, id="b", quota=Quota(concurrent=1))
    first = await shared.hold(*to_hold(asked(1), tenant))
    for _ in range(5):
        assert (await refusal(shared, tenant, asked(800))).code == "rate_limited"
    shared.release(first)
    await shared.hold(*to_hold(asked(900)))


async def test_who_leaves_between_the_two_leaves_nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client went while the organisation's slice was being leased: the tenant's place is free again."""
    quotas = Quotas(MemoryStore(), gateway="a")
    leasing, leave = threading.Event(), threading.Event()
    lease = quotas.lease

    def slow(needed: NeedsLease) -> None:
        if needed.wants[0][0].tenant_id == "organization":
            leasing.set()
            assert leave.wait(10)
        lease(needed)

    monkeypatch.setattr(quotas, "lease", slow)
    made = allowance(quotas)
    made.organization = organization("1000")
    tenant = replace(LIMITED, quota=Quota(tokens_per_minute=1_000, concurrent=1))
    holding = asyncio.create_task(made.hold(*to_hold(asked(900), tenant)))
    await asyncio.to_thread(leasing.wait, 10)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    leave.set()
    await made.hold(*to_hold(asked(900), tenant))


# Leases


async def test_leases_are_tried_a_bounded_number_of_times() -> None:
    """Where others are always faster the request is told to come back, and the store is left in peace."""
    quotas = Restless()
    error = await refusal(allowance(quotas), LIMITED, asked())
    assert isinstance(error, Unavailable)
    assert (error.code, error.retry_after_s) == ("rate_limited", 1)
    assert quotas.num_asked == len(quotas.threads) == MAX_LEASES


async def test_the_store_is_asked_in_a_thread() -> None:
    """It blocks, and the event loop has others to serve."""
    quotas = Restless()
    await refusal(allowance(quotas), LIMITED, asked())
    assert threading.main_thread() not in quotas.threads


async def test_a_store_that_cannot_be_asked_lets_nobody_in() -> None:
    """A limit that cannot be counted is a limit that is reached."""
    error = await refusal(allowance(Quotas(Gone(), gateway="a")), LIMITED, asked())
    assert (error.code, isinstance(error, Unavailable)) == ("tenants_unavailable", True)


async def test_two_gateways_share_one_limit() -> None:
    """What one has charged the other cannot have, whoever leased it first."""
    store = MemoryStore()
    one, other = (allowance(Quotas(store, gateway=name)) for name in ("a", "b"))
    one.settle(await one.hold(*to_hold(asked(500), LIMITED)), Usage(100, 500), engine_ms=1)
    assert (await refusal(other, LIMITED, asked(500))).code == "rate_limited"
    await other.hold(*to_hold(asked(200), LIMITED))


def test_nothing_held_is_nothing_to_settle() -> None:
    """The same calls serve those whom nothing limits."""
    for held in (RequestHold((), 1, 1, MICROS), RequestHold((Reservation(),), 1, 1, MICROS)):
        allowance().settle(held, Usage(1, 1), engine_ms=1)
        allowance().release(held)
