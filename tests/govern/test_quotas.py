"""Quotas and budgets: never exceeded, whoever is killed; spent in memory; given back when they are not needed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from tests.contracts import postgres

from allod.core.canonical import MAX_SAFE_INTEGER
from allod.core.errors import Invalid, Unavailable
from allod.govern.metering.quotas import Cost, Quotas, Reservation
from allod.govern.metering.windows import bounds_of, windows_at
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.store import Position
from allod.govern.tenancy.tenants import Budget, Charge, Quota, Tenant

MINUTE_MS = 60_000
DAY_MS = 86_400_000
NOON_MS = 1_795_262_400_000  # 2026-11-21T12:00Z, the start of a minute
NOTHING = Cost(millijoules=0)


class CountingStore(MemoryStore):
    """Counts what it is asked, so that a test can say what costs a question."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def lease(self, **asked: object) -> int:
        self.asked["lease"] += 1
        return super().lease(**asked)  # type: ignore[arg-type]

    def give_back(self, **asked: object) -> None:
        self.asked["give_back"] += 1
        super().give_back(**asked)  # type: ignore[arg-type]


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def quotas(store: CountingStore) -> Quotas:
    return Quotas(store, gateway="one")


def tenant(
    quota: Quota | None = None, *, models: dict[str, Quota] | None = None, budgets: tuple[Budget, ...] = ()
) -> Tenant:
    return Tenant("t", "T", created_ms=0, quota=quota or Quota(), model_quotas=models or {}, budgets=budgets)


def take(
    quotas: Quotas, who: Tenant, tokens: int = 1, *, now_ms: int = NOON_MS, model: str = "m", cost: Cost | None = None
) -> Reservation:
    """What a gateway does to let one request in."""
    for _ in range(100):
        found = quotas.reserve(who, model=model, tokens=tokens, now_ms=now_ms, cost=cost or Cost(1, 1, 1))
        if isinstance(found, Reservation):
            return found
        quotas.lease(found)
    raise AssertionError("leased for ever")


def use(quotas: Quotas, who: Tenant, tokens: int = 1, *, now_ms: int = NOON_MS, model: str = "m") -> None:
    quotas.settle(take(quotas, who, tokens, now_ms=now_ms, model=model), tokens=tokens, cost=NOTHING)


def refused(quotas: Quotas, who: Tenant, tokens: int = 1, *, now_ms: int = NOON_MS, model: str = "m") -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        take(quotas, who, tokens, now_ms=now_ms, model=model)
    return caught.value


def charge(store: MemoryStore, *, at_ms: int = NOON_MS, **amounts: int | None) -> None:
    """One receipt of the tenant's in the ledger."""
    was = store.position("log") or Position(0, 0)
    one = Charge(f"r{was.num_entries}", "t", "", "m", at_ms, "permit", "stop", **amounts)  # type: ignore[arg-type]
    store.charge("log", Position(was.num_entries + 1, was.offset + 1), [one])


# What is limited


def test_who_has_no_limits_costs_nothing(store: CountingStore, quotas: Quotas) -> None:
    """No question to the store, and no memory of the tenant."""
    for _ in range(1000):
        use(quotas, tenant(), MAX_SAFE_INTEGER)
    assert not store.asked
    assert not quotas._accounts


def test_requests_a_minute(quotas: Quotas) -> None:
    """As many as the quota says, then `rate_limited` until the minute ends, then as many again."""
    who = tenant(Quota(requests_per_minute=7))
    for _ in range(7):
        use(quotas, who, now_ms=NOON_MS + 15_000)
    error = refused(quotas, who, now_ms=NOON_MS + 15_000)
    assert (error.code, error.retry_after_s) == ("rate_limited", 45)
    for _ in range(7):
        use(quotas, who, now_ms=NOON_MS + MINUTE_MS)


def test_tokens_a_minute_are_settled_at_what_was_used(quotas: Quotas) -> None:
    """What was reserved and not used can be used by the next request."""
    who = tenant(Quota(tokens_per_minute=100))
    for _ in range(9):
        quotas.settle(take(quotas, who, 20), tokens=10, cost=NOTHING)
    assert refused(quotas, who, 20).code == "rate_limited"
    use(quotas, who, 10)
    assert refused(quotas, who, 1).code == "rate_limited"


def test_what_never_ran_is_not_counted(quotas: Quotas) -> None:
    """A request that got no turn gives its place in the minute back too."""
    who = tenant(Quota(requests_per_minute=1, tokens_per_minute=10))
    for _ in range(5):
        quotas.release(take(quotas, who, 10))
    use(quotas, who, 10)


def test_a_model_has_its_own_quota(quotas: Quotas) -> None:
    """One model's limit leaves the others' alone, and the tenant's own counts for all of them."""
    who = tenant(Quota(requests_per_minute=5), models={"big": Quota(requests_per_minute=2)})
    for _ in range(2):
        use(quotas, who, model="big")
    assert refused(quotas, who, model="big").code == "rate_limited"
    for _ in range(3):
        use(quotas, who, model="small")
    assert refused(quotas, who, model="small").code == "rate_limited"


def test_requests_at_a_time(quotas: Quotas) -> None:
    """Counted while they are under way, for the tenant and for a model; the next one waits for an end."""
    who = tenant(Quota(concurrent=3), models={"big": Quota(concurrent=1)})
    first = take(quotas, who, model="big")
    assert refused(quotas, who, model="big").retry_after_s == 1
    others = [take(quotas, who, model="small") for _ in range(2)]
    assert refused(quotas, who, model="small").code == "rate_limited"
    quotas.settle(first, tokens=1, cost=NOTHING)
    quotas.settle(take(quotas, who, model="big"), tokens=1, cost=NOTHING)
    for one in others:
        quotas.settle(one, tokens=1, cost=NOTHING)


@pytest.mark.parametrize("unit", ["tokens", "engine_ms", "millijoules", "micros"])
@pytest.mark.parametrize(("period", "later_ms"), [("day", DAY_MS), ("month", 10 * DAY_MS)])
def test_budgets(quotas: Quotas, period: str, later_ms: int, unit: str) -> None:
    """Each amount has its own limit for a calendar day or month; `budget_exhausted` until the next one begins."""
    who = tenant(budgets=(Budget(period, **{unit: 30}),))
    used = {"tokens": 0, unit: 15}
    for _ in range(2):
        tokens = used["tokens"] or 1
        cost = Cost(used.get("engine_ms", 0), used.get("millijoules", 0), used.get("micros", 0))
        quotas.settle(take(quotas, who, tokens), tokens=tokens, cost=cost)
    error = refused(quotas, who)
    assert error.code == "budget_exhausted"
    assert error.retry_after_s is not None
    later = NOON_MS + round(error.retry_after_s * 1000)
    assert later <= NOON_MS + later_ms
    assert refused(quotas, who, now_ms=later - 1).code == "budget_exhausted"
    use(quotas, who, now_ms=later)


def test_settling_twice_changes_nothing(quotas: Quotas) -> None:
    """What was given back once is not given back again."""
    who = tenant(Quota(tokens_per_minute=10))
    held = take(quotas, who, 10)
    for _ in range(3):
        quotas.settle(held, tokens=5, cost=NOTHING)
        quotas.release(held)
    use(quotas, who, 5)
    assert refused(quotas, who, 1).code == "rate_limited"


def test_an_overrun_is_taken_from_what_comes_next(quotas: Quotas) -> None:
    """An answer that used more than was reserved, which engine time can, is counted in full."""
    who = tenant(budgets=(Budget("day", engine_ms=1000),))
    quotas.settle(take(quotas, who), tokens=1, cost=Cost(engine_ms=999))
    quotas.settle(take(quotas, who), tokens=1, cost=Cost(engine_ms=10**30))
    assert refused(quotas, who).code == "budget_exhausted"
    quotas.tidy(NOON_MS)
    assert refused(quotas, who, now_ms=NOON_MS + 2000).code == "budget_exhausted"


def test_an_overrun_is_told_to_the_other_gateways(store: CountingStore) -> None:
    """By the next `tidy`, even when no request comes to this one any more."""
    who = tenant(budgets=(Budget("day", engine_ms=1000),))
    one, two = Quotas(store, gateway="one"), Quotas(store, gateway="two")
    one.settle(take(one, who), tokens=1, cost=Cost(engine_ms=995))
    one.tidy(NOON_MS)
    for _ in range(5):
        two.settle(take(two, who), tokens=1, cost=Cost(engine_ms=1))
    assert refused(two, who).code == "budget_exhausted"


@pytest.mark.parametrize("tokens", [11, MAX_SAFE_INTEGER, 10**40, -1])
def test_what_no_window_can_hold_is_refused_for_good(quotas: Quotas, tokens: int) -> None:
    """Waiting would not help, so it is the request that is wrong, and it says how; nor does a negative number help."""
    who = tenant(Quota(tokens_per_minute=10))
    with pytest.raises(Invalid) as caught:
        take(quotas, who, tokens)
    assert (caught.value.code, caught.value.param) == ("exceeds_limit", "max_tokens")
    use(quotas, who, 10)


def test_limits_as_large_as_numbers_go(quotas: Quotas) -> None:
    """Nothing overflows on the way to the store."""
    who = tenant(Quota(MAX_SAFE_INTEGER, MAX_SAFE_INTEGER), budgets=(Budget("month", tokens=MAX_SAFE_INTEGER),))
    use(quotas, who, MAX_SAFE_INTEGER)
    assert refused(quotas, who).code == "rate_limited"


def test_nothing_asked_for_is_nothing_used(quotas: Quotas) -> None:
    """Nought tokens pass where no token is left."""
    who = tenant(Quota(tokens_per_minute=5))
    use(quotas, who, 5)
    use(quotas, who, 0)


# Energy that nobody measures


def test_a_limit_on_energy_needs_energy_to_be_measured(quotas: Quotas) -> None:
    """A budget that cannot be checked lets nobody in, from the first request on."""
    who = tenant(budgets=(Budget("month", millijoules=1000),))
    with pytest.raises(Unavailable) as caught:
        take(quotas, who, cost=Cost(engine_ms=1, millijoules=None, micros=1))
    assert (caught.value.code, caught.value.retry_after_s) == ("budget_unmeasurable", None)


def test_one_answer_without_its_energy_ends_the_budget(quotas: Quotas) -> None:
    """What is left of it is not known any more."""
    who = tenant(budgets=(Budget("day", millijoules=1000),))
    quotas.settle(take(quotas, who), tokens=1, cost=Cost())
    assert refused(quotas, who).code == "budget_unmeasurable"
    quotas.release(take(quotas, who, now_ms=NOON_MS + DAY_MS))


def test_answers_of_the_past_without_their_energy_count_too(store: CountingStore, quotas: Quotas) -> None:
    """The ledger says how many there are in the period."""
    charge(store, millijoules=None)
    assert refused(quotas, tenant(budgets=(Budget("month", millijoules=1000),))).code == "budget_unmeasurable"


# Slices


def test_most_requests_ask_nobody(store: CountingStore, quotas: Quotas) -> None:
    """One question for each tenth of the limit."""
    who = tenant(Quota(requests_per_minute=1000))
    for _ in range(1000):
        use(quotas, who)
    assert store.asked == {"lease": 10}


def test_one_gateway_leaves_the_rest_to_the_others(store: CountingStore) -> None:
    """Of a hundred, a gateway with one request keeps ten from the others."""
    who = tenant(Quota(requests_per_minute=100))
    one, two = Quotas(store, gateway="one"), Quotas(store, gateway="two")
    use(one, who)
    for _ in range(90):
        use(two, who)
    assert refused(two, who).code == "rate_limited"
    for _ in range(9):
        use(one, who)
    assert refused(one, who).code == "rate_limited"


def test_a_tenant_past_its_limit_does_not_burden_the_store(store: CountingStore, quotas: Quotas) -> None:
    """A no holds for a second, for requests that need as much; a smaller one may still fit."""
    who = tenant(Quota(tokens_per_minute=100))
    use(quotas, who, 90)
    refused(quotas, who, 20)
    asked = store.asked.total()
    for _ in range(100):
        refused(quotas, who, 20)
    assert store.asked.total() == asked
    use(quotas, who, 10)
    refused(quotas, who, 20, now_ms=NOON_MS + 1000)
    assert store.asked.total() > asked


def test_what_is_idle_goes_back(store: CountingStore) -> None:
    """A minute after its last request a gateway holds nothing of a budget; before, no more than a slice."""
    who = tenant(budgets=(Budget("month", tokens=1000),))
    one, two = Quotas(store, gateway="one"), Quotas(store, gateway="two")
    quotas_held = take(one, who, 800)
    one.settle(quotas_held, tokens=50, cost=NOTHING)
    assert refused(two, who, 300).code == "budget_exhausted"
    one.tidy(NOON_MS + 1)
    two.release(take(two, who, 850, now_ms=NOON_MS + 2000))
    two.tidy(NOON_MS + 2000 + 2 * MINUTE_MS)
    one.tidy(NOON_MS + 2 * MINUTE_MS)
    use(two, who, 950, now_ms=NOON_MS + 3 * MINUTE_MS)


def test_closing_gives_everything_back(store: CountingStore) -> None:
    """The next gateway finds all that was not used."""
    who = tenant(budgets=(Budget("day", tokens=100),))
    for _ in range(10):
        quotas = Quotas(store, gateway="one")
        use(quotas, who, 10)
        quotas.close()
    assert refused(Quotas(store, gateway="one"), who).code == "budget_exhausted"


def test_windows_that_ended_are_dropped(quotas: Quotas) -> None:
    """Ten thousand tenants of a minute ago take no memory now; an answer still under way keeps its own tenant's."""
    quota = Quota(requests_per_minute=5)
    for number in range(10_000):
        use(quotas, replace(tenant(quota), id=f"t{number}"))
    assert len(quotas._accounts) == 10_000
    held = take(quotas, replace(tenant(quota), id="slow"))
    quotas.tidy(NOON_MS + MINUTE_MS)
    assert list(quotas._accounts) == ["slow"]
    quotas.settle(held, tokens=1, cost=NOTHING)
    quotas.tidy(NOON_MS + MINUTE_MS)
    assert not quotas._accounts


def test_a_store_that_is_gone_lets_nobody_in(store: CountingStore, quotas: Quotas) -> None:
    """Slices that are there are spent; then it is unavailable, and not allowed."""
    who = tenant(Quota(requests_per_minute=20))
    use(quotas, who)

    def gone(**asked: object) -> int:
        raise Unavailable("the database is gone", code="tenants_unavailable")

    store.lease = gone  # type: ignore[method-assign]
    use(quotas, who)
    assert refused(quotas, who).code == "tenants_unavailable"


def test_many_threads_lease_one_slice(store: CountingStore, quotas: Quotas) -> None:
    """Those that waited for another's lease find it, and ask for none of their own."""
    who = tenant(Quota(requests_per_minute=1000))
    needed = [quotas.reserve(who, model="m", tokens=1, now_ms=NOON_MS) for _ in range(50)]
    threads = [threading.Thread(target=quotas.lease, args=(one,)) for one in needed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.asked == {"lease": 1}


def test_nobody_waits_for_long_for_anothers_lease(
    store: CountingStore, quotas: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store does not answer one, the others are told so, and do not queue up to ask it one by one."""
    monkeypatch.setattr("allod.govern.metering.leases.LEASING_S", 0.1)
    asked, answer, lease = threading.Event(), threading.Event(), store.lease

    def slow(**fields: object) -> int:
        asked.set()
        assert answer.wait(10)
        return lease(**fields)

    store.lease = slow  # type: ignore[method-assign]
    who = tenant(Quota(requests_per_minute=1000))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(use, quotas, who)
        try:
            assert asked.wait(60)
            error = refused(quotas, who)
        finally:
            answer.set()
        assert (error.code, error.retry_after_s) == ("tenants_unavailable", 1)
        first.result(60)
    use(quotas, who)
    assert store.asked == {"lease": 1}


# When limits change


def test_a_budget_set_in_mid_month_counts_what_came_before(store: CountingStore) -> None:
    """And it counts it once, for all gateways together."""
    charge(store, prompt_tokens=400, completion_tokens=300)
    charge(store, at_ms=NOON_MS - 40 * DAY_MS, prompt_tokens=10_000)
    who = tenant(budgets=(Budget("month", tokens=1000),))
    one, two = Quotas(store, gateway="one"), Quotas(store, gateway="two")
    for quotas, number in ((one, 10), (two, 20)):
        for _ in range(number):
            use(quotas, who, 10)
    for quotas in (one, two):
        assert refused(quotas, who, 10).code == "budget_exhausted"


@pytest.mark.parametrize("limit", [50, 200])
def test_a_changed_limit_holds_at_once(quotas: Quotas, limit: int) -> None:
    """A slice of the old one goes back; what was used stays used."""
    old, new = (tenant(budgets=(Budget("day", tokens=number),)) for number in (100, limit))
    under_way = take(quotas, old, 10)
    use(quotas, old, 30)
    quotas.settle(take(quotas, new, 5), tokens=5, cost=NOTHING)
    quotas.settle(under_way, tokens=0, cost=NOTHING)
    use(quotas, new, limit - 35)
    assert refused(quotas, new).code == "budget_exhausted"


def test_a_tenant_that_was_only_read_again_keeps_its_slices(store: CountingStore, quotas: Quotas) -> None:
    """An equal tenant is the same tenant."""
    who = tenant(Quota(requests_per_minute=100))
    for _ in range(10):
        use(quotas, replace(who))
    assert store.asked == {"lease": 1}


def test_limits_that_are_lifted(quotas: Quotas) -> None:
    """From the next request on; those under way end in order."""
    under_way = take(quotas, tenant(Quota(concurrent=1)))
    take(quotas, tenant())
    quotas.settle(under_way, tokens=1, cost=NOTHING)


# Time


def test_a_clock_that_goes_back_reopens_nothing(quotas: Quotas) -> None:
    """Neither the minute nor the day: the highest time seen counts."""
    who = tenant(Quota(requests_per_minute=2), budgets=(Budget("day", tokens=3),))
    for _ in range(2):
        use(quotas, who)
    for back_ms in (1, MINUTE_MS, DAY_MS, 40 * DAY_MS, NOON_MS):
        assert refused(quotas, who, now_ms=NOON_MS - back_ms).code == "rate_limited"
    use(quotas, who, now_ms=NOON_MS + MINUTE_MS)
    assert refused(quotas, who, now_ms=NOON_MS - DAY_MS).code == "budget_exhausted"


def test_what_returns_after_its_window_ended_is_not_the_next_ones(quotas: Quotas) -> None:
    """A long answer gives back to the minute that it was reserved in."""
    who = tenant(Quota(tokens_per_minute=100))
    long = take(quotas, who, 100)
    use(quotas, who, 100, now_ms=NOON_MS + MINUTE_MS)
    quotas.settle(long, tokens=1, cost=NOTHING)
    assert refused(quotas, who, now_ms=NOON_MS + MINUTE_MS).code == "rate_limited"


@pytest.mark.parametrize("period", ["minute", "day", "month"])
def test_windows_follow_each_other(period: str) -> None:
    """Each ends where the next begins, leap years and turns of years included, and holds its own bounds."""
    at_ms = 0
    for number in count(getattr(windows_at(0), period)):
        since_ms, until_ms = bounds_of(period, number)  # type: ignore[arg-type]
        assert since_ms == at_ms < until_ms
        assert getattr(windows_at(since_ms), period) == getattr(windows_at(until_ms - 1), period) == number
        at_ms = until_ms
        if number >= 1000 + getattr(windows_at(0), period):
            return


# Kills


def test_what_a_killed_gateway_held_is_lost_or_reclaimed(store: CountingStore) -> None:
    """Without a word from it, its slice is nobody's; its next run finds it again where it is the only gateway."""
    who = tenant(budgets=(Budget("month", tokens=100),))
    killed = Quotas(store, gateway="one")
    use(killed, who, 10)
    charge(store, prompt_tokens=10)
    take(killed, who, 70)
    assert refused(Quotas(store, gateway="one"), who, 50).code == "budget_exhausted"
    again = Quotas(store, gateway="one")
    again.reclaim([who], NOON_MS)
    use(again, who, 90)
    assert refused(again, who).code == "budget_exhausted"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A real PostgreSQL of this module's own."""
    if postgres.WHY_NOT:
        pytest.skip(postgres.WHY_NOT)
    with postgres.running_postgres() as server:
        yield server.conninfo()


@pytest.mark.services
def test_two_gateways_on_postgresql_one_of_them_killed(database: str) -> None:
    """Two processes spend one budget as fast as they can, and SIGKILL ends one in the middle.

    What both charged is at most the limit. What is not charged is at most what the killed one held, a slice and what
    its four requests had reserved, and the same of the other's while it asked for its last.
    """
    limit, most = 1_000_000, 100
    hammer = [sys.executable, str(Path(__file__).with_name("hammer.py")), database]
    killed, other = (
        subprocess.Popen([*hammer, name, str(limit), str(most)], stdout=subprocess.PIPE) for name in ("one", "two")
    )
    assert killed.stdout is not None
    charged = 0
    while charged < limit // 10:
        line = killed.stdout.readline()
        assert line, "it ended before it was killed"
        charged += int(line)
    killed.kill()
    charged += sum(map(int, killed.communicate(timeout=60)[0].split(b"\n")[:-1]))
    of_other = sum(map(int, other.communicate(timeout=60)[0].split()))
    assert (killed.returncode, other.returncode) == (-signal.SIGKILL, 0)
    assert of_other > limit // 10
    assert limit - 2 * (limit // 10 + 4 * most) <= charged + of_other <= limit


class TwoGateways(RuleBasedStateMachine):
    """Two gateways over one store, killed at random: nothing is charged past the limit, but for overruns."""

    under_way = Bundle("under_way")
    LIMIT = 200
    REQUESTS = 30

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.who = tenant(Quota(self.REQUESTS), budgets=(Budget("day", tokens=self.LIMIT, engine_ms=self.LIMIT),))
        self.names = count()
        self.now_ms = NOON_MS
        self.tokens: Counter[int] = Counter()
        self.engine_ms: Counter[int] = Counter()
        self.requests: Counter[int] = Counter()
        self.overrun_ms: Counter[int] = Counter()

    @initialize(share=st.integers(1, 50))
    def start(self, share: int) -> None:
        self.share = share
        self.gateways = [self.gateway(), self.gateway()]

    def gateway(self) -> Quotas:
        return Quotas(self.store, gateway=f"gateway {next(self.names)}", slice_share=self.share)

    @rule(target=under_way, which=st.integers(0, 1), tokens=st.integers(0, 120), engine_ms=st.integers(0, 60))
    def admit(self, which: int, tokens: int, engine_ms: int) -> object:
        quotas = self.gateways[which]
        try:
            found = take(quotas, self.who, tokens, now_ms=self.now_ms, cost=Cost(engine_ms))
        except Unavailable:
            return None
        if self.who.quota.requests_per_minute is not None:
            self.requests[self.now_ms // MINUTE_MS] += 1
        return quotas, found, tokens, engine_ms, self.now_ms // DAY_MS

    @rule(one=consumes(under_way), share=st.floats(0, 1), overrun_ms=st.integers(0, 30))
    def settle(self, one: tuple[Quotas, Reservation, int, int, int] | None, share: float, overrun_ms: int) -> None:
        if one is None or one[0] not in self.gateways:  # what was under way at a killed gateway charges nothing
            return
        quotas, reservation, tokens, engine_ms, day = one
        used_ms = engine_ms + overrun_ms if share > 0.5 else round(engine_ms * share)
        quotas.settle(reservation, tokens=round(tokens * share), cost=Cost(used_ms))
        self.tokens[day] += round(tokens * share)
        self.engine_ms[day] += used_ms
        self.overrun_ms[day] += max(0, used_ms - engine_ms)
        charge(self.store, at_ms=day * DAY_MS, prompt_tokens=round(tokens * share), engine_ms=used_ms)

    @rule(which=st.integers(0, 1), is_kill=st.booleans())
    def end(self, which: int, is_kill: bool) -> None:
        if not is_kill:
            self.gateways[which].close()
        self.gateways[which] = self.gateway()

    @rule(which=st.integers(0, 1))
    def tidy(self, which: int) -> None:
        self.gateways[which].tidy(self.now_ms)

    @rule(ms=st.sampled_from([1, 1000, MINUTE_MS, 2 * MINUTE_MS, DAY_MS // 2]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(quota=st.sampled_from([None, 29, 30]))
    def change(self, quota: int | None) -> None:
        self.who = replace(self.who, quota=Quota(quota))

    @invariant()
    def limits_hold(self) -> None:
        assert all(number <= self.REQUESTS for number in self.requests.values())
        for day, tokens in self.tokens.items():
            assert tokens <= self.LIMIT
            assert self.engine_ms[day] <= self.LIMIT + self.overrun_ms[day]


TestTwoGateways = TwoGateways.TestCase
TestTwoGateways.settings = settings(max_examples=60, stateful_step_count=60)
