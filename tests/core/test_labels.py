"""Labels form a lattice: what is made from two things is never labelled lower than either."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.labels import ANY, TIERS, Label

names = st.frozensets(st.sampled_from(["A", "B", "C", "D"]))
labels = st.builds(
    Label, tier=st.sampled_from(TIERS), markings=names, jurisdictions=st.none() | names, purposes=st.none() | names
)


def permits_no_more(left: frozenset[str] | None, right: frozenset[str] | None) -> bool:
    """Whether `left` permits nothing that `right` forbids."""
    return right is None or (left is not None and left <= right)


def is_at_least(high: Label, low: Label) -> bool:
    """Whether `high` demands all the care that `low` demands, stated without `join`."""
    return (
        TIERS.index(high.tier) >= TIERS.index(low.tier)
        and high.markings >= low.markings
        and permits_no_more(high.jurisdictions, low.jurisdictions)
        and permits_no_more(high.purposes, low.purposes)
    )


@given(labels, labels)
def test_a_join_is_never_lower_than_its_parts(left: Label, right: Label) -> None:
    """Tier, markings, jurisdictions and purposes: none is loosened."""
    joined = left.join(right)
    assert is_at_least(joined, left)
    assert is_at_least(joined, right)


@given(labels, labels, labels)
def test_a_join_is_no_higher_than_it_must_be(left: Label, right: Label, bound: Label) -> None:
    """Whatever is above both parts is above their join: it is the least such label."""
    if is_at_least(bound, left) and is_at_least(bound, right):
        assert is_at_least(bound, left.join(right))


@given(labels, labels)
def test_a_join_does_not_depend_on_the_order(left: Label, right: Label) -> None:
    """Commutative."""
    assert left.join(right) == right.join(left)


@given(labels, labels, labels)
def test_a_join_does_not_depend_on_the_grouping(one: Label, two: Label, three: Label) -> None:
    """Associative."""
    assert one.join(two).join(three) == one.join(two.join(three))


@given(labels)
def test_a_join_with_itself_changes_nothing(label: Label) -> None:
    """Idempotent."""
    assert label.join(label) == label


@given(labels)
def test_the_plain_label_changes_nothing(label: Label) -> None:
    """A thing that asks for no care adds none."""
    assert label.join(Label()) == label


def test_incompatible_jurisdictions_leave_none() -> None:
    """What may be processed only here joined with what may only there: nowhere, which is not the same as anywhere."""
    joined = Label(jurisdictions=frozenset({"GB"})).join(Label(jurisdictions=frozenset({"US"})))
    assert joined.jurisdictions == frozenset()
    assert joined.jurisdictions is not ANY


@pytest.mark.parametrize("tier", ["", "official", "OFFICIAL-SENSITIVE", "UNKNOWN", "SECRET "])
def test_a_tier_that_is_not_one_is_refused(tier: str) -> None:
    """There is no default for a word that nobody knows."""
    with pytest.raises(Invalid) as caught:
        Label(tier=tier)
    assert caught.value.code == "unknown_label"
    assert "TOP SECRET" in (caught.value.hint or "")


@given(labels)
def test_receipts_tell_no_restriction_from_no_permission(label: Label) -> None:
    """Null stands for anywhere and an empty list for nowhere; lists are sorted, so equal labels have equal bytes."""
    written = label.as_json()
    for name in ("jurisdictions", "purposes"):
        value = getattr(label, name)
        assert written[name] == (None if value is ANY else sorted(value))
    assert written["markings"] == sorted(label.markings)
    assert written["tier"] == label.tier
