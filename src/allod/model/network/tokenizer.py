"""Text to tokens and back.

Names of special tokens inside a text are text: a document or a message that spells `<|im_end|>` ends nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import tokenizers

from allod.core.errors import Invalid
from allod.model.network.tokenizer_files import END_OF_TEXT, IM_END, IM_START, TOKENIZER

PIECE_CHARACTERS = 1 << 16  # a text is encoded in pieces of about this size: memory, and work for every core
_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")  # SPLIT always cuts here, whatever stands around it


class Tokenizer:
    """A tokenizer as `write_tokenizer` leaves it. `vocab` counts the special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.encode_special_tokens = True  # inverse to its name: their names in a text are ordinary text
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.get_vocab_size()
        self.end_of_text = self._special(END_OF_TEXT)
        self.im_start = self._special(IM_START)
        self.im_end = self._special(IM_END)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer in `folder`. Raises Invalid (`tokenizer_damaged`) where there is none that can be read."""
        path = folder / TOKENIZER
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{path.name}: {error}", code="tokenizer_damaged") from error
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises no narrower one
            raise Invalid(f"{path.name} is no tokenizer: {error}", code="tokenizer_damaged") from error
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text: the same as one at a time, on every core."""
        cut = [list(_pieces(text)) for text in texts]
        encodings = iter(self._tokenizer.encode_batch_fast(list(chain(*cut)), add_special_tokens=False))
        return [list(chain.from_iterable(next(encodings).ids for _ in pieces)) for pieces in cut]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special ones by name. Bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def encode_chat(self, messages: Iterable[Mapping[str, str]], *, add_generation_prompt: bool) -> list[int]:
        """The tokens of a chat by CHAT_TEMPLATE; only the template's own special tokens are special."""
        line_end = self.encode("\n")
        tokens: list[int] = []
        for message in messages:
            said = self.encode(f"{message['role']}\n{message['content']}")
            tokens += [self.im_start, *said, self.im_end, *line_end]
        if add_generation_prompt:
            tokens += [self.im_start, *self.encode("assistant\n")]
        return tokens

    def _special(self, name: str) -> int:
        number: int | None = self._tokenizer.token_to_id(name)
        if number is None:
            raise Invalid(f"the tokenizer has no token {name}", code="tokenizer_damaged")
        return number


def _pieces(text: str) -> Iterable[str]:
    """`text` cut where its tokens are the same as if it were whole."""
    begin = 0
    while len(text) - begin > PIECE_CHARACTERS:
        cut = _BETWEEN_WORDS.search(text, begin + PIECE_CHARACTERS)
        if cut is None:
            break
        yield text[begin : cut.start()]
        begin = cut.start()
    yield text[begin:]
