"""Which replica probably holds the beginning of a prompt, so that it need not be computed again.

An engine keeps what it has computed. Who was sent a prompt probably has it still, and all prompts that begin alike can
begin there. No text is kept and no tokenizer is needed: a prompt is known by hashes of its blocks of bytes, each of
which covers everything before it, the salt and the model first. Salts are secret, one for each tenant and label
(`engine/salts.py`), so nobody's blocks can be foreseen, and nobody's are another's.

Blocks grow by an eighth of what is before them. So a short chat is known exactly enough, a prompt of a mebibyte has 60
blocks, and looking at one takes a bounded time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from allod.core.requests import Chat
from allod.engine.token_estimate import BYTES_PER_TOKEN

LEAST_BYTES = 256  # of a block; some 64 tokens, less is computed sooner than it is looked up
GROWTH = 8  # a block is at least an eighth of what is before it
MOST_BYTES = 1 << 20  # of a prompt: who holds the first mebibyte of it is the one to ask
MOST_MESSAGES = 1 << 12  # the same of many short ones
MOST_BLOCKS = 1 << 17  # that are known of, all replicas together: some 45 MB
MOST_OF_ONE = 1 << 14  # of these at one replica; to forget them all takes some 20 ms
SHARED = 3  # prompts that begin with a block
_HASH_BYTES = 8  # what two prompts have in common by chance costs one of them time and tells nobody anything


def _block_ends() -> Iterator[int]:
    end = 0
    while end <= MOST_BYTES:
        yield end
        end += max(LEAST_BYTES, end // GROWTH)


_ENDS = tuple(_block_ends())
_TOKENS = tuple((end - begin) // BYTES_PER_TOKEN for begin, end in pairwise(_ENDS))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as its blocks: hashes, each of which covers all before it, and about how many tokens each block has.

    `rest_tokens` are of what follows the last block.
    """

    blocks: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    rest_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens) + self.rest_tokens


def prompt_of(chat: Chat, salt: str) -> Prompt:
    """The prompt of a chat that an engine is sent: its tools are among its messages, its schema is in no prompt."""
    data = _first_bytes(chat)
    running = hashlib.sha256(f"{salt}\0{chat.model}\0".encode("utf-8", "surrogatepass"))
    blocks = []
    for begin, end in pairwise(_ENDS):
        if end > len(data):
            break
        running.update(data[begin:end])
        blocks.append(int.from_bytes(running.digest()[:_HASH_BYTES], "big"))
    rest_tokens = (len(data) - _ENDS[len(blocks)]) // BYTES_PER_TOKEN
    return Prompt(tuple(blocks), _TOKENS[: len(blocks)], rest_tokens)


def _first_bytes(chat: Chat) -> bytes:
    """Of all messages, as far as they are looked at. Two that begin alike are alike here, wherever they end."""
    parts, left = [], MOST_BYTES
    for message in chat.messages[:MOST_MESSAGES]:
        text = f"{message['role']}\0{(message.get('content') or '')[:left]}\0"
        parts.append(text.encode("utf-8", "surrogatepass"))
        left -= len(parts[-1])
        if left <= 0:
            break
    return b"".join(parts)[:MOST_BYTES]


@dataclass(frozen=True, slots=True)
class Beginning:
    """How much of a prompt some replicas hold: `holders` has the bit of each that holds all of these blocks.

    `tokens` are those that need not be computed there. `worth` is what a copy of them saves: tokens, each shared among
    the requests that it has served so far, as another replica's copy would be.
    """

    holders: int
    num_blocks: int
    tokens: int
    worth: float


class Prefixes:
    """What replicas, by their numbers from 0, were sent: the latest blocks of each, so many of all together."""

    def __init__(self, num_replicas: int, *, most_blocks: int = MOST_BLOCKS) -> None:
        self._most_of_one = min(MOST_OF_ONE, most_blocks // num_replicas)
        self._latest: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(num_replicas)]
        self._holders: dict[int, int] = {}
        self._uses: dict[int, int] = {}

    def __len__(self) -> int:
        """Blocks that are known of, each counted at every replica that holds it."""
        return sum(map(len, self._latest))

    def find(self, prompt: Prompt) -> list[Beginning]:
        """The beginnings of the prompt that are held, the longest first: another one for each set of holders."""
        found: list[Beginning] = []
        holders, tokens, worth = -1, 0, 0.0
        for number, block in enumerate(prompt.blocks):
            held = holders & self._holders.get(block, 0)
            if held != holders and number:
                found.append(Beginning(holders, number, tokens, worth))
            holders = held
            if not holders:
                break
            tokens += prompt.tokens[number]
            worth += prompt.tokens[number] / self._uses[block]
        if holders > 0:
            found.append(Beginning(holders, len(prompt.blocks), tokens, worth))
        return found[::-1]

    def num_shared(self, prompt: Prompt) -> int:
        """How many of its first blocks were in so many prompts that they are no one conversation's."""
        uses = self._uses
        return next((at for at, block in enumerate(prompt.blocks) if uses.get(block, 0) < SHARED), len(prompt.blocks))

    def note(self, prompt: Prompt, number: int) -> None:
        """That replica is sent this prompt."""
        latest, bit = self._latest[number], 1 << number
        holders, uses = self._holders, self._uses
        for block in reversed(prompt.blocks):  # so that a prompt's end is forgotten before its beginning
            latest[block] = None
            latest.move_to_end(block)
            holders[block] = holders.get(block, 0) | bit
            uses[block] = uses.get(block, 0) + 1
        while len(latest) > self._most_of_one:
            self._drop(latest.popitem(last=False)[0], bit)

    def forget(self, number: int) -> None:
        """That replica was started again, and holds nothing."""
        for block in self._latest[number]:
            self._drop(block, 1 << number)
        self._latest[number].clear()

    def _drop(self, block: int, bit: int) -> None:
        self._holders[block] &= ~bit
        if not self._holders[block]:
            del self._holders[block], self._uses[block]
