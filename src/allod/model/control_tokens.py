"""A model's control tokens, and how a text that spells one stays a text.

The engine reads the whole prompt that a template made, names of control tokens included, and cannot tell the template's
own from a client's. So every text is changed before it meets the template: behind the first character of a name, and of
what could become one, stands a WORD JOINER. It shows nothing, is in no name, and no template takes it out again.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from allod.core.errors import Invalid

BREAK = "\u2060"

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
    takes out of texts or splits them at. Matching ignores the case of ASCII letters, because templates change it. Cost
    is linear in the text and some tens of nanoseconds where no name can begin. Raises Invalid (`control_tokens`).
    """

    def __init__(self, names: Iterable[str] = (), *, cuts: Iterable[str] = ()) -> None:
        self.names: Sequence[str] = sorted(set(names))
        for name in self.names:
            if len(name) < 2 or BREAK in name:
                raise Invalid(f"no text could be told from the control token {name!r}", code="control_tokens")
        self._folded = sorted({_folded(name) for name in self.names})
        self._cuts = tuple(cut for cut in set(cuts) if cut)
        self._first = sorted({letter for name in self._folded for letter in (name[0], name[0].upper())})
        self._longest = max(map(len, self.names), default=0)
        flags = re.IGNORECASE | re.ASCII | re.DOTALL
        self._rests = {first: re.compile(rest, flags).match for first, rest in _rests(self._folded).items()}
        self._any_first = re.compile("[" + "".join(map(re.escape, self._first)) + "]" if self._first else r"(?!)")

    def plain(self, text: str) -> str:
        """`text`, in which no control token is spelt, whatever a template trims, cuts out or puts beside it."""
        for letter in self._first:
            if letter in text:
                break
        else:
            return text
        if any(cut in text for cut in self._cuts):  # what the template takes out could join two halves of a name
            return self._any_first.sub(rf"\g<0>{BREAK}", text)
        for letter in self._first:
            text = self._broken(text, letter)
        return self._end_broken(text)

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
        follows, parts, done = self._rests[_folded(letter)], [], 0
        place = text.find(letter)
        while place >= 0:
            if follows(text, place + 1):
                parts += [text[done : place + 1], BREAK]
                done = place + 1
            place = text.find(letter, place + 1)
        return "".join((*parts, text[done:])) if parts else text

    def _end_broken(self, text: str) -> str:
        """A text that ends, once trimmed, with the beginning of a name could be continued by what comes after it."""
        end = len(text.rstrip())
        for begin in range(end - 1, max(end - self._longest, -1), -1):
            if text[begin] in self._first and self._begins_a_name(_folded(text[begin:end])):
                text = text[: begin + 1] + BREAK + text[begin + 1 :]
                end += 1
        return text

    def _begins_a_name(self, text: str) -> bool:
        place = bisect_left(self._folded, text)
        return place < len(self._folded) and self._folded[place].startswith(text)


def _folded(text: str) -> str:
    return re.sub("[A-Z]+", lambda found: found[0].lower(), text)


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
        return re.escape(shared)
    branches = (re.escape(first) + _tree([each[1:] for each in many]) for first, many in rest.items())
    return f"{re.escape(shared)}(?:{'|'.join(branches)})"
