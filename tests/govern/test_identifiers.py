"""Numbers that name people are found by their check digits, quickly, and without repeating what they say."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import allod
from allod.core.nations.nation import CHECK_RULES, Identifier, Nation
from allod.core.nations.profile import read_nation
from allod.govern import identifiers
from allod.govern.identifiers import CHECKS, find_identifiers, markings_in

GB = read_nation(
    tomllib.loads((Path(allod.__file__).parent / "nations" / "gb.toml").read_text(encoding="utf-8")), where="gb.toml"
)
PERSONAL = {"PERSONAL DATA"}


# Nobody's numbers: NHS numbers of the range for tests, births on a 29th or 31st of February that never was, a prefix of
# National Insurance numbers (NC) that pension schemes once used, with other suffixes. Check digits are calculated in
# another way than in the package.


def nhs_number(body: int) -> str | None:
    """`body` of six digits in the range kept for tests (999…); None where no check digit would do."""
    digits = f"999{body:06}"
    check = 11 - sum(int(digit) * (10 - place) for place, digit in enumerate(digits)) % 11
    return None if check == 10 else f"{digits}{check % 11}"


def card_number(body: str) -> str:
    """`body` and the digit that Luhn's rule adds to it, by trying."""
    for check in "0123456789":
        total = 0
        for place, digit in enumerate(reversed(body + check)):
            value = int(digit) * (1 + place % 2)
            total += value // 10 + value % 10
        if total % 10 == 0:
            return body + check
    raise AssertionError


def iban(account: str) -> str:
    """The account with its check digits, ISO 13616: 98 less the remainder of the number with 00 in their place."""
    moved = account + "GB00"
    number = int("".join(character if character.isdigit() else str(ord(character) - 55) for character in moved))
    return f"GB{98 - number % 97:02}{account}"


bodies = st.integers(0, 999_999)


def test_there_is_a_function_for_each_rule_that_a_profile_may_name() -> None:
    """And no rule that cannot be named."""
    assert CHECKS.keys() == CHECK_RULES


@given(bodies)
def test_of_all_last_digits_only_the_check_digit_is_taken(body: int) -> None:
    """NHS numbers: modulus 11, and where the check digit would be 10 there is no number."""
    valid = nhs_number(body)
    for last in range(10):
        number = f"999{body:06}{last}"
        assert bool(find_identifiers(f"number {number}.", GB)) == (number == valid)


@given(bodies, st.integers(0, 8))
def test_two_digits_the_wrong_way_round_are_no_number(body: int, place: int) -> None:
    """What check digits are for: a slip of the hand does not name another person."""
    number = nhs_number(body)
    if number and number[place] != number[place + 1]:
        swapped = number[:place] + number[place + 1] + number[place] + number[place + 2 :]
        assert CHECKS["mod11"](number)
        assert not CHECKS["mod11"](swapped)


@given(st.integers(0, 10**14 - 1))
def test_a_card_number_passes_with_its_own_digit_only(body: int) -> None:
    """Luhn's rule, sixteen digits, in one piece or in groups of four."""
    number = card_number(f"4{body:014}")
    groups = " ".join(number[place : place + 4] for place in range(0, 16, 4))
    assert [one.name for one in find_identifiers(f"{number}; {groups}", GB)] == ["payment card number"] * 2
    wrong = number[:15] + str((int(number[15]) + 1) % 10)
    assert not CHECKS["luhn"](wrong)


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=4, max_size=4), st.integers(0, 10**14 - 1))
def test_an_account_number_passes_with_its_own_digits_only(bank: str, account: int) -> None:
    """ISO 7064 MOD 97-10 as IBANs have it: none of the other 96 remainders passes."""
    number = iban(f"{bank}{account:014}")
    assert [one.name for one in find_identifiers(f"to {number}", GB)] == ["IBAN of the United Kingdom"]
    assert [check for check in range(2, 99) if CHECKS["mod97"](f"GB{check:02}{number[4:]}")] == [int(number[2:4])]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NC123456C", "National Insurance number"),
        ("my NI no. is nc 12 34 56 c, thanks", "National Insurance number"),
        ("NI:NC123456C;", "National Insurance number"),
        ("id_NC123456C_x", "National Insurance number"),
        ("NC\u00a012\u00a034\u00a056\u00a0C", "National Insurance number"),
        ("999 000 0018", "NHS number"),
        ("999-000-0018", "NHS number"),
        ("999\u2011000\u20110018", "NHS number"),
        ("2902990007", "CHI number"),
        ("290299 0007", "CHI number"),
        ("ZZZZZ 952319 Z99ZZ", "driver number"),
        ("LEE99602315J99AB", "driver number"),
        ("3400 000000 00000", None),
        ("3434 343434 34343", "payment card number of 15 digits"),
    ],
)
def test_numbers_as_people_write_them(text: str, name: str | None) -> None:
    """Together or in groups, in small letters, with the spaces and hyphens that word processors put in."""
    if name in ("CHI number", "NHS number", "payment card number of 15 digits"):
        text = repaired(text)
    assert [one.name for one in find_identifiers(text, GB)] == ([name] if name else [])


def repaired(text: str) -> str:
    """`text` with its last digit changed so that the number is valid."""
    return next(text[:-1] + digit for digit in "0123456789" if find_identifiers(text[:-1] + digit, GB))


@pytest.mark.parametrize(
    "text",
    [
        *("", "no digits here, only words", "the year 2024 and 1,234,567 others", "07700 900123", "SW1A 1AA"),
        *(f"{prefix}123456C" for prefix in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ", "DA", "AO", "FY", "QQ", "UA")),
        *("NC123456E", "NC12345C", "XNC123456C", "NC123456CX", "1NC123456C", "NC 1234567 C"),
        *("SMITH 901329 S99ZZ", "SMITH 900019 S99ZZ", "SMITH 951009 S99ZZ"),
        "the 14th of June 2024, 14/06/2024, 2024-06-14T10:00:00Z, reference 20240614",
    ],
)
def test_what_only_looks_like_one_is_left_alone(text: str) -> None:
    """Prefixes that are never given out, other suffixes, no such date, or a part of something longer."""
    assert find_identifiers(text, GB) == []
    assert markings_in(text, GB) == frozenset()


ordinary = st.text(st.characters(codec="utf-8", exclude_categories=["Nd", "Lu", "Ll", "Cs"]), max_size=200)


@given(ordinary, ordinary, bodies)
def test_a_number_is_found_at_its_place_in_any_text(before: str, after: str, body: int) -> None:
    """Positions are those of the text as it came, whatever characters stand around; the text is marked."""
    number = nhs_number(body)
    if number:
        text = f"{before}\n{number}\n{after}"
        assert [text[one.start : one.end] for one in find_identifiers(text, GB)] == [number]
        assert markings_in(text, GB) == PERSONAL


@given(
    st.lists(st.sampled_from(["NC123456C", "LEE99602315J99AB", "7", "12 34", "on", "x" * 70, "x" * 130]), max_size=12)
)
def test_all_are_found_in_their_order(parts: list[str]) -> None:
    """However near or far they stand from each other and from other digits."""
    found = find_identifiers(", ".join(parts), GB)
    assert len(found) == sum(part in ("NC123456C", "LEE99602315J99AB") for part in parts)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_a_number_before_or_after_does_not_hide_one() -> None:
    """A match that fails its check is left by one character, not by its length."""
    number = nhs_number(18)
    assert number
    for text in (f"123 {number}", f"{number} 123", f"999 {number}", f"9999 {number[:3]} {number[3:6]} {number[6:]}"):
        assert len(find_identifiers(text, GB)) == 1, text


def nation_with(*rows: tuple[str, str, str]) -> Nation:
    return Nation("xz", "Examplia", "", (), identifiers=tuple(Identifier(*row[:2], "format", row[2]) for row in rows))


def test_each_identifier_gives_its_own_marking() -> None:
    """A nation may mark kinds differently; both are told where both stand, and none where a nation looks for none."""
    nation = nation_with(("plot", "P[0-9]{3}", "LAND"), ("citizen", "C[0-9]{3}", "PERSON"))
    assert markings_in("P123", nation) == {"LAND"}
    assert markings_in("C123, P123", nation) == {"LAND", "PERSON"}
    assert markings_in("C123, P123", nation_with()) == frozenset()


def test_of_two_kinds_at_one_place_the_one_that_passes_is_told() -> None:
    """A kind whose check fails does not stand in the way of the next; of two that pass, the first is told."""
    nation = Nation(
        *("xz", "Examplia", "", ()),
        identifiers=(Identifier("card", "[0-9]{4}", "luhn", "CARD"), Identifier("plot", "[0-9]{4}", "mod11", "LAND")),
    )
    assert [one.name for one in find_identifiers("0019", nation)] == ["plot"]
    assert [one.name for one in find_identifiers("0000", nation)] == ["card"]


def test_what_is_found_does_not_say_the_number() -> None:
    """A name and two positions, so that neither a log nor an error can carry it."""
    (found,) = find_identifiers("x NC123456C", GB)
    assert found == ("National Insurance number", 2, 11)
    assert "123456" not in repr(found)


def adversarial() -> Iterator[str]:
    """A megabyte each of what patterns like least."""
    size = 1_000_000
    for part in (
        *("9", "a", "1a", "1 ", "A9 ", "AB 12 ", "ABCD", "4444 ", "943 476 5918 ", "3444 444444 44444 ", "4444\u00a0"),
        *("GB12 ABCD 1234 1234 1234 12 ", "ABCDE 101011 AB1A ", "0101001234 ", "- ", "AB12345 ", "9" + "x" * 64),
    ):
        yield (part * (size // len(part) + 1))[:size]


def test_no_text_takes_long() -> None:
    """A megabyte of anything takes half a second of this process, not the minutes of what looks at each place again;
    what lies between is for a busy machine."""
    for text in adversarial():
        start = time.process_time()
        find_identifiers(text, GB)
        markings_in(text, GB)
        assert time.process_time() - start < 10, text[:40]


def test_time_grows_as_the_text_does() -> None:
    """Four times the text, about four times the time: not sixteen."""
    for part in ("4444 ", "943 476 5918 ", "1 ", "AB 12 "):
        took = []
        for size in (250_000, 1_000_000):
            text = part * (size // len(part))
            took.append(min(timed(text) for _ in range(3)))
        assert took[1] < 10 * took[0] + 0.01, part


def timed(text: str) -> float:
    start = time.process_time()
    markings_in(text, GB)
    return time.process_time() - start


def test_a_text_made_of_failing_numbers_is_taken_at_its_looks() -> None:
    """More failed checks than chance allows cost no more time, and err towards more care."""
    wrong = "999 000 0011 "
    assert find_identifiers(wrong, GB) == []
    few, many = identifiers.MAX_FAILED_CHECKS, identifiers.MAX_FAILED_CHECKS + 2
    assert markings_in(wrong * few, GB) == frozenset()
    assert markings_in(wrong * many, GB) == PERSONAL
