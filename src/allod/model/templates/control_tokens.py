"""A model's control tokens, and how a text that spells one stays a text.

The engine reads the whole prompt that a template made, names of control tokens included, and cannot tell the template's
own from a client's. So every text is changed before it meets the template: behind the first character of a name, and of
what could become one, stands a WORD JOINER. It shows nothing, is in no name, and no template takes it out again.

A name may be spelt in several ways. Pieces of a text are looked up in the vocabulary, whatever the type of what is
found there, and a vocabulary writes a space as `▁` (SentencePiece) or each byte as a symbol (byte-level: `Ġ`). And a
text may end what the template begins: the name `\\n<|end|>`, whose line end the template writes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from allod.core.errors import Invalid
from allod.model.network.tokenizer_files import byte_symbols

BREAK = "\u2060"
SLICE_CHARACTERS = 1 << 16  # of a text, looked through in one step; between two of them other threads go on
MAX_ENDINGS = 1 << 16  # of names that a template begins

_SPACE = "▁"  # as SentencePiece writes one
_FOLDS = {ord(letter): letter.lower() for letter in ascii_uppercase} | {ord(_SPACE): " "}
_BYTES = {symbol: byte for byte, symbol in enumerate(byte_symbols())}

# llama.cpp makes these control tokens by their names, whatever type the file gives them (src/llama-vocab.cpp).
KNOWN_NAMES = frozenset(
    (
        "< EOT >",
        "<|eot_id|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<start_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<|message|>",
        "<|constrain|>",
        "<|channel|>",
        "<|start|>",
        "<end_of_utterance>",
        "[EOT]",
        "[EOS]",
        "<eos>",
        "<bos>",
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "<|ifm|im_end|>",
        "<|plamo:file_separator|>",
        "[e~[",
        "<turn|>",
        "<|turn>",
        "<|tool_response>",
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|fim_pad|>",
        "<fim-prefix>",
        "<fim-suffix>",
        "<fim-middle>",
        "<fim-pad>",
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        "<fim_pad>",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<fim-repo>",
        "<reponame>",
        "<|code_prefix|>",
        "<|code_suffix|>",
        "<|code_middle|>",
        "<REPO>",
        "<PRE>",
        "<SUF>",
        "<MID>",
        "<PAD>",
        "▁<EOT>",
        "▁<PRE>",
        "▁<SUF>",
        "▁<MID>",
        "<｜end▁of▁sentence｜>",
        "<｜fim▁begin｜>",
        "<｜fim▁hole｜>",
        "<｜fim▁end｜>",
    )
)


class ControlTokens:
    """The control tokens of one model, ready to keep texts apart from them.

    `names` as the vocabulary spells them, of two characters at least; `cuts` are the strings that the chat template
    takes out of texts or splits them at, `written` those that it writes itself. Matching ignores the case of ASCII
    letters, because templates change it. Cost is linear in the text: a tenth of a microsecond a character at worst.
    Raises Invalid (`control_tokens`) for a name that no text could be told from.
    """

    def __init__(self, names: Iterable[str] = (), *, cuts: Iterable[str] = (), written: Iterable[str] = ()) -> None:
        self.names: Sequence[str] = sorted(set(names))
        spelt = sorted({each for name in self.names for each in _spellings(name)})
        spelt += _endings(spelt, written)
        self._fold = sorted({each.lstrip() for each in spelt})  # what stands before it may be the template's
        self._cuts = tuple(cut for cut in set(cuts) if cut)
        self._longest = max(map(len, self._fold), default=0)
        self._split = {
            letter: re.compile(f"{re.escape(letter)}(?={rest})").split
            for first, rest in _rests(self._fold).items()
            for letter in {first, _raise_letter(first)}
        }

    def plain(self, text: str) -> str:
        """`text`, in which no control token is spelt, whatever a template trims, cuts out or puts beside it."""
        firsts = [letter for letter in self._split if letter in text]
        if not firsts:
            return text
        if any(cut in text for cut in self._cuts):  # what the template takes out could join two halves of a name
            for letter in firsts:
                text = text.replace(letter, letter + BREAK)
            return text
        for letter in firsts:
            text = self._broken(text, letter)
        return self._end_broken(text)

    def plain_texts(self, texts: Iterable[str]) -> list[str]:
        return [self.plain(text) for text in texts]

    def plain_messages(self, messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages whose every text is `plain`; `role` is no text, but one of a few words."""
        return [
            {key: value if key == "role" else self._plain_value(value) for key, value in message.items()}
            for message in messages
        ]

    def _plain_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.plain(value)
        if isinstance(value, Mapping):
            return {self.plain(key): self._plain_value(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain_value(each) for each in value]
        return value

    def _broken(self, text: str, letter: str) -> str:
        """A BREAK behind every `letter` that begins a name; so names that overlap are found, too."""
        joint = letter + BREAK
        return "".join(joint.join(self._parts(text, letter, at)) for at in range(0, len(text), SLICE_CHARACTERS))

    def _parts(self, text: str, letter: str, begin: int) -> list[str]:
        """One slice of `text` without each `letter` that begins a name, though it may end in the next slice."""
        window = text[begin : begin + SLICE_CHARACTERS + self._longest - 1]
        parts = self._split[letter](window)
        excess = len(window) - SLICE_CHARACTERS
        while excess > 0:
            last = parts.pop()
            if len(last) >= excess:
                return [*parts, last[: len(last) - excess]]
            excess -= len(last) + 1  # and the letter before it
        return parts

    def _end_broken(self, text: str) -> str:
        """A text that ends, once trimmed, with the beginning of a name could be continued by what comes after it."""
        end = len(text.rstrip())
        at = max(end - self._longest + 1, 0)
        tail = _fold(text[at:end])
        for begin in range(len(tail) - 1, -1, -1):
            if tail[begin] in self._split and _begins_one(self._fold, tail[begin:]):
                return text[: at + begin + 1] + BREAK + text[at + begin + 1 :]
        return text


def _spellings(name: str) -> Iterator[str]:
    """What a text may say for `name`, folded: itself, and the bytes that it is made of symbols for."""
    yield _check_telling(_fold(name), name)
    with suppress(KeyError, UnicodeDecodeError):
        yield _check_telling(_fold(bytes(_BYTES[symbol] for symbol in name).decode()), name)


def _endings(names: Sequence[str], written: Iterable[str]) -> list[str]:
    """The rests of those of the sorted `names` that a template begins, by what it writes or by another name."""
    found: list[str] = []
    for begun in {*_beginnings(names, written), *names}:
        for index in range(bisect_left(names, begun), len(names)):
            if not names[index].startswith(begun):
                break
            if names[index] != begun:
                found.append(_check_telling(names[index][len(begun) :], names[index]))
            if len(found) > MAX_ENDINGS:
                raise Invalid("the chat template begins too many control tokens", code="control_tokens")
    return found


def _beginnings(names: Sequence[str], written: Iterable[str]) -> Iterator[str]:
    """What the texts end with, folded, and what names begin with."""
    longest, firsts = max(map(len, names), default=0), {name[0] for name in names}
    for text in {_fold(each)[-longest:] for each in written if longest}:
        for begin, letter in enumerate(text):
            if letter in firsts and _begins_one(names, text[begin:]):
                yield text[begin:]


def _begins_one(names: Sequence[str], text: str) -> bool:
    index = bisect_left(names, text)
    return index < len(names) and names[index].startswith(text)


def _check_telling(text: str, name: str) -> str:
    """`text`, what a client might write of `name`. Raises Invalid where that could be anything."""
    if len(text.lstrip()) < 2 or BREAK in text:
        raise Invalid(f"no text could be told from the control token {name!r}", code="control_tokens")
    return text


def _fold(text: str) -> str:
    return text.translate(_FOLDS)


def _raise_letter(letter: str) -> str:
    return letter.upper() if letter in ascii_lowercase else letter


def _expression_for(text: str) -> str:
    """An expression for `text`, in either case. Said letter by letter: re.IGNORECASE takes ten times as long."""
    return "".join(_letter(each) for each in text)


def _letter(each: str) -> str:
    if each == " ":
        return f"[ {_SPACE}]"
    return f"[{each}{_raise_letter(each)}]" if each in ascii_lowercase else re.escape(each)


def _rests(names: Sequence[str]) -> dict[str, str]:
    """For each first character of a name, an expression for the rest of one."""
    rests: dict[str, list[str]] = {}
    for name in names:
        rests.setdefault(name[0], []).append(name[1:])
    return {first: _tree(rest) for first, rest in rests.items()}


def _tree(texts: Sequence[str]) -> str:
    """One of the sorted `texts`; what they begin with in common is compared once. A shorter one is enough."""
    if texts[0] == "":
        return ""
    shared = texts[0]
    while not texts[-1].startswith(shared):
        shared = shared[:-1]
    rest: dict[str, list[str]] = {}
    for text in texts:
        left = text[len(shared) :]
        rest.setdefault(left[:1], []).append(left)
    if "" in rest:
        return _expression_for(shared)
    branches = (_expression_for(first) + _tree([each[1:] for each in many]) for first, many in rest.items())
    return f"{_expression_for(shared)}(?:{'|'.join(branches)})"
