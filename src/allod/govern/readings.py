"""A text as its reader reads it: escapes as what they stand for, other scripts' digits as ours, and a mark for what
shows nothing, which may stand in a word or between two.

Escapes are those of JSON (also doubled, and Python's `\\x39`), of HTML (`&#57;`, `&nbsp;`) and of addresses (`%20`),
both also done twice (`&amp;#57;`, `%2520`), of Markdown (`\\-`), and a terminal's for colours, which show nothing; one
kind may stand in another.
Letters of other alphabets stay what they are, and so do words for numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from html import unescape
from typing import NamedTuple

NOTHING = "\x1a"  # in a reading: whatever shows nothing, once for all that stands in a row
MAX_LAYERS = 3  # of escapes in escapes

# Every repetition is bounded: there is nothing to try again. Each way begins with a character of its own, which is
# what the search leaps to.
_ESCAPE = (
    r"\\\\{0,15}+u[dD][89abAB][0-9A-Fa-f]{2}\\{1,16}+u[dD][c-fC-F][0-9A-Fa-f]{2}"  # one character of UTF-16, in halves
    r"|\x1b\[[0-9;]{0,24}+[A-Za-z]|\\\\{0,15}+(?:u001[bB]|x1[bB]|033|e)\[[0-9;]{0,24}+[A-Za-z]"  # a terminal's colour
    r"|\\\\{0,15}+(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|U[0-9A-Fa-f]{8}|x[0-9A-Fa-f]{2}|[nrtbfvs\"'/.,_+ -])"
    r"|&(?:amp;){0,4}(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[a-zA-Z]{2,24});"
    r"|%(?:25){0,4}[0-9A-Fa-f]{2}(?:%(?:25){0,4}[89abAB][0-9A-Fa-f]){0,3}+"  # one character of UTF-8
)
_ESCAPES = re.compile(_ESCAPE)
_COLOUR = re.compile(r"[^\[]*\[[0-9;]*[A-Za-z]")
_PARTS = re.compile(rf"{_ESCAPE}|.", re.DOTALL)

# All but ASCII and the letters and quotation marks that many texts are made of, which stay what they are.
_FOLDED = re.compile(
    r"[^\x00-\x7f\u00c0-\u024f\u0370-\u0482\u048a-\u052f\u2018-\u201f\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff"
    r"\uac00-\ud7a3]+"
)

# Digits of any script, also raised, in circles, squares, fractions and tags: all that `_Folds` may make a digit of.
_DIGIT = re.compile(
    r"[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u1369-\u1371\u19da\u2070-\u2089\u2150-\u2189\u2460-\u249b\u24ea-\u24ff"
    r"\u2776-\u2793\u3250-\u325f\u32b1-\u32bf\u3378-\u33af\U00010a40-\U00010a43\U00010e60-\U00010e68"
    r"\U00011052-\U0001105a\U0001f100-\U0001f10a\U000e0030-\U000e0039]"
)

_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters that show nothing
_TAGS = range(0xE0020, 0xE007F)  # ASCII that shows nothing, and that models read

# Separators of pasted text, each with the plain one that it looks like: of tables and lines, unbreakable, narrow.
_SPACES = "\u0080-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000"
_DOTS = "\u00b7\u2022\u2024\u2027\u2219\u22c5\u3002\u30fb\u06d4\uff61\uff65"
_HYPHENS = (
    "\u02d7\u058a\u05be\u1400\u1806\u2010-\u2015\u2043\u2212\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58"
)
_SEPARATORS = re.compile(f"[{_SPACES}{_DOTS}{_HYPHENS}]")  # one class: alternatives cost four times as much
_SPACE = re.compile(f"[{_SPACES}]")
_ROW = re.compile(f"{NOTHING}{{2,}}")
_ASCII = bytes(code if 32 <= code < 127 or chr(code) == NOTHING else 32 for code in range(128)).upper() + bytes(128)


class _Folds(dict[int, str]):
    """What a character is read as, found out when it is first met. Separators stay."""

    def __missing__(self, code: int) -> str:
        self[code] = made = _fold_of(chr(code))
        return made


def _fold_of(character: str) -> str:
    if ord(character) in _TAGS:
        return chr(ord(character) - _TAGS.start + 0x20)
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me") or character in _FILLERS:
        return NOTHING
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    if _SEPARATORS.match(character):
        return character
    same = unicodedata.normalize("NFKC", character).replace("\u2044", "/").replace("\u2215", "/")
    if not same.isascii():
        return character
    is_sign = not category.startswith("L") and any(letter.isalpha() for letter in same)
    return f"{NOTHING}{same}{NOTHING}" if is_sign else same  # "No" of U+2116 is no word with what follows


_FOLDS = _Folds()


def has_digits(text: str) -> bool:
    """Whether a digit of any script stands in `text`."""
    return any(digit in text for digit in "0123456789") or (not text.isascii() and _DIGIT.search(text) is not None)


def plain(text: str) -> str:
    """`text` in capital letters with plain separators, one character for one, so that positions stay; ASCII alone."""
    if not text.isascii():
        text = _SEPARATORS.sub(_plain_separator, text)
    return text.encode("ascii", "replace").translate(_ASCII).decode("ascii")


def _plain_separator(character: re.Match[str]) -> str:
    if _SPACE.match(character[0]):
        return " "
    return "." if character[0] in _DOTS else "-"


def layers(text: str) -> Iterator[str]:
    """`text` as it came, and as it is read, again while that is another: the time grows as its length does."""
    yield text
    for _ in range(MAX_LAYERS):
        if (made := read(text)) == text:
            return
        yield made
        text = made


def read(text: str) -> str:
    """What `text` is read as; itself where it hides nothing. The time grows as its length does."""
    if "\\" in text or "&" in text or "%" in text or "\x1b" in text:
        text = _ESCAPES.sub(_unescape, text)
    if not text.isascii():
        text = _FOLDED.sub(_fold, text)
    return _ROW.sub(NOTHING, text) if NOTHING * 2 in text else text


def _fold(run: re.Match[str]) -> str:
    return run[0].translate(_FOLDS)


class PlainReading(NamedTuple):
    """`text` as it is read; `starts[i]` and `ends[i]` are where its character i comes from."""

    text: str
    starts: list[int]
    ends: list[int]


def read_with_positions(text: str, times: int = 1) -> PlainReading:
    """The same, so many times one after another, with where each character came from: some twenty times the work."""
    made: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for part in _PARTS.finditer(text):
        for character in _FOLDED.sub(_fold, part[0] if len(part[0]) == 1 else _unescape(part)):
            if character == NOTHING and made and made[-1] == NOTHING:
                ends[-1] = part.end()
                continue
            made.append(character)
            starts.append(part.start())
            ends.append(part.end())
    if times == 1:
        return PlainReading("".join(made), starts, ends)
    again = read_with_positions("".join(made), times - 1)
    return PlainReading(again.text, [starts[start] for start in again.starts], [ends[end - 1] for end in again.ends])


def _unescape(escape: re.Match[str]) -> str:
    """What it stands for; itself where it stands for nothing."""
    word = escape[0]
    if word[0] == "&":
        return _of_page(f"&{word.split(';')[-2].lstrip('&')};")  # the last, if it is one in another
    if word[0] == "%":
        return _of_address(bytes.fromhex("".join(escape[-2:] for escape in word.split("%"))))
    word = word.lstrip("\\")
    if _COLOUR.fullmatch(word):
        return NOTHING
    if "\\" in word:
        return bytes.fromhex(word[1:5] + word[-4:]).decode("utf-16-be")
    if len(word) == 1:
        return word if word in "\"'/._+-" else " "
    code = int(word[1:].strip("{}"), 16)
    return chr(code) if code <= 0x10FFFF else " "


def _of_page(word: str) -> str:
    """As browsers read it; what begins a terminal's colour they leave out."""
    return unescape(word) or "\x1b"


def _of_address(encoded: bytes) -> str:
    """In UTF-8, or else as forms of Windows wrote it."""
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        before, wrong, after = encoded[: error.start], encoded[error.start : error.end], encoded[error.end :]
        return before.decode() + wrong.decode("cp1252", "replace") + _of_address(after)
