"""A gateway's share of a budget, spent as fast as it goes: a program of its own, so that it can be killed.

Arguments: conninfo, name, limit, most tokens of a request. Each answer's tokens are a line of output, written before
they are settled, as a receipt is durable before its answer ends. It ends when the budget does.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from random import Random

from allod.core.errors import Unavailable
from allod.govern.metering.quotas import Cost, NeedsLease, Quotas
from allod.govern.stores.postgres import postgres_store
from allod.govern.tenancy.tenants import Budget, Quota, Tenant

NUM_THREADS = 4
NOW_MS = 1_795_262_400_000


def spend(quotas: Quotas, tenant: Tenant, most: int, seed: int) -> None:
    """Ask, answer, settle, until nothing is left even for the smallest request."""
    random = Random(seed)
    asked = most
    while True:
        try:
            found = quotas.reserve(tenant, model="m", tokens=asked, now_ms=NOW_MS)
            if isinstance(found, NeedsLease):
                quotas.lease(found)
                continue
        except Unavailable as error:
            if error.code != "budget_exhausted":
                raise
            if asked == 1:
                return
            asked = 1
            continue
        used = random.randint(0, asked) if asked > 1 else 1
        os.write(sys.stdout.fileno(), f"{used}\n".encode())
        quotas.settle(found, tokens=used, cost=Cost())


def main(conninfo: str, name: str, limit: str, most: str) -> None:
    quota = Quota(requests_per_minute=10**9)
    tenant = Tenant("t", "T", created_ms=0, quota=quota, budgets=(Budget("day", tokens=int(limit)),))
    with closing(postgres_store(conninfo)) as store, ThreadPoolExecutor(NUM_THREADS) as threads:
        quotas = Quotas(store, gateway=name)
        for done in [threads.submit(spend, quotas, tenant, int(most), seed) for seed in range(NUM_THREADS)]:
            done.result()
        quotas.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
