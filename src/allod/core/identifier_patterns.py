"""The patterns that a nation profile may use to find identifiers: a small part of regular expressions.

Capital letters, digits, spaces, hyphens and slashes; classes such as `[0-9]` or `[A-CEGHJ-N]`; `?`, `{n}` and `{n,m}`
after one of these; alternatives in `(?:…|…)`; `(?!…)` and `(?=…)` to look ahead. Nothing repeats without a bound and
no repetition stands in another, so the work at one place of a text is bounded, whatever the text. Every match holds a
digit: where a text has none there is no need to look.
"""

from __future__ import annotations

import re

MAX_CHARS = 64  # that a match can have, alternatives added up
MAX_WAYS = 256  # to try at one place before giving up

_TOKEN = re.compile(
    r"(?P<open>\(\?[:!=])|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<one>[A-Z0-9 /-]|\[(?:[A-Z0-9](?:-[A-Z0-9])?|[ ./])+-?\])"
    r"(?:(?P<maybe>\?)|\{(?P<least>[0-9]{1,2})(?:,(?P<most>[0-9]{1,2}))?\})?"
)
_DIGIT = re.compile(r"[0-9]|\[(?:[0-9](?:-[0-9])?)+\]")


def fault_of(pattern: str) -> str | None:
    """What is wrong with `pattern`; None if it is one that a profile may use."""
    place, chars, ways, holds_digit = 0, 0, 1, False
    alternatives: list[int] = []  # of each group that is open
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None or (not alternatives and (token["bar"] or token["close"])):
            return f"{pattern[place : place + 8]!r} is not allowed there"
        place = token.end()
        if token["open"]:
            alternatives.append(1)
        elif token["bar"]:
            alternatives[-1] += 1
        elif token["close"]:
            ways *= alternatives.pop()
        else:
            least, most = _repetitions(token)
            chars += most
            ways *= max(1, most - least + 1)
            holds_digit |= not alternatives and least > 0 and _DIGIT.fullmatch(token["one"]) is not None
    if chars > MAX_CHARS or ways > MAX_WAYS:
        return f"it may match {chars} characters, in {ways} ways; {MAX_CHARS} and {MAX_WAYS} are allowed"
    return _fault_of_expression(pattern) if holds_digit else "a match need not hold a digit outside its groups"


def _repetitions(token: re.Match[str]) -> tuple[int, int]:
    if token["maybe"]:
        return 0, 1
    least = int(token["least"] or 1)
    return least, int(token["most"] or least)


def _fault_of_expression(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:  # a range or a repetition that ends before it starts, a group without an end
        return str(error)
    return None
