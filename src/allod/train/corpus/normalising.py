"""One way to write a text: the same characters for the same things, and no white space that says nothing."""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{4,}")

# Control characters but for tab and line end, and characters that show nothing: soft hyphens, marks of byte order and
# of direction, zero width. Joiners stay: Indic scripts and emoji need them. Spaces of other widths are spaces.
_TRANSLATED: dict[int, str | None] = {
    **dict.fromkeys((*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))),
    **dict.fromkeys((0xAD, 0x200B, 0x200E, 0x200F, 0x2060, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)),
    **dict.fromkeys((*range(0xD800, 0xE000), 0xFFFE, 0xFFFF)),  # halves of characters, and what is none
    **dict.fromkeys((0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " "),
}


def normalise(text: str) -> str:
    """The text in Unicode's form NFC (UAX #15), with `\\n` as its only line end, without control characters, and with
    at most two empty lines in a row. Indentation stays. One line end at the end, unless nothing is left."""
    text = _LINE_ENDS.sub("\n", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = text.translate(_TRANSLATED)
    text = _EMPTY_LINES.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")
    return f"{text}\n" if text.strip() else ""
