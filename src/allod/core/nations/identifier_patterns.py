"""The patterns that a nation profile may use to find identifiers: a small part of regular expressions.

Capital letters, digits, spaces, hyphens and slashes; classes such as `[0-9]` or `[A-CEGHJ-N]`; `?`, `{n}` and `{n,m}`
after one of these; alternatives in `(?:…|…)`; `(?!…)` and `(?=…)` to look ahead. Nothing repeats without a bound and
no repetition stands in another, so the work at one place of a text is bounded, whatever the text. Every match holds a
digit: where a text has none there is no need to look.
"""

from __future__ import annotations

import re

MAX_CHARS = 64  # that a match can have, alternatives added up
MAX_GAP = 3  # characters between two groups, however few the pattern has there
GAP = " ./_+-"  # what people, forms and programs put there
MAX_WAYS = 256  # to try at one place before giving up

_TOKEN = re.compile(
    r"(?P<open>\(\?[:!=])|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<one>[A-Z0-9 /-]|\[(?:[A-Z0-9](?:-[A-Z0-9])?|[ ./])+-?\])"
    r"(?:(?P<maybe>\?)|\{(?P<least>[0-9]{1,2})(?:,(?P<most>[0-9]{1,2}))?\})?"
)
_DIGIT = re.compile(r"[0-9]|\[(?:[0-9](?:-[0-9])?)+\]")
_SEPARATOR = re.compile(r"[ /-]|\[[ ./-]+\]")


def fault_of(pattern: str) -> str | None:
    """What is wrong with `pattern`; None if it is one that a profile may use."""
    position, chars, ways, holds_digit = 0, 0, 1, False
    alternatives: list[int] = []  # of each group that is open
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None or (not alternatives and (token["bar"] or token["close"])):
            return f"{pattern[position : position + 8]!r} is not allowed there"
        position = token.end()
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


def widen(pattern: str, nothing: str = "") -> str:
    """`pattern`, one that may be used, where separators are any of `GAP`, up to `MAX_GAP` of them: as people write.

    Before each character `nothing` may stand, one that no pattern has and that stands for what shows nothing.
    """
    before = nothing and f"{nothing}?+"
    parts: list[str] = []
    num_required: int | None = None  # of the separators that stand here in a row; None where none stands
    for token in _TOKEN.finditer(pattern):
        if token["one"] and _SEPARATOR.fullmatch(token["one"]):
            num_required = (num_required or 0) + _repetitions(token)[0]
            continue
        parts += [_gap(num_required, before), _repeat(token, before) if token["one"] and before else token[0]]
        num_required = None
    return "".join([*parts, _gap(num_required, before)])


def _repeat(token: re.Match[str], before: str) -> str:
    """Written out, which costs half of what a group does that repeats."""
    least, most = _repetitions(token)
    one = before + token["one"]
    return one * least + (f"(?:{one}){{0,{most - least}}}" if most > least else "")


def _gap(num_required: int | None, before: str) -> str:
    """Possessive: what follows a gap is no part of one, so there is no other way to try."""
    if num_required is None:
        return ""
    one = f"(?:{before}[{GAP}])" if before else f"[{GAP}]"
    return f"{one}{{{min(num_required, 1)},{MAX_GAP}}}+"


def longest(pattern: str) -> int:
    """The characters that a match of `pattern`, widened, can have; more than that where it has alternatives."""
    tokens = [token for token in _TOKEN.finditer(pattern) if token["one"]]
    return sum(_repetitions(token)[1] * (MAX_GAP if _SEPARATOR.fullmatch(token["one"]) else 1) for token in tokens)


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
