"""Step 3 at the edge: what a client declares is joined with its tenant's default, and no word is dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.labels import TIERS, Label
from allod.web.labels import MARKINGS, label_of

PLAIN = Label()
tiers = st.sampled_from([*TIERS, "OFFICIAL-SENSITIVE", ""])
markings = st.frozensets(st.sampled_from(sorted(MARKINGS)))
defaults = st.builds(Label, tier=st.sampled_from(TIERS), markings=markings)


def declared(tier: str = "", named: str = "", purpose: str = "") -> dict[bytes, bytes]:
    values = {b"x-allod-tier": tier, b"x-allod-markings": named, b"x-allod-purpose": purpose}
    return {name: value.encode("latin-1") for name, value in values.items() if value}


def test_who_declares_nothing_gets_the_default() -> None:
    """The tenant's own label, whole."""
    default = Label(tier="SECRET", markings=frozenset({"SENSITIVE"}), purposes=frozenset({"care"}))
    assert label_of({}, default) == default
    assert label_of({b"x-allod-tier": b"  "}, default) == default


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_what_it_says(tier: str) -> None:
    """In the words of the classification, and with space around it."""
    assert label_of(declared(tier), PLAIN) == Label(tier=tier)
    assert label_of(declared(f" {tier} "), PLAIN) == Label(tier=tier)


def test_official_sensitive_is_official_with_a_marking() -> None:
    """The contract's reading of the policy of August 2024: no tier of its own."""
    assert label_of(declared("OFFICIAL-SENSITIVE"), PLAIN) == Label(markings=frozenset({"SENSITIVE"}))


def test_markings_are_a_list() -> None:
    """Separated by commas, in any order, with spaces; alone they leave the tier to the default."""
    label = label_of(declared(named="UK EYES ONLY ,SENSITIVE,, "), Label(tier="SECRET"))
    assert label == Label(tier="SECRET", markings=frozenset({"UK EYES ONLY", "SENSITIVE"}))


@given(tiers, markings, defaults)
def test_declaring_never_lowers_the_default(tier: str, named: frozenset[str], default: Label) -> None:
    """A client can ask for more care than its tenant's default, never for less."""
    label = label_of(declared(tier, ",".join(sorted(named))), default)
    assert TIERS.index(label.tier) >= TIERS.index(default.tier)
    assert label.markings >= default.markings | named


@pytest.mark.parametrize("tier", ["official", "TOP-SECRET", "UNCLASSIFIED", "SECRET,OFFICIAL", "OFFICIAL\x00", "é"])
def test_an_unknown_tier_is_refused(tier: str) -> None:
    """Not lowered to the nearest, not ignored."""
    with pytest.raises(Invalid) as caught:
        label_of(declared(tier), PLAIN)
    assert caught.value.code == "unknown_label"


@pytest.mark.parametrize("named", ["sensitive", "SENSITIVE;UK EYES ONLY", "SENSITIVE, NOFORN", "é"])
def test_an_unknown_marking_is_refused(named: str) -> None:
    """One unknown word among known ones, too; and the header is named."""
    with pytest.raises(Invalid) as caught:
        label_of(declared(named=named), PLAIN)
    assert (caught.value.code, caught.value.param) == ("unknown_label", "x-allod-markings")


def test_an_unknown_purpose_is_refused() -> None:
    """A realm that defines no purposes cannot promise to keep to one."""
    with pytest.raises(Invalid) as caught:
        label_of(declared(purpose="care"), PLAIN)
    assert (caught.value.code, caught.value.param) == ("unknown_label", "x-allod-purpose")
