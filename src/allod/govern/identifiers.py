"""Identifiers of people in a text, by a nation's patterns and their check digits.

A net for what slips in by accident, and for what a form, a program or an alphabet does to it on the way: a text is
searched as it came and as it is read, once and again (`govern.readings`). Digits written as words pass. Where a match
stands is told, never what it says: callers redact by position and log the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import attrgetter, mul
from typing import NamedTuple

from allod.core.nations.identifier_patterns import GAP, longest, widen
from allod.core.nations.nation import Identifier, Nation
from allod.govern import readings

# Of one text. Numbers that only happen to look right pass a check one time in ten, eleven or ninety-seven, so a text in
# which so many failed was made to cost time: from there on a match is taken at its looks, which costs less and errs
# towards more care.
MAX_FAILED_CHECKS = 1000

_SEPARATORS = {ord(character): None for character in GAP + readings.NOTHING}


class FoundIdentifier(NamedTuple):
    """An identifier of kind `name` in `text[start:end]`."""

    name: str
    start: int
    end: int


def find_identifiers(text: str, nation: Nation) -> list[FoundIdentifier]:
    """The identifiers in `text`, in their order and without overlap; in time that grows as its length does."""
    found: list[FoundIdentifier] = []
    for times, reading in enumerate(_readings(text)):
        if not times:
            matches = _matches(text, nation.identifiers)
            found += [FoundIdentifier(identifier.name, start, end) for identifier, start, end in matches]
        elif next(_matches(reading, nation.identifiers), None) is not None:
            made = readings.read_with_positions(text, times)
            for identifier, start, end in _matches(made.text, nation.identifiers):
                found.append(FoundIdentifier(identifier.name, made.starts[start], made.ends[end - 1]))
    return _without_overlap(sorted(found, key=attrgetter("start")))


def _without_overlap(found: list[FoundIdentifier]) -> list[FoundIdentifier]:
    """In place of those that overlap, the first of them, as long as they are together."""
    kept: list[FoundIdentifier] = []
    for identifier in found:
        if kept and identifier.start < kept[-1].end:
            kept[-1] = kept[-1]._replace(end=max(kept[-1].end, identifier.end))
        else:
            kept.append(identifier)
    return kept


def markings_in(text: str, nation: Nation) -> frozenset[str]:
    """The markings that `text` must carry for what `find_identifiers` finds in it, and often sooner."""
    possible = {identifier.marking for identifier in nation.identifiers}
    found: set[str] = set()
    for reading in _readings(text):
        for identifier, _, _ in _matches(reading, nation.identifiers):
            found.add(identifier.marking)
            if found == possible:
                return frozenset(found)
    return frozenset(found)


def _readings(text: str) -> Iterator[str]:
    """The text as it came, and each way to read it; none where there is no digit to find."""
    return readings.layers(text) if readings.has_digits(text) else iter(())


def _matches(text: str, identifiers: tuple[Identifier, ...]) -> Iterator[tuple[Identifier, int, int]]:
    if not identifiers or not any(digit in text for digit in "0123456789"):  # ten scans in C beat one of an expression
        return
    search = _compile(identifiers, readings.NOTHING if readings.NOTHING in text else "")
    checks_left = MAX_FAILED_CHECKS
    for digits in search.digits.finditer(text):
        start = max(0, digits.start() - search.reach)
        near = " " + readings.plain(
            text[start : digits.end() + search.reach]
        )  # `scan` wants a character before a match
        position = 0
        while candidate := search.scan.search(near, position):
            position = candidate.start() + 1
            for identifier, pattern in search.rows:
                match = pattern.match(near, position)
                if match is None:
                    continue
                if not checks_left or CHECKS[identifier.check](match[0].translate(_SEPARATORS)):
                    yield identifier, start + match.start() - 1, start + match.end() - 1
                    position = match.end()
                    break
                checks_left -= 1


class _IdentifierSearch(NamedTuple):
    """`digits` finds digits and all between them but for gaps that no match, of `reach` characters at most, can bridge;
    `scan` a character after which an identifier may stand; `rows` have an expression for each by itself."""

    reach: int
    digits: re.Pattern[str]
    scan: re.Pattern[str]
    rows: list[tuple[Identifier, re.Pattern[str]]]


@lru_cache(maxsize=16)
def _compile(identifiers: tuple[Identifier, ...], nothing: str) -> _IdentifierSearch:
    """For texts in which `nothing`, if that is a character, stands for what shows nothing: four times the work."""
    reach = max(longest(identifier.pattern) for identifier in identifiers) * (2 if nothing else 1)
    rows = [(identifier, f"{widen(identifier.pattern, nothing)}(?![A-Z0-9])") for identifier in identifiers]
    scan = "|".join(pattern for _, pattern in rows)
    return _IdentifierSearch(
        reach,
        re.compile(f"[0-9]+(?:[^0-9]{{1,{reach}}}+[0-9]+)*+"),  # possessive: there is nothing to try again
        re.compile(f"[^A-Z0-9](?={scan})"),
        [(identifier, re.compile(pattern)) for identifier, pattern in rows],
    )


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
"""The rules that a profile may name (`CHECK_RULES` of `core.nations.nation`), each a function of the match alone."""
