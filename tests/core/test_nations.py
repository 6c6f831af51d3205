"""Words become a label in one way, and a profile that is wrong anywhere is refused with the place where."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.core.nations.identifier_patterns import MAX_CHARS, MAX_WAYS, fault_of
from allod.core.nations.profile import read_nation

PROFILE: dict[str, Any] = {
    "code": "xz",
    "name": "Examplia",
    "source": "invented",
    "tiers": ["LOW", "MIDDLE", "HIGH"],
    "tier_places": {"HIGH": ["XZ"]},
    "places": ["XZ", "XZ-N", "XY"],
    "aliases": {"MIDDLE-CAREFUL": {"tier": "MIDDLE", "markings": ["CAREFUL"]}},
    "markings": {"CAREFUL": {"meaning": "with care"}, "HERE ONLY": {"meaning": "here", "jurisdictions": ["XZ"]}},
    "purposes": {"harvest": "getting it in"},
    "identifiers": [{"name": "number", "pattern": "X[0-9]{4}", "check": "format", "marking": "CAREFUL"}],
}
NATION = read_nation(PROFILE, where="xz.toml")

words = st.sampled_from
label_words = st.fixed_dictionaries(
    {
        "tier": words(["", "LOW", "MIDDLE", "HIGH", "MIDDLE-CAREFUL"]),
        "markings": st.lists(words(["CAREFUL", "HERE ONLY"])),
        "purposes": st.none() | st.lists(words(["harvest"])),
        "jurisdictions": st.none() | st.lists(words(["XZ", "XZ-N", "XY"])),
    }
)


@given(label_words, label_words)
def test_a_label_is_made_again_from_its_own_words(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Also the join of two, which has words that nobody declared together: what a receipt says can be read back."""
    label = NATION.label(**one).join(NATION.label(**two))
    assert NATION.label(**label.as_json()) == label  # type: ignore[arg-type]


def test_no_words_at_all_are_the_lowest_label() -> None:
    """Nothing declared is nothing demanded."""
    assert NATION.label() == NATION.lowest == Label(NATION.tiers[0])


def test_tiers_and_markings_restrict_places_by_themselves() -> None:
    """A caller need not know that a tier or a marking belongs to a place, and cannot widen it."""
    assert NATION.label("HIGH").jurisdictions == frozenset({"XZ"})
    assert NATION.label(markings=["HERE ONLY"], jurisdictions=["XZ-N", "XY"]).jurisdictions == frozenset({"XZ-N"})


def test_words_that_contradict_each_other_leave_nothing() -> None:
    """Here only, and over there: a label that allows no place, which nothing can be processed under."""
    label = NATION.label(markings=["HERE ONLY"], jurisdictions=["XY"])
    assert label.is_impossible
    assert not any(label.allows_place(place) for place in NATION.places)
    assert NATION.label(purposes=[]).is_impossible


@given(st.text())
def test_every_unknown_word_is_refused(word: str) -> None:
    """Whatever it is: no case folding, no trimming, no nearest match; and the error names what is wrong."""
    known = {*PROFILE["tiers"], *PROFILE["aliases"], *PROFILE["markings"], *PROFILE["purposes"], *PROFILE["places"], ""}
    if word in known:
        return
    for param, attempt in {
        "tier": {"tier": word},
        "markings": {"markings": ["CAREFUL", word]},
        "purposes": {"purposes": [word]},
        "jurisdictions": {"jurisdictions": ["XZ", word]},
    }.items():
        with pytest.raises(Invalid) as caught:
            NATION.label(**attempt)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.param) == ("unknown_label", param)


@pytest.mark.parametrize("word", ["low", " LOW", "LOW ", "HIGHER", "CAREFUL", "MIDDLE-"])
def test_a_tier_that_is_almost_one_is_refused_with_those_there_are(word: str) -> None:
    """The hint lists tiers and aliases."""
    with pytest.raises(Invalid) as caught:
        NATION.label(word)
    assert caught.value.hint == "known tiers: LOW, MIDDLE, HIGH, MIDDLE-CAREFUL"


WRONG: dict[str, tuple[list[Any], Any, str]] = {
    "an unknown key": (["tier"], ["LOW"], "profile: unknown key 'tier'"),
    "an unknown key of a marking": (["markings", "CAREFUL", "color"], "red", "markings.CAREFUL: unknown key 'color'"),
    "a misspelt restriction": (["markings", "HERE ONLY", "jurisdiction"], ["XZ"], "unknown key 'jurisdiction'"),
    "tiers that are no list": (["tiers"], "LOW", "tiers must be a list"),
    "no tier": (["tiers"], [], "one at least"),
    "a tier twice": (["tiers"], ["LOW", "MIDDLE", "HIGH", "LOW"], "'LOW' stands twice"),
    "a tier that is no text": (["tiers", 1], 7, "7 is not text"),
    "a tier with a comma": (["tiers", 1], "MIDDLE, OR SO", "tiers: 'MIDDLE, OR SO'"),
    "a tier with a space at its end": (["tiers", 1], "MIDDLE ", "tiers: 'MIDDLE '"),
    "a code in capitals": (["code"], "XZ", "code: 'XZ'"),
    "a name that is a number": (["name"], 5, "name: 5"),
    "a place of no standard": (["places", 0], "Examplia", "places: 'Examplia'"),
    "a place in small letters": (["places", 0], "xz", "places: 'xz'"),
    "a place twice": (["places"], ["XZ", "XZ-N", "XY", "XZ"], "'XZ' stands twice"),
    "too many places": (["places"], [f"X{a}-{b}" for a in "ABCDE" for b in range(20)], "more than 64"),
    "a tier's places for an unknown tier": (["tier_places", "HIGHER"], ["XZ"], "tier_places: unknown tier 'HIGHER'"),
    "a tier's unknown place": (["tier_places", "HIGH", 0], "ZX", "unknown place 'ZX'"),
    "a tier that may be nowhere": (["tier_places", "HIGH"], [], "HIGH: no place is left"),
    "an alias to an unknown tier": (["aliases", "MIDDLE-CAREFUL", "tier"], "MIDDEL", "unknown tier 'MIDDEL'"),
    "an alias to an alias": (["aliases", "X"], {"tier": "MIDDLE-CAREFUL", "markings": []}, "unknown tier"),
    "an alias with an unknown marking": (["aliases", "MIDDLE-CAREFUL", "markings"], ["CAREFULLY"], "unknown marking"),
    "an alias named as a tier": (["aliases", "LOW"], {"tier": "HIGH", "markings": []}, "aliases.LOW: is the name"),
    "an alias that is text": (["aliases", "X"], "LOW", "aliases: X must be a table"),
    "a marking without a meaning": (["markings", "CAREFUL"], {}, "markings.CAREFUL: meaning is missing"),
    "a marking with an unknown place": (["markings", "HERE ONLY", "jurisdictions"], ["FR"], "unknown place 'FR'"),
    "a marking that leaves no place": (["markings", "HERE ONLY", "jurisdictions"], [], "no place is left"),
    "a marking with a comma": (["markings", "A,B"], {"meaning": "two"}, "markings: A,B"),
    "a purpose in capitals": (["purposes", "Harvest"], "x", "purposes: Harvest"),
    "a meaning with a line end": (["purposes", "harvest"], "a\nb", "purposes: harvest"),
    "identifiers that are no list": (["identifiers"], {}, "identifiers must be a list"),
    "an identifier that is text": (["identifiers", 0], "number", "identifiers[0] must be a table"),
    "an identifier twice": (["identifiers"], PROFILE["identifiers"] * 2, "identifiers[1]: name: 'number' stands twice"),
    "an unknown check rule": (["identifiers", 0, "check"], "lunh", "identifiers[0]: unknown check rule 'lunh'"),
    "an unknown marking of an identifier": (["identifiers", 0, "marking"], "CAREFULLY", "unknown marking"),
    "letters in a number to be calculated with": (["identifiers", 0, "check"], "luhn", "luhn knows no letters"),
    "an expression that does not compile": (["identifiers", 0, "pattern"], "[0-9]{4}(?:A", "identifiers[0]: pattern:"),
    "an expression that could run for long": (["identifiers", 0, "pattern"], "([0-9]+)+X", "pattern:"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_profile_that_is_wrong_is_refused_with_the_place(what: str) -> None:
    """Nothing in it is guessed or dropped: one sin is enough, and the message leads to it."""
    path, value, message = WRONG[what]
    data = copy.deepcopy(PROFILE)
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(Invalid) as caught:
        read_nation(data, where="xz.toml")
    assert caught.value.code == "nation_malformed"
    assert caught.value.message.startswith("xz.toml: ")
    assert message in caught.value.message


@pytest.mark.parametrize("key", ["code", "name", "source", "tiers"])
def test_what_a_profile_must_say_cannot_be_left_out(key: str) -> None:
    """The rest may: a nation without markings, places or identifiers is one."""
    needed = {name: PROFILE[name] for name in ("code", "name", "source", "tiers")}
    assert read_nation(needed, where="xz.toml").label("HIGH").markings == frozenset()
    with pytest.raises(Invalid, match=f"{key} is missing"):
        read_nation({name: value for name, value in needed.items() if name != key}, where="xz.toml")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PROFILE)), anything)
def test_whatever_stands_in_a_profile_the_answer_is_a_nation_or_a_refusal(key: str, value: Any) -> None:
    """No other error leaves the reader."""
    refusal = None
    try:
        read_nation({**PROFILE, key: value}, where="xz.toml")
    except Invalid as error:
        refusal = error.code
    assert refusal in (None, "nation_malformed")


@pytest.mark.parametrize(
    "pattern",
    [
        *("[0-9]+", "[0-9]*", "[0-9]{4,}", ".{4}[0-9]", r"\d{4}", "(?:[0-9]{2}){2}", "([0-9])", "(?:A|B)?[0-9]"),
        *("[^0-9][0-9]", "(?<=A)[0-9]", "[0-9]|A", "[0-9])(?:A", "(?:[0-9]", "[Z-A][0-9]", "[0-9]{3,2}", "^[0-9]", ""),
        *("[A-Z]{4}", "[0-9]?", "(?:A|[0-9])", "[0-9A]", "[0-9-]", "[0-9]{0}", "abc[0-9]", "[0-9]$", "[[0-9]]"),
        *(f"[0-9]{{{MAX_CHARS}}}X", "[0-9]{9}" * 9, "X?" * 9 + "[0-9]", "(?:A|B)" * 9 + "[0-9]", "[0-9]{0,99}"),
    ],
)
def test_a_pattern_that_is_none_of_ours_is_refused(pattern: str) -> None:
    """No unbounded or nested repetition, no look behind, no match without a digit, nothing that takes many ways."""
    assert fault_of(pattern) is not None


def test_a_pattern_at_the_bounds_is_taken() -> None:
    """The bounds are those that the refusal names."""
    assert fault_of(f"[0-9]{{{MAX_CHARS}}}") is None
    assert fault_of("[0-9]" + "(?:A|B)" * (MAX_WAYS.bit_length() - 1)) is None
    assert fault_of("(?!BG|GB)[A-CEGHJ-N] ?[0-9]{2,4}[ ./-]?(?=A|B)[A-D]") is None
