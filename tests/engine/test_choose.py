"""Which replica of a pool gets a request: who has its prefix, unless computing it anew elsewhere is cheaper."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import pytest

from allod.core.requests import Chat, Sampling
from allod.engine.replicas.choose import HOME, STAY, ReplicaChoice, ReplicaLoad, Why, choose
from allod.engine.replicas.prefixes import Prefixes, Prompt, prompt_of

BLOCK_TOKENS, ANSWER_TOKENS = 500, 200


def prompt(*blocks: int) -> Prompt:
    return Prompt(blocks, (BLOCK_TOKENS,) * len(blocks), 20)


def load(number: int, work: float = 0, *, num_running: int = 0, slots: int = 4, **more: object) -> ReplicaLoad:
    return ReplicaLoad(number=number, work=work, num_running=num_running, slots=slots, **more)  # type: ignore[arg-type]


class Pool:
    """Replicas that are sent prompts by gateways which know only what they sent; an answer ends `num_at_once` later."""

    def __init__(self, num_replicas: int, *, num_gateways: int = 1, num_at_once: int = 32) -> None:
        self.tables = [Prefixes(num_replicas) for _ in range(num_gateways)]
        self.work = [[0] * num_replicas for _ in range(num_gateways)]
        self.under_way: list[tuple[int, int, int]] = []
        self.num_at_once = num_at_once
        self.caches: list[set[int]] = [set() for _ in range(num_replicas)]
        self.sent = Counter[int]()
        self.num_blocks = self.num_hits = 0

    def send(self, asked: Prompt, gateway: int = 0) -> ReplicaChoice:
        if len(self.under_way) == self.num_at_once:
            at, number, work = self.under_way.pop(0)
            self.work[at][number] -= work
        replicas = [load(number, work, slots=1000) for number, work in enumerate(self.work[gateway])]
        choice = choose(asked, replicas, self.tables[gateway])
        self.tables[gateway].note(asked, choice.number)
        work = choice.prompt_tokens + ANSWER_TOKENS
        self.work[gateway][choice.number] += work
        self.under_way.append((gateway, choice.number, work))
        self._compute(asked, choice.number)
        return choice

    def _compute(self, asked: Prompt, number: int) -> None:
        hits = next(
            (at for at, block in enumerate(asked.blocks) if block not in self.caches[number]), len(asked.blocks)
        )
        self.caches[number].update(asked.blocks)
        self.num_blocks, self.num_hits = self.num_blocks + len(asked.blocks), self.num_hits + hits
        self.sent[number] += (len(asked.blocks) - hits) * BLOCK_TOKENS + ANSWER_TOKENS

    @property
    def hit_rate(self) -> float:
        return self.num_hits / self.num_blocks

    @property
    def imbalance(self) -> float:
        """The most that one replica had to do, of the mean."""
        return max(self.sent.values()) * len(self.caches) / sum(self.sent.values())


def conversations(num: int, num_turns: int, *, seed: int = 1) -> list[Prompt]:
    """Under rules of two blocks that all share; each turn adds two blocks; turns of different ones in any order."""
    chance = random.Random(seed)
    blocks = [[1, 2] for _ in range(num)]
    turns = [number for number in range(num) for _ in range(num_turns)]
    chance.shuffle(turns)
    prompts = []
    for number in turns:
        blocks[number] += [chance.getrandbits(64), chance.getrandbits(64)]
        prompts.append(prompt(*blocks[number]))
    return prompts


def test_a_conversation_stays_where_it_is_although_others_have_less_to_do() -> None:
    prefixes = Prefixes(3)
    prefixes.note(prompt(1, 2, 3, 4), 1)
    choice = choose(prompt(1, 2, 3, 4, 5), [load(0), load(1, 9000), load(2)], prefixes)
    assert choice == ReplicaChoice(1, Why.PREFIX, BLOCK_TOKENS + 20)


def test_it_leaves_when_others_have_so_much_less_to_do_that_computing_it_anew_is_cheaper() -> None:
    prefixes = Prefixes(3)
    prefixes.note(prompt(1, 2, 3, 4), 1)
    much = STAY * 4 * BLOCK_TOKENS + HOME * 20 + 1
    choice = choose(prompt(1, 2, 3, 4), [load(0), load(1, much), load(2, much)], prefixes)
    assert choice == ReplicaChoice(0, Why.LEAST_WORK, 4 * BLOCK_TOKENS + 20)


def test_the_longest_prefix_decides_among_equals() -> None:
    prefixes = Prefixes(3)
    prefixes.note(prompt(1, 2), 0)
    prefixes.note(prompt(1, 2, 3), 2)
    assert choose(prompt(1, 2, 3, 4), [load(0), load(1), load(2)], prefixes).number == 2


def test_what_is_known_nowhere_and_has_no_blocks_goes_to_whoever_has_least_to_do() -> None:
    assert choose(Prompt(rest_tokens=9), [load(0, 5), load(1, 4)], Prefixes(2)) == ReplicaChoice(1, Why.LEAST_WORK, 9)


def test_of_one_there_is_nothing_to_choose() -> None:
    assert choose(prompt(1), [load(0, 1e9, num_running=99)], Prefixes(1)).why == Why.ONLY_ONE


def test_who_is_down_or_lacks_the_adapter_is_never_chosen() -> None:
    """Exhaustive over three replicas: up or not, suspect or not, full or not, with the adapter or not, and who holds
    the prefix."""
    kinds = [
        load(0, is_up=is_up, is_suspect=is_suspect, num_running=num_running, adapters=adapters)
        for is_up, is_suspect, num_running, adapters in product(
            (True, False), (True, False), (0, 4), (frozenset(), frozenset({"a"}))
        )
    ]
    for holder in range(3):
        prefixes = Prefixes(3)
        prefixes.note(prompt(1, 2, 3), holder)
        for three in product(kinds, repeat=3):
            replicas = [
                load(
                    number,
                    is_up=kind.is_up,
                    is_suspect=kind.is_suspect,
                    num_running=kind.num_running,
                    adapters=kind.adapters,
                )
                for number, kind in enumerate(three)
            ]
            able = [one for one in replicas if one.is_up and "a" in one.adapters]
            if not able:
                with pytest.raises(ValueError, match="no replica"):
                    choose(prompt(1, 2, 3), replicas, prefixes, adapter="a")
                continue
            chosen = replicas[choose(prompt(1, 2, 3), replicas, prefixes, adapter="a").number]
            assert chosen in able
            assert not chosen.is_suspect or all(one.is_suspect for one in able)
            good = [one for one in able if not one.is_suspect] or able
            assert chosen.num_running < 4 or all(one.num_running == 4 for one in good)


def test_nobody_has_more_to_do_than_the_prefix_and_the_home_are_worth() -> None:
    """Exhaustive over small loads and tables: how much more work the chosen one may have than any other is bounded."""
    asked = prompt(1, 2, 3)
    for works in product((0, 500, 5_000, 50_000), repeat=3):
        for sent in product(range(4), repeat=3):
            prefixes = Prefixes(3)
            for number, num_blocks in enumerate(sent):
                prefixes.note(prompt(*asked.blocks[:num_blocks]), number)
            choice = choose(asked, [load(number, work) for number, work in enumerate(works)], prefixes)
            assert works[choice.number] - min(works) <= (STAY + HOME) * asked.num_tokens
            worth = max((found.worth for found in prefixes.find(asked)), default=0)
            assert works[choice.number] - min(works) <= STAY * worth + HOME * asked.num_tokens


@pytest.mark.parametrize(("num_at_once", "num_gateways"), [(8, 1), (32, 1), (256, 1), (32, 3), (256, 3)])
def test_rules_that_everybody_shares_are_soon_held_everywhere(num_at_once: int, num_gateways: int) -> None:
    """A system prompt of 4,000 tokens and eight replicas: none has more than 1.25 times the mean, however many come."""
    chance = random.Random(1)
    pool = Pool(8, num_at_once=num_at_once, num_gateways=num_gateways)
    for _ in range(1500):
        pool.send(prompt(*range(8), chance.getrandbits(64)), chance.randrange(num_gateways))
    assert pool.imbalance <= 1.25
    assert len(pool.sent) == 8
    assert pool.hit_rate > 0.87  # of 8 blocks in 9


def test_conversations_are_spread_and_stay() -> None:
    pool = Pool(8)
    prompts = conversations(200, 8)
    whole = set[int]()
    num_ceiling = 0
    for asked in prompts:
        num_ceiling += len(whole.intersection(asked.blocks))
        whole.update(asked.blocks)
        pool.send(asked)
    assert pool.num_hits >= 0.95 * num_ceiling
    assert pool.imbalance <= 1.25


@pytest.mark.parametrize("num_gateways", [2, 3])
def test_gateways_that_know_nothing_of_each_other_find_nearly_what_one_finds(num_gateways: int) -> None:
    """Each turn comes to any of them."""
    chance = random.Random(2)
    one, several = Pool(8), Pool(8, num_gateways=num_gateways)
    for asked in conversations(200, 8):
        one.send(asked)
        several.send(asked, chance.randrange(num_gateways))
    assert several.hit_rate >= 0.95 * one.hit_rate
    assert several.imbalance <= 1.35  # 25 conversations for each replica are not the same everywhere


def test_another_tenants_prefix_speaks_for_nobody() -> None:
    """The same words under another salt: chosen as if nothing were held, by work alone or at their own home."""
    words = Chat("m", ({"role": "user", "content": "the same words " * 500},), Sampling(seed=1))
    for number in range(200):
        prefixes, other = Prefixes(4), f"{number:064x}"
        prefixes.note(prompt_of(words, "a" * 64), number % 4)
        replicas = [load(number) for number in range(4)]
        choice = choose(prompt_of(words, other), replicas, prefixes)
        assert choice == choose(prompt_of(words, other), replicas, Prefixes(4))
        assert choice.why is not Why.PREFIX


def test_homes_are_spread_evenly() -> None:
    chance = random.Random(3)
    replicas = [load(number) for number in range(8)]
    homes = Counter(choose(prompt(chance.getrandbits(64)), replicas, Prefixes(8)).number for _ in range(4000))
    assert max(homes.values()) < 1.25 * 500
    assert min(homes.values()) > 0.75 * 500


def test_a_home_stays_when_another_replica_goes() -> None:
    """Only what was at home there moves."""
    chance = random.Random(4)
    for _ in range(200):
        asked = prompt(chance.getrandbits(64))
        before = choose(asked, [load(number) for number in range(5)], Prefixes(5))
        after = choose(asked, [load(number, is_up=number != 2) for number in range(5)], Prefixes(5))
        assert after.number == before.number or before.number == 2
