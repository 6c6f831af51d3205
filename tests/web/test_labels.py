"""Step 3 at the edge: what a client declares is joined with its caller's default, and no word is dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.settings.files import load_nation
from allod.web.http.labels import label_headers, label_of

NATION = load_nation("gb")
TIERS = [tier.name for tier in NATION.tiers]
tiers = st.sampled_from([*TIERS, *NATION.aliases, ""])
markings = st.frozensets(st.sampled_from(sorted(NATION.markings)))
purposes = st.lists(st.sampled_from(sorted(NATION.purposes)), max_size=2, unique=True).map(",".join)
defaults = st.builds(lambda tier, named: NATION.label(tier, markings=named), st.sampled_from(TIERS), markings)


def declared(tier: str = "", named: str = "", purpose: str = "") -> dict[bytes, bytes]:
    values = {b"x-allod-tier": tier, b"x-allod-markings": named, b"x-allod-purpose": purpose}
    return {name: value.encode() for name, value in values.items() if value}


def read(headers: dict[bytes, bytes], default: Label = NATION.lowest) -> Label:
    return label_of(headers, default, NATION)


def test_who_declares_nothing_gets_the_default() -> None:
    """The caller's own label, whole."""
    default = NATION.label("SECRET", markings=["SENSITIVE"], purposes=["casework"])
    assert read({}, default) == default
    assert read({b"host": b"x", b"x-request-id": b"1"}, default) == default


@pytest.mark.parametrize("value", [b"", b"  ", b",", b" , ", b"%20", b"%09%2C", b"%C2%A0", "\u3000".encode()])
@pytest.mark.parametrize("name", ["x-allod-tier", "x-allod-markings", "x-allod-purpose"])
def test_a_label_that_says_nothing_is_refused(name: str, value: bytes) -> None:
    """A program that forgot to fill it in meant something; it is not for us to take it for the default."""
    with pytest.raises(Invalid) as caught:
        read({b"x-allod-tier": b"SECRET", name.encode(): value})
    assert (caught.value.code, caught.value.param) == ("unknown_label", name)


@pytest.mark.parametrize(
    "name", ["x-allod-teir", "x-allod-tier-", "x-allod-marking", "x-allod-purposes", "x_allod_tier", "x-allod_tier"]
)
def test_a_misspelt_label_is_refused(name: str) -> None:
    """Beside a right one, too: dropped, it would send the work out under a lower label without a word."""
    for headers in ({}, declared("SECRET")):
        with pytest.raises(Invalid) as caught:
            read({**headers, name.encode(): b"SECRET"})
        assert (caught.value.code, caught.value.param) == ("unknown_label", name)


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_what_it_says(tier: str) -> None:
    """In the words of the classification, and with space around it."""
    assert read(declared(tier)) == NATION.label(tier)
    assert read(declared(f" {tier} ")) == NATION.label(tier)


def test_official_sensitive_is_official_with_a_marking() -> None:
    """The contract's reading of the policy of August 2024: no tier of its own."""
    assert read(declared("OFFICIAL-SENSITIVE")) == NATION.label("OFFICIAL", markings=["SENSITIVE"])


def test_markings_are_a_list() -> None:
    """Separated by commas, in any order, with spaces; alone they leave the tier to the default."""
    label = read(declared(named="UK EYES ONLY ,SENSITIVE,, "), NATION.label("SECRET"))
    assert label == NATION.label("SECRET", markings=["UK EYES ONLY", "SENSITIVE"])
    assert label.jurisdictions == NATION.markings["UK EYES ONLY"].jurisdictions


@given(tiers, markings, purposes, defaults)
def test_declaring_never_lowers_the_default(tier: str, named: frozenset[str], purpose: str, default: Label) -> None:
    """A client can ask for more care than its default, never for less; and what it asked for is there."""
    label = read(declared(tier, ",".join(sorted(named)), purpose), default)
    assert label.covers(default)
    assert label.covers(NATION.label(tier, markings=named, purposes=purpose.split(",") if purpose else None))


def test_a_purpose_outside_the_scope_leaves_none() -> None:
    """It is for policy to forbid: the label says that nothing is allowed."""
    label = read(declared(purpose="research"), NATION.label(purposes=["casework"]))
    assert label.purposes == frozenset()
    assert label.is_impossible


@pytest.mark.parametrize("tier", ["official", "TOP-SECRET", "UNCLASSIFIED", "SECRET,OFFICIAL", "OFFICIAL\x00", "é"])
def test_an_unknown_tier_is_refused(tier: str) -> None:
    """Not lowered to the nearest, not ignored; and the header is named."""
    with pytest.raises(Invalid) as caught:
        read(declared(tier))
    assert (caught.value.code, caught.value.param) == ("unknown_label", "x-allod-tier")


@pytest.mark.parametrize("named", ["sensitive", "SENSITIVE;UK EYES ONLY", "SENSITIVE, NOFORN", "é"])
def test_an_unknown_marking_is_refused(named: str) -> None:
    """One unknown word among known ones, too."""
    with pytest.raises(Invalid) as caught:
        read(declared(named=named))
    assert (caught.value.code, caught.value.param) == ("unknown_label", "x-allod-markings")


@pytest.mark.parametrize("purpose", ["care of what", "casework,fun", "*"])
def test_an_unknown_purpose_is_refused(purpose: str) -> None:
    """One unknown word among known ones, too: each must be one that the nation's profile knows."""
    with pytest.raises(Invalid) as caught:
        read(declared(purpose=purpose))
    assert (caught.value.code, caught.value.param) == ("unknown_label", "x-allod-purpose")


def test_bytes_that_are_no_text_are_refused() -> None:
    """A header may hold any bytes."""
    with pytest.raises(Invalid) as caught:
        read({b"x-allod-tier": b"\xff\xfe"})
    assert caught.value.code == "unknown_label"


@given(tiers, markings, purposes)
def test_an_answer_says_the_whole_label(tier: str, named: frozenset[str], purpose: str) -> None:
    """Whoever sends the headers of an answer with the next request declares the same label."""
    label = NATION.label(tier, markings=named, purposes=purpose.split(",") if purpose else None)
    assert read(dict(label_headers(label))) == label


def test_a_label_of_another_script_goes_round() -> None:
    """Percent-encoded where a header cannot hold it, and read again."""
    nation = replace(NATION, purposes={**NATION.purposes, "achos—gwaith": "casework in another script, with a dash"})
    label = nation.label("SECRET", markings=["SENSITIVE"], purposes=["achos—gwaith", "casework"])
    headers = dict(label_headers(label))
    assert all(value.isascii() for value in headers.values())
    assert label_of(headers, nation.lowest, nation) == label
