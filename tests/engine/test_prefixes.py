"""Who probably holds the beginning of a prompt: nothing of the text is kept, and nothing is said across salts."""

from __future__ import annotations

import gc
from itertools import pairwise, product
from typing import Any

import pytest

from allod.core.requests import Chat, Sampling
from allod.engine.replicas.prefixes import MOST_BYTES, Beginning, Prefixes, Prompt, prompt_of

SALT, OTHER_SALT = "a" * 64, "b" * 64
RULES = "You answer for the ministry. " * 100


def chat(*texts: str, model: str = "m", **more: Any) -> Chat:
    roles = ("system", "user", "assistant")
    messages = tuple({"role": roles[min(index, 2)], "content": text} for index, text in enumerate(texts))
    return Chat(model, messages, Sampling(seed=1), **more)


def prompt(*blocks: int) -> Prompt:
    """Blocks of ten tokens."""
    return Prompt(blocks, (10,) * len(blocks), 3)


def held(prefixes: Prefixes, asked: Prompt) -> dict[int, int]:
    """By replica: how many of the prompt's first blocks it holds."""
    most: dict[int, int] = {}
    for found in prefixes.find(asked):
        for number in range(8):
            if found.holders >> number & 1:
                most.setdefault(number, found.num_blocks)
    return most


def common(one: Prompt, other: Prompt) -> int:
    return sum(1 for mine, its in zip(one.blocks, other.blocks, strict=False) if mine == its)


def test_a_chat_that_goes_on_begins_with_all_blocks_that_it_had() -> None:
    first = prompt_of(chat(RULES, "a question " * 200), SALT)
    after = prompt_of(chat(RULES, "a question " * 200, "an answer " * 200, "and another question"), SALT)
    assert after.blocks[: len(first.blocks)] == first.blocks
    assert len(after.blocks) > len(first.blocks)


def test_chats_under_the_same_rules_share_the_blocks_of_these_and_no_more() -> None:
    one, other = prompt_of(chat(RULES, "one " * 900), SALT), prompt_of(chat(RULES, "two " * 900), SALT)
    assert 0 < common(one, other) < len(one.blocks)
    covered = sum(one.tokens[: common(one, other)])
    assert 0.85 < covered / (len(RULES) // 3) <= 1  # a block is an eighth of what is before it
    assert one.blocks[-1] != other.blocks[-1]


@pytest.mark.parametrize(
    ("what", "salt"),
    [(chat(RULES, "more"), OTHER_SALT), (chat(RULES, "more", model="adapter"), SALT), (chat("!" + RULES), SALT)],
    ids=["another salt", "another adapter", "another first letter"],
)
def test_nothing_is_in_common(what: Chat, salt: str) -> None:
    """Another tenant's or label's, another adapter's, and what differs at its beginning: no block is the same."""
    one, other = prompt_of(chat(RULES, "more"), SALT), prompt_of(what, salt)
    assert not set(one.blocks) & set(other.blocks)


def test_a_schema_is_in_no_prompt() -> None:
    assert prompt_of(chat(RULES, schema={"type": "object"}), SALT) == prompt_of(chat(RULES), SALT)


def test_tokens_are_those_of_the_whole_prompt() -> None:
    whole = prompt_of(chat("x" * 30_000), SALT)
    assert whole.num_tokens == pytest.approx(10_000, rel=0.01)
    assert all(size >= before for before, size in pairwise(whole.tokens))


def test_a_body_of_any_size_has_a_bounded_number_of_blocks() -> None:
    """Eight megabytes: no more than the first is looked at."""
    large = prompt_of(chat("x" * (8 << 20)), SALT)
    assert len(large.blocks) <= 80
    assert large.num_tokens <= MOST_BYTES // 3
    assert large == prompt_of(chat("x" * MOST_BYTES), SALT)


@pytest.mark.parametrize(("text", "num_blocks"), [("", 0), ("short", 0), ("\ud800" * 200, 2), ("ö" * 200, 1)])
def test_any_text_has_blocks_of_its_bytes(text: str, num_blocks: int) -> None:
    assert len(prompt_of(chat(text), SALT).blocks) == num_blocks


def test_no_text_is_kept() -> None:
    """Of what was asked only hashes stay: no string and no bytes of it are reachable from the table."""
    prefixes = Prefixes(2)
    prefixes.note(prompt_of(chat(RULES, "a secret " * 100), SALT), 0)
    reached, left = set(), [prefixes._latest, prefixes._holders, prefixes._uses]
    while left:
        one: Any = left.pop()
        if id(one) not in reached and not isinstance(one, type):
            reached.add(id(one))
            assert not isinstance(one, str | bytes)
            left += gc.get_referents(one)


def test_who_was_sent_a_prompt_holds_its_beginnings() -> None:
    prefixes = Prefixes(4)
    prefixes.note(prompt(1, 2, 3), 0)
    prefixes.note(prompt(1, 2, 4), 1)
    prefixes.note(prompt(1, 5), 2)
    assert held(prefixes, prompt(1, 2, 3, 6)) == {0: 3, 1: 2, 2: 1}
    assert prefixes.find(prompt(9)) == []
    assert prefixes.find(Prompt()) == []


def test_what_is_found_is_the_longest_first_with_its_tokens_and_worth() -> None:
    """A copy of what served three requests is worth a third of its tokens: the other two thirds were earned already."""
    prefixes = Prefixes(2)
    prefixes.note(prompt(1, 2), 0)
    prefixes.note(prompt(1, 2), 0)
    prefixes.note(prompt(1, 3), 1)
    assert prefixes.find(prompt(1, 2, 3)) == [
        Beginning(0b01, 2, 20, 10 / 3 + 10 / 2),
        Beginning(0b11, 1, 10, 10 / 3),
    ]


def test_what_many_prompts_begin_with_is_no_one_conversations() -> None:
    prefixes = Prefixes(2)
    for number in range(3):
        assert prefixes.num_shared(prompt(1, 2, 9)) == 0
        prefixes.note(prompt(1, 2, 10 + number), number % 2)
    assert prefixes.num_shared(prompt(1, 2, 10)) == 2


def test_find_agrees_with_a_table_of_everything_sent() -> None:
    """Exhaustive: every three prompts of up to three blocks over two letters, sent to two replicas in turn."""
    prompts = [
        tuple(hash(word[: end + 1]) for end in range(length))
        for length in (1, 2, 3)
        for word in product((1, 2), repeat=length)
    ]
    for sent in product(prompts, repeat=3):
        prefixes = Prefixes(2)
        for number, blocks in enumerate(sent):
            prefixes.note(prompt(*blocks), number % 2)
        for asked in prompts:
            most = {}
            for number in (0, 1):
                known = {block for blocks in sent[number::2] for block in blocks}
                depth = next((at for at, block in enumerate(asked) if block not in known), len(asked))
                if depth:
                    most[number] = depth
            assert held(prefixes, prompt(*asked)) == most


def test_a_replica_that_was_started_again_holds_nothing_and_others_what_they_did() -> None:
    prefixes = Prefixes(2)
    prefixes.note(prompt(1, 2), 0)
    prefixes.note(prompt(1, 3), 1)
    prefixes.forget(0)
    assert held(prefixes, prompt(1, 2)) == {1: 1}
    assert len(prefixes) == 2


def test_the_table_is_bounded_and_forgets_the_oldest_and_of_a_prompt_the_end() -> None:
    prefixes = Prefixes(2, most_blocks=8)
    prefixes.note(prompt(1, 2, 3), 0)
    prefixes.note(prompt(7, 8, 9), 0)
    assert held(prefixes, prompt(1, 2, 3)) == {0: 1}
    for number in range(100):
        prefixes.note(prompt(*range(1000 * number, 1000 * number + 5)), number % 2)
        assert len(prefixes) <= 8
    assert len(prefixes._holders) == len(prefixes._uses) == len(prefixes)


def test_what_is_forgotten_leaves_nothing() -> None:
    prefixes = Prefixes(3)
    for number in range(30):
        prefixes.note(prompt(1, number + 10), number % 3)
    for number in range(3):
        prefixes.forget(number)
    assert not prefixes._holders
    assert not prefixes._uses
    assert len(prefixes) == 0
