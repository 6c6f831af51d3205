"""Texts that show whether two tokenizers are one: lines of the corpus, and strings made to find differences.

Tokenizers that should be the same differ where they cut before merging: at white space, digits, marks, letters of
other scripts, contractions. So these texts have all of those in all neighbourhoods, by rule and always the same.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice, product

MIN_STRINGS = 1500
_EVERY = 199  # of all characters, one in so many is shown
_NUM_MIXTURES = 640

_WORDS = (
    "the", "The", "I'm", "you'LL", "don't", "O'Neil's", "café", "naïve", "ffôn", "tŷ", "Llanfairpwllgwyngyll", "straße",
    "İstanbul", "ΑΒΓδ", "Привет", "שלום", "مرحبا", "नमस्ते", "你好", "こんにちは", "안녕하세요", "ไทย", "x86_64",
    "№", "Ⅷ", "½",
)  # fmt: skip
_NUMBERS = ("7", "42", "123", "1234", "12345", "3.14", "1,000,000", "٣٤٥", "१२३", "²³", "0x1F", "1e-9", "07:45")
_MARKS = (
    ".", "...", "?!", "--", "—", "…", "“", "”", "'", "''", '"', "(", ")", "[", "]", "{", "}", "/", "\\", "<", ">", "&",
    "@", "#", "$", "£", "€", "%", "^", "*", "_", "~", "`", "|", "+", "=", ";", ":", "§", "¶", "•", "\u0301", "\u200d",
)  # fmt: skip
_SPACES = (
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", " \t ", "\u00a0", "\u2003", "\u3000", "\u2028",
    "\u0085", "\u200b", "\ufeff", "\v", "\f",
)  # fmt: skip
_EMOJI = ("🙂", "👩‍💻", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "🇬🇧", "👍🏽", "❤️", "1️⃣", "🧑‍🤝‍🧑")
_TEXTS = (
    "Mae hen wlad fy nhadau yn annwyl i mi, gwlad beirdd a chantorion, enwogion o fri;",
    "Ydy'r trên i'r Rhyl wedi mynd?  Nac ydy, mae'n ugain munud i ddeg.",
    'def main(argv: list[str]) -> int:\n\t"""Say it."""\n    return 0 if argv[1:] else -1  # 1\n',
    'for (int i = 0; i < n; ++i) { a[i] += b[i] * 0.5f; }\n\n\n#include "x.h"\r\n',
    "SELECT *\n  FROM t\n WHERE a<>'b''c' AND d>=10;--x",
    "<p class='a'>&nbsp;<br/></p>\n<!-- \t -->",
    "https://www.example.org/a%20b?c=d&e=f#g mailto:a.b+c@example.org",
    "| a | b |\n|---|--:|\n| 1 | 22 |\n\n* x\n    * y\n",
    "<|endoftext|><|im_start|>user\nHello<|im_end|>\n<s></s>[INST]<unk>",
    "\x00\x01\x7f\x1b[31mred\x1b[0m",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "he's she'd it'll we're they've I'm can't 's 'S 'll'LL 're'RE'",
)


def strings() -> Iterator[str]:
    """At least MIN_STRINGS of them, no two the same."""
    yield from _TEXTS
    yield from _EMOJI
    yield from _in_neighbourhoods()
    yield from _runs()
    yield from _mixtures()


def lines_of(text: str, count: int) -> Iterator[str]:
    """At most `count` different lines of `text` with their ends, spread over all of it."""
    lines = sorted({line: None for line in text.splitlines(keepends=True) if line.strip()}, key=_digest)
    return islice(lines, count)


def _in_neighbourhoods() -> Iterator[str]:
    """Characters of every script between letters, spaces, marks, digits and line ends."""
    known = (chr(code) for code in range(0xA0, sys.maxunicode + 1) if unicodedata.category(chr(code))[0] != "C")
    for character in islice(known, 0, None, _EVERY):
        yield f"a{character}b {character}{character} '{character} 1{character}2\n{character}\n x"


def _runs() -> Iterator[str]:
    """Runs of every length of white space, digits, letters and marks."""
    for text, length in product((" ", "\n", "\t", "\r\n", " \n", "7", "z", "-", "é"), range(1, 24)):
        yield f"x{text * length}y"
        yield f"{text * length}"


def _mixtures() -> Iterator[str]:
    """Words, numbers, marks, spaces and emoji in any order, drawn once and for all."""
    pieces = (*_WORDS, *_NUMBERS, *_MARKS, *_SPACES, *_EMOJI, *_SPACES)
    for number in range(_NUM_MIXTURES):
        drawn = sha256(f"mixture {number}".encode()).digest()
        yield f"{number} " + "".join(pieces[index % len(pieces)] for index in drawn[: 8 + number % 24])


def _digest(line: str) -> bytes:
    return sha256(line.encode()).digest()
