"""What governing a request costs: CPU microseconds of the steps between reading it and sending it to the engine.

python benchmarks/controls.py

A realm of 10,000 tenants with quotas and a daily budget, a kilobyte of text, labels in the headers. Each step is timed
by itself and all of them together, in rounds; the aim for all is 150 us. Beside it, in the same run, the cost of one
HMAC-SHA256 of a kilobyte, so that machines can be compared.
"""

from __future__ import annotations

import asyncio
import hmac
import statistics
import time
from collections.abc import Awaitable, Callable

from allod.core.canonical import digest_of
from allod.core.requests import Chat, Sampling, Usage
from allod.govern.metering.prices import ModelPrices
from allod.govern.metering.quotas import Quotas
from allod.govern.policy.decision import default_text, load_policy
from allod.govern.policy.request import Model, PolicySite
from allod.govern.stores.memory import MemoryStore
from allod.govern.tenancy.keys import KeyRing
from allod.govern.tenancy.tenants import AuditEvent, Budget, Key, Quota, Tenant, api_key_digest, new_id
from allod.serve.admission import Admission
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls
from allod.serve.request import Request
from allod.settings.files import load_nation
from allod.web.http.labels import label_of

NUM_TENANTS, NUM_ROUNDS, NUM_REQUESTS, AIM_US = 10_000, 7, 2_000, 150
HEADERS = {b"x-allod-tier": b"OFFICIAL", b"x-allod-purpose": b"casework"}
USED = Usage(300, 80)
TEXT = "What must I do when cattle are lost or stolen, and whom must I tell? " * 15


def secret_of(number: int) -> str:
    return f"allod-{number:043d}"


def filled_store() -> MemoryStore:
    """10,000 tenants, each with limits and a key."""
    store = MemoryStore()
    for number in range(NUM_TENANTS):
        tenant = Tenant(
            id=f"proj_{number:024x}",
            name=f"Tenant {number}",
            created_ms=0,
            quota=Quota(requests_per_minute=10**9, tokens_per_minute=10**12, concurrent=100),
            budgets=(Budget("day", tokens=10**15),),
        )
        store.put_tenant(tenant, AuditEvent(new_id("audit_log-"), 0, "project.created", "benchmark"))
        digest = api_key_digest(secret_of(number))
        key = Key(f"key_{number:024x}", tenant.id, "a key", digest, secret_of(number)[-4:], 0)
        store.put_key(key, AuditEvent(new_id("audit_log-"), 0, "api_key.created", "benchmark"))
    return store


class Steps:
    """The steps of the main path that govern, over real parts."""

    def __init__(self) -> None:
        self.nation = load_nation("gb")
        self.store = filled_store()
        self.keys = KeyRing(self.nation)
        self.now_ms = time.time_ns() // 1_000_000
        model = Model("m", self.nation.lowest, "Apache-2.0", "GB", informative=True)
        site = PolicySite("north", "GB", self.nation.tiers[0], "sealed")
        policy = load_policy(default_text(), self.nation)
        self.controls = Controls(policy=policy, nation=self.nation, models=[model], site=lambda name: site)
        self.allowance = Allowance(Quotas(self.store, gateway="a"), {"m": ModelPrices()})
        self.admission = Admission(num_running=64, num_waiting=256)
        chat = Chat("m", ({"role": "user", "content": TEXT},), Sampling(seed=1, max_tokens=100))
        self.keys.refresh(self.store)
        self.requests = [
            Request(
                "r", self.keys.caller_of(secret_of(number), self.now_ms), self.nation.lowest, chat, b"", self.now_ms
            )
            for number in range(50)
        ]

    async def authenticate(self, number: int) -> None:
        self.caller = self.keys.caller_of(secret_of(number % 50), self.now_ms)

    def meet(self) -> None:
        """Nobody is let in on old news; and everybody who is asked about anew."""
        self.keys.refresh(self.store)
        self.callers = [self.keys.caller_of(secret_of(number), self.now_ms) for number in range(NUM_REQUESTS)]

    async def label(self, number: int) -> None:
        declared = label_of(HEADERS, self.caller.label, self.nation)
        self.label_ = await self.controls.label(declared, self.requests[0].task.strings(), "m")

    async def decide(self, number: int) -> None:
        assert self.controls.decide(self.caller, "chat", self.label_, "m").permitted

    async def decide_anew(self, number: int) -> None:
        self.controls.policy = load_policy(default_text(), self.nation) if not number else self.controls.policy
        assert self.controls.decide(self.callers[number], "chat", self.label_, "m").permitted

    async def admit(self, number: int) -> None:
        request = self.requests[number % 50]
        held = await self.allowance.hold(request, request.task, 4096)
        async with self.admission.turn(
            self.caller.tenant.id, prompt_tokens=held.prompt_tokens, max_tokens=held.max_tokens
        ) as turn:
            turn.finish(USED)
        self.allowance.settle(held, USED, 100)

    async def everything(self, number: int) -> None:
        await self.authenticate(number)
        await self.label(number)
        await self.decide(number)
        await self.admit(number)


async def timed_us(step: Callable[[int], Awaitable[None]]) -> float:
    begin = time.process_time()
    for number in range(NUM_REQUESTS):
        await step(number)
    return (time.process_time() - begin) / NUM_REQUESTS * 1e6


def hmac_us() -> float:
    data = bytes(1024)
    begin = time.process_time()
    for _ in range(NUM_REQUESTS):
        hmac.digest(data[:32], data, "sha256")
    return (time.process_time() - begin) / NUM_REQUESTS * 1e6


async def main() -> None:
    steps = Steps()
    assert digest_of("warm")
    names = ("authenticate", "label", "decide", "decide_anew", "admit", "everything")
    found: dict[str, list[float]] = {name: [] for name in (*names, "hmac of 1 kB")}
    for _ in range(NUM_ROUNDS):
        for name in names:
            steps.meet()
            found[name].append(await timed_us(getattr(steps, name)))
        found["hmac of 1 kB"].append(hmac_us())
    for name, times in found.items():
        print(f"{name:14} {statistics.median(times):7.1f} us of CPU ({min(times):.1f} to {max(times):.1f})")
    ratio = statistics.median(found["everything"]) / AIM_US
    print(f"{'to the aim':14} {ratio:7.2f} of {AIM_US} us; a decision is made anew once for each key, label and model")


if __name__ == "__main__":
    asyncio.run(main())
