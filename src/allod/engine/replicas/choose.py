"""Which of a pool's replicas gets a request. Pure: what each has to do is counted by whoever sends it requests.

The one whose work, with what the prompt costs there, is least. A prompt costs nothing where it is held; elsewhere, for
each block, `STAY` times the tokens, shared among the requests that this block has served so far. So a conversation
stays where it is although others have less to do, and what everybody shares, such as rules of 4,000 tokens, is soon
held everywhere: a copy of it is used by many. A bound by the mean load did neither (docs/decisions/0023).

A conversation that is held nowhere has a home, by rendezvous hashing of the first block that is its own, which `HOME`
speaks for: so gateways that know nothing of each other send it to the same replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import sha256

from allod.engine.replicas.prefixes import Beginning, Prefixes, Prompt

STAY = 16  # what a token that is held weighs against one of work; measured: docs/log.md
HOME = 4  # the same of one that is held nowhere, for the prompt's home
_WORD = (1 << 64) - 1


class Why(StrEnum):
    """What decided, for metrics and for whoever asks."""

    ONLY_ONE = "only_one"  # no other could be asked
    PREFIX = "prefix"  # it holds what is this conversation's own
    HOME = "home"  # by agreement of all gateways: what is this conversation's own begins here
    LEAST_WORK = "least_work"  # nothing speaks for another that has more to do


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """A replica when a request is to be sent: `number` is its own, from 0.

    `work` is in tokens, to be computed and foreseen, of what it was sent and has not ended. A suspect one is asked
    last. `adapters` are those that it holds, by name.
    """

    number: int
    work: float
    num_running: int
    slots: int
    is_up: bool = True
    is_suspect: bool = False
    adapters: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ReplicaChoice:
    """`prompt_tokens` are those that are probably to be computed there: with the answer's, the work to count."""

    number: int
    why: Why
    prompt_tokens: int


def choose(
    prompt: Prompt, replicas: Sequence[ReplicaLoad], prefixes: Prefixes, *, adapter: str | None = None
) -> ReplicaChoice:
    """The replica to send it to, among those that are up and hold the adapter. Note it in `prefixes` once it is sent.

    Raises ValueError when there is none: whoever asks has let nobody in then.
    """
    able = _able(replicas, adapter)
    found = prefixes.find(prompt)
    longest = found[0] if found else _NOTHING
    prices = [(held.holders, STAY * (longest.worth - held.worth)) for held in found]
    chosen, least = _cheapest(able, prices, STAY * longest.worth)
    why = Why.ONLY_ONE
    if len(able) > 1:
        num_shared = prefixes.num_shared(prompt)
        why = Why.PREFIX if _part_of(chosen, found).num_blocks > num_shared else Why.LEAST_WORK
        if why is not Why.PREFIX and num_shared < len(prompt.blocks):
            home = _home(prompt.blocks[num_shared], able)
            _, there = _cheapest([home], prices, STAY * longest.worth)
            if home is chosen or there - HOME * (prompt.num_tokens - longest.tokens) < least:
                chosen, why = home, Why.HOME
    return ReplicaChoice(chosen.number, why, prompt.num_tokens - _part_of(chosen, found).tokens)


_NOTHING = Beginning(0, 0, 0, 0.0)


def _part_of(replica: ReplicaLoad, found: list[Beginning]) -> Beginning:
    return next((beginning for beginning in found if beginning.holders >> replica.number & 1), _NOTHING)


def _able(replicas: Sequence[ReplicaLoad], adapter: str | None) -> list[ReplicaLoad]:
    """Those to choose among: suspects and full ones only where there are no others."""
    able = [replica for replica in replicas if replica.is_up and (adapter is None or adapter in replica.adapters)]
    if not able:
        raise ValueError("no replica is up that holds the adapter")
    able = [replica for replica in able if not replica.is_suspect] or able
    return [replica for replica in able if replica.num_running < replica.slots] or able


def _cheapest(
    able: list[ReplicaLoad], prices: list[tuple[int, float]], whole_price: float
) -> tuple[ReplicaLoad, float]:
    """The one where its work and the prompt cost least together, and how much that is."""
    chosen, least = able[0], float("inf")
    for replica in able:
        cost = replica.work
        if cost >= least:
            continue
        number, price = replica.number, whole_price
        for holders, price_there in prices:
            if holders >> number & 1:
                price = price_there
                break
        if cost + price < least:
            chosen, least = replica, cost + price
    return chosen, least


def _home(block: int, able: list[ReplicaLoad]) -> ReplicaLoad:
    """Where prompts are at home of which this is the first block of their own."""
    return max(able, key=lambda replica: block * _odd(replica.number) & _WORD)


@cache
def _odd(number: int) -> int:
    """A number of 64 bits for each replica, the same at every gateway."""
    return int.from_bytes(sha256(b"replica %d" % number).digest()[:8], "big") | 1
