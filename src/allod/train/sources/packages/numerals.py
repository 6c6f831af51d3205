"""The numbers of chapters, acts and scenes."""

from __future__ import annotations

from itertools import pairwise

_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50}


def number_of(numeral: str) -> int:
    """The number that decimal digits, or Roman ones up to 89, stand for."""
    if numeral.isdigit():
        return int(numeral)
    values = [_ROMAN[letter] for letter in numeral.upper()]
    return sum(-value if value < after else value for value, after in pairwise([*values, 0]))
