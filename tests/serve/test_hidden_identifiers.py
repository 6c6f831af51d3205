"""An identifier is found wherever a request says it, whatever a form, a program or an alphabet made of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.hostile import texts
from tests.serve.conftest import NATION, POLICY

from allod.govern import readings
from allod.govern.identifiers import find_identifiers, markings_in
from allod.govern.policy.request import Model, PolicySite
from allod.serve.controls import OVERLAP_CHARS, SLICE_CHARS, Controls
from allod.web.openai.read import read_chat

CONTROLS = Controls(
    policy=POLICY,
    nation=NATION,
    models=[Model("echo", NATION.lowest)],
    site=lambda model: PolicySite("north", "GB", NATION.tiers[0], "sealed"),
)


def markings_of(body: dict[str, Any]) -> frozenset[str]:
    task = read_chat(json.dumps(body).encode()).task
    return asyncio.run(CONTROLS.label(NATION.lowest, task.strings(), "echo")).markings


@pytest.mark.parametrize(
    ("body", "expected"), [case[1:] for case in texts.CASES], ids=[case[0] for case in texts.CASES]
)
def test_every_hiding_place_is_looked_into(body: dict[str, Any], expected: str) -> None:
    """And honest texts carry no marking."""
    assert markings_of(body) == ({expected} if expected != "ok" else frozenset())


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(texts.PLACES)),
    st.sampled_from(sorted(texts.SEPARATORS)),
    st.sampled_from(sorted(texts.DIGITS)),
    st.sampled_from(sorted(texts.ENCODINGS)),
    st.sampled_from(texts.SURROUNDINGS),
)
def test_place_separator_script_and_encoding_do_not_matter(
    place: str, separator: str, script: str, encoding: str, surrounding: str
) -> None:
    """Each with each."""
    said = texts.ENCODINGS[encoding](
        surrounding.format(texts.number(texts.SEPARATORS[separator], texts.DIGITS[script]))
    )
    assume(place != "stop sequence" or len(said) <= 256)  # a longer one is refused
    assert markings_of(texts.PLACES[place](said)) == {texts.PERSONAL}


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(texts.SEPARATORS | texts.ENCODED_SEPARATORS)),
    st.sampled_from(sorted(texts.DIGITS)),
    st.sampled_from(texts.SURROUNDINGS),
    st.lists(st.sampled_from(sorted(texts.ENCODINGS)), min_size=2, max_size=2),
)
def test_one_hiding_in_another_does_not_matter(
    separator: str, script: str, surrounding: str, encodings: list[str]
) -> None:
    """An escape within another kind's, beside what shows nothing, in another script."""
    separators = texts.SEPARATORS | texts.ENCODED_SEPARATORS
    said = surrounding.format(texts.number(separators[separator], texts.DIGITS[script]))
    for encoding in encodings:
        said = texts.ENCODINGS[encoding](said)
    assert markings_in(said, NATION) == {texts.PERSONAL}


texts_with_hiding = st.lists(
    st.sampled_from(
        [
            "9",
            "x",
            " ",
            "\\n",
            "&amp;#",
            "\\u0026#x1a;",
            "\\u0039",
            "&#57;",
            "%39",
            "\u0669",
            "\u200b",
            "\u00e9",
            "\\ud835\\udfd7",
            "\U0001d7d7",
        ]
    )
    | st.text(max_size=3)
).map("".join)


@given(texts_with_hiding)
def test_a_reading_with_places_is_the_reading(text: str) -> None:
    """Each of its characters comes from a part of the text, in order."""
    made = readings.read_with_positions(text)
    assert made.text == readings.read(text)
    assert readings.read_with_positions(text, 2).text == readings.read(made.text)
    assert made.starts == sorted(made.starts)
    assert all(start < end <= len(text) for start, end in zip(made.starts, made.ends, strict=True))


def test_what_is_read_as_a_digit_makes_a_text_worth_reading() -> None:
    """Every character there is: else a text of such digits alone would be passed over."""
    for character in map(chr, range(0x80, 0x110000)):
        if any(digit in readings.read(character) for digit in "0123456789"):
            assert readings.has_digits(character), ascii(character)


@given(st.text())
def test_a_plain_text_has_the_length_of_the_text(text: str) -> None:
    """So that a match stands where it is said to."""
    made = readings.plain(text)
    assert len(made) == len(text)
    assert made.isascii()


@given(texts_with_hiding, texts_with_hiding, st.sampled_from(sorted(texts.SEPARATORS)))
def test_what_hides_is_redacted_as_a_whole(before: str, after: str, separator: str) -> None:
    """From its first character to its last, as they stand in the text."""
    number = texts.number(texts.SEPARATORS[separator])
    text = f"{before} ; {number} ; {after}"
    assert any(
        one.start <= len(before) + 3 and one.end >= len(before) + 3 + len(number)
        for one in find_identifiers(text, NATION)
    )


@pytest.mark.parametrize("separator", sorted(texts.SEPARATORS))
def test_it_is_found_where_slices_meet(separator: str) -> None:
    """In the longest form, with so many of its characters before the border."""
    encoded = texts.ENCODINGS["escapes"](texts.number(texts.SEPARATORS[separator]))
    for before in range(0, len(encoded) + 2, 3):
        text = "w " * (SLICE_CHARS // 2)
        text = f"{text[: SLICE_CHARS - before - 1]} {encoded} and so on"
        assert markings_of(texts.chat(text)) == {texts.PERSONAL}
    assert 2 * len(encoded) < OVERLAP_CHARS


def test_a_text_that_hides_nothing_is_not_made_anew() -> None:
    """The way of nearly all texts: nothing is folded, nothing is searched twice."""
    text = "In 2024 \u201cil a \u00e9t\u00e9\u201d \u8bf7 1\u00a0234 \u2013 5."
    assert readings.read(text) == text
    assert markings_in(text, NATION) == frozenset()
