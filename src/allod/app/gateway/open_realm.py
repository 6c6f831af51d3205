"""What of a realm lies on a disk or in a database, opened and checked before anything is answered. It all blocks."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.policies import Policies
from allod.app.gateway.clock import Acceptances, last_time_ms
from allod.app.gateway.meter import DayNames, Meter, check_log_is_there
from allod.app.gateway.open_store import open_store
from allod.app.home import Home, nation_of
from allod.core.files.whole import write_whole
from allod.core.labels import Tier
from allod.core.nations.nation import Nation
from allod.core.times import now_ms
from allod.govern.metering.ledger import Ledger
from allod.govern.metering.quotas import Quotas
from allod.govern.policy.decision import Policy
from allod.govern.tenancy.store import TenantStore
from allod.govern.tenancy.tenants import ORGANIZATION_MICROS, organization
from allod.prove.receipts.clock import Clock
from allod.prove.receipts.day_keys import DayKeys
from allod.prove.tlog.log import Log, open_log
from allod.prove.trust import trust_text
from allod.settings.tree import Settings

SALTS = "salt_secret"  # the setting that holds it, for all gateways of a store


@dataclass(frozen=True, slots=True)
class OpenRealm:
    """Open until `resources` is closed. `tier` is the highest that the site may handle, `policy` the one in force."""

    resources: ExitStack
    nation: Nation
    tier: Tier
    store: TenantStore
    quotas: Quotas
    policies: Policies
    policy: Policy
    log: Log
    day_keys: DayKeys
    meter: Meter
    trust: str
    salt_secret: bytes
    clock: Clock
    acceptances: Acceptances


def open_realm(settings: Settings) -> OpenRealm:
    """Open it all, made on first use; nothing is left open if something fails. Raises AllodError.

    What is there is checked before anything is made or changed: a start that is refused leaves the realm as it was.
    An engine may have begun beside this, and read its weights: it writes to its own `engine.log` and nowhere else.
    The ledger has caught up with the log on return: limits count what was charged before.
    """
    home = Home(settings.home)
    nation = nation_of(settings)
    tier = nation.tier(settings.realm.tier) if settings.realm.tier else nation.tiers[0]
    artefacts = ArtefactsLog(settings)
    artefacts.check_may_begin()
    signing_key = home.signing_key(settings.origin)
    with ExitStack() as resources:
        store = resources.enter_context(closing(open_store(settings)))
        check_log_is_there(settings, store)
        salt_secret = _salt_secret(settings, store)
        policies = Policies(artefacts, nation)
        policy = policies.at_start()
        log = resources.enter_context(closing(open_log(home.receipts, signing_key)))
        if policy is None:
            policies.set_default(now_ms=now_ms())
            policy = policies.current()
        day_keys = DayKeys(home.day_keys)
        acceptances = Acceptances(ArtefactsLog(settings), settings.origin)  # of its own: another thread asks it
        clock = Clock(last_time_ms(log, acceptances.newest()))
        trust = trust_text(signing_key.verifier, artefacts.key)
        if not home.trust.exists() or home.trust.read_text() != trust:
            write_whole(home.trust, trust)
        meter = Meter(log, Ledger(store, settings.origin, DayNames(day_keys, store)))
        meter.catch_up()
        quotas = Quotas(store, gateway=settings.origin)
        if not settings.tenants.database:  # no other gateway holds slices of it
            together = organization(store.read_setting(ORGANIZATION_MICROS))
            quotas.reclaim((*store.changes_since(0).tenants, *([together] if together else [])), now_ms())
        return OpenRealm(
            nation=nation,
            tier=tier,
            store=store,
            quotas=quotas,
            policies=policies,
            policy=policy,
            log=log,
            day_keys=day_keys,
            meter=meter,
            trust=trust,
            salt_secret=salt_secret,
            clock=clock,
            acceptances=acceptances,
            resources=resources.pop_all(),  # last, after all that may fail
        )


def _salt_secret(settings: Settings, store: TenantStore) -> bytes:
    """What cache salts are derived from: in the home; where gateways share their tenants, in what they share."""
    if not settings.tenants.database:
        return Home(settings.home).salt_secret()
    return bytes.fromhex(store.keep_setting(SALTS, os.urandom(32).hex()))
