"""What a gateway does beside answering: it keeps its keys and its policy current, and its ledger up to the log.

Whatever of this fails is reported to the controls, which then let nobody in until it works again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from allod.app.gateway.open_realm import OpenRealm
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.times import day_of, now_ms
from allod.govern.tenancy.keys import KeyRing
from allod.govern.tenancy.tenants import ORGANIZATION_MICROS, organization
from allod.serve.allowance import Allowance
from allod.serve.controls import Controls

NEWS_EVERY_S = 0.25  # a key that was revoked elsewhere is of use for about as long
CHARGE_EVERY_S = 0.5
TIDY_EVERY_S = 5.0

logger = logging.getLogger(__name__)


class Upkeep:
    """Loops, each of which does its work in a thread: a slow ledger must not keep the keys from being current."""

    def __init__(self, opened: OpenRealm, *, keys: KeyRing, controls: Controls, allowance: Allowance) -> None:
        self._opened = opened
        self._keys = keys
        self._controls = controls
        self._allowance = allowance
        known = opened.acceptances.known  # what the clock began with
        self._accepted = known.id if known else None
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._threads = ThreadPoolExecutor(6, "allod-upkeep")  # nobody's request can keep these from being current

    async def start(self) -> None:
        """Read the keys, and begin. Raises Unavailable if they cannot be read."""
        await asyncio.to_thread(self.take_up_news)
        self._tasks = [
            asyncio.create_task(self._repeat("keys", self.take_up_news, NEWS_EVERY_S)),
            asyncio.create_task(self._repeat("policy", self._read_policy, NEWS_EVERY_S)),
            asyncio.create_task(self._repeat("clock", self._check_clock, NEWS_EVERY_S)),
            asyncio.create_task(self._repeat("day keys", self._check_day_keys, NEWS_EVERY_S)),
            asyncio.create_task(self._repeat("ledger", self._charge, CHARGE_EVERY_S)),
            asyncio.create_task(self._repeat("quotas", self._tidy, TIDY_EVERY_S)),
        ]

    async def stop(self) -> None:
        """End, charge what is left, give back what was leased; what cannot be done now is done at the next start."""
        self._ending.set()
        await asyncio.gather(*self._tasks)
        with suppress(AllodError):
            await asyncio.to_thread(self._charge)
        with suppress(AllodError):
            await asyncio.to_thread(self._opened.quotas.close)
        await asyncio.to_thread(self._threads.shutdown)  # it joins them

    async def _repeat(self, control: str, work: Callable[[], object], every_s: float) -> None:
        while not await self._is_ending(every_s):
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, work)
            except AllodError as error:
                if self._controls.report(control, error):
                    logger.warning("%s: %s", control, error.message)
            except Exception as error:  # a loop that ended would leave its control unwatched
                if self._controls.report(control, Unavailable(f"{control} cannot be checked", code="internal")):
                    logger.warning("%s: failed", control, exc_info=error)
            else:
                if self._controls.report(control, None):
                    logger.warning("%s: works again", control)

    async def _is_ending(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), within_s)
        return self._ending.is_set()

    def take_up_news(self) -> None:
        """Bring into force here what the store says now: keys, tenants, the limit that all have in common. Blocks.

        Whatever was in the store before the call is in force when it returns. Raises Unavailable.
        """
        self._keys.refresh(self._opened.store)
        self._allowance.organization = organization(self._opened.store.read_setting(ORGANIZATION_MICROS))

    def _read_policy(self) -> None:
        if self._opened.policies.has_changed():
            self._controls.policy = self._opened.policies.current()

    def _check_clock(self) -> None:
        accepted = None
        with suppress(Invalid, OSError):  # such a log accepts nothing, and the policy says what is wrong
            accepted = self._opened.acceptances.newest()
        if accepted is not None and accepted.id != self._accepted:
            self._accepted = accepted.id
            self._opened.clock.accept(accepted.at_ms)
        self._opened.clock.now_ms()

    def _check_day_keys(self) -> None:
        self._opened.day_keys.check(self._keys.tenant_ids, day_of(now_ms()))

    def _charge(self) -> None:
        self._opened.meter.catch_up()

    def _tidy(self) -> None:
        self._opened.quotas.tidy(now_ms())
