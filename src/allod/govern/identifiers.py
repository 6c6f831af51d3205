"""Identifiers of people in a text, by a nation's patterns and their check digits.

A net for what slips in by accident, not a guard against someone who hides it: digits written as words or in another
script pass. Where a match stands is told, never what it says: callers redact by position and log the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import mul
from typing import NamedTuple

from allod.core.identifier_patterns import MAX_CHARS
from allod.core.nations import Identifier, Nation

# Of one text. Numbers that only happen to look right pass a check one time in ten, eleven or ninety-seven, so a text in
# which so many failed was made to cost time: from there on a match is taken at its looks, which costs less and errs
# towards more care.
MAX_FAILED_CHECKS = 1000

# Digits, and all between them but for gaps that no match can bridge. Possessive: there is nothing to try again.
_DIGITS = re.compile(f"[0-9]+(?:[^0-9]{{1,{MAX_CHARS}}}+[0-9]+)*+")

# Characters that pasted text has instead of those that patterns know, each for one, so that positions stay.
_SAME: dict[int, int | str] = {
    **{lower: lower - 32 for lower in range(ord("a"), ord("z") + 1)},
    **dict.fromkeys(map(ord, "\t\n\r\u00a0\u2007\u2009\u202f"), " "),  # of tables and lines, unbreakable, narrow
    **dict.fromkeys(map(ord, ".\u2010\u2011\u2012\u2013\u2212"), "-"),
}
_SEPARATORS = {ord(character): None for character in " -./"}


class Found(NamedTuple):
    """An identifier of kind `name` in `text[start:end]`."""

    name: str
    start: int
    end: int


def found_in(text: str, nation: Nation) -> list[Found]:
    """The identifiers in `text`, in their order and without overlap; in time that grows as its length does."""
    return [Found(one.name, start, end) for one, start, end in _matches(text, nation.identifiers)]


def markings_in(text: str, nation: Nation) -> frozenset[str]:
    """The markings that `text` must carry for the identifiers in it: what `found_in` finds, and often sooner."""
    possible = {one.marking for one in nation.identifiers}
    found: set[str] = set()
    for one, _, _ in _matches(text, nation.identifiers):
        found.add(one.marking)
        if found == possible:
            break
    return frozenset(found)


def _matches(text: str, identifiers: tuple[Identifier, ...]) -> Iterator[tuple[Identifier, int, int]]:
    if not identifiers or not any(digit in text for digit in "0123456789"):  # ten scans in C beat one of an expression
        return
    scan, rows = _compiled(identifiers)
    checks_left = MAX_FAILED_CHECKS
    for digits in _DIGITS.finditer(text):
        start = max(0, digits.start() - MAX_CHARS)
        near = " " + text[start : digits.end() + MAX_CHARS].translate(_SAME)  # `scan` wants a character before a match
        place = 0
        while candidate := scan.search(near, place):
            place = candidate.start() + 1
            for one, pattern in rows:
                match = pattern.match(near, place)
                if match is None:
                    continue
                if not checks_left or CHECKS[one.check](match[0].translate(_SEPARATORS)):
                    yield one, start + match.start() - 1, start + match.end() - 1
                    place = match.end()
                    break
                checks_left -= 1


@lru_cache(maxsize=16)
def _compiled(identifiers: tuple[Identifier, ...]) -> tuple[re.Pattern[str], list[tuple[Identifier, re.Pattern[str]]]]:
    """One expression that finds a character after which one of them may stand, and one for each by itself."""
    rows = [(one, f"{one.pattern}(?![A-Z0-9])") for one in identifiers]
    scan = "|".join(pattern for _, pattern in rows)
    return re.compile(f"[^A-Z0-9](?={scan})"), [(one, re.compile(pattern)) for one, pattern in rows]


_DOUBLED = {str(digit): sum(divmod(2 * digit, 10)) for digit in range(10)}  # and its two digits added


def _passes_luhn(number: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    return (sum(map(int, number[-1::-2])) + sum(map(_DOUBLED.__getitem__, number[-2::-2]))) % 10 == 0


def _passes_mod11(number: str) -> bool:
    """The last digit has weight 1, the one before it 2 and so on; the sum is a multiple of 11."""
    weighted: Iterator[int] = map(mul, range(len(number), 0, -1), map(int, number))
    return sum(weighted) % 11 == 0


def _passes_mod97(number: str) -> bool:
    """ISO 7064 MOD 97-10 as ISO 13616 has it: the first four characters count as the last, A as 10 to Z as 35."""
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1


CHECKS: dict[str, Callable[[str], bool]] = {
    "format": lambda number: True,  # the pattern has said it all
    "luhn": _passes_luhn,
    "mod11": _passes_mod11,
    "mod97": _passes_mod97,
}
"""The rules that a profile may name (`core.nations.CHECK_RULES`), each a function of the match without separators."""
