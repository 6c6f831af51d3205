"""Labels form a lattice: what is made from two things is never labelled lower than either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.core.labels import ANY, Label, Labelled, Tier

TIERS = tuple(Tier(name, rank, "xz") for rank, name in enumerate(["LOW", "MIDDLE", "HIGH", "HIGHEST"]))
LOWEST = Label(TIERS[0])
MARKINGS = ["ONE", "TWO", "THREE"]
PURPOSES = ["harvest", "census", "mending"]
# Each place and the places that it holds, written out: "somewhere in XA" is not the same as in its north.
PLACES = {
    "XA": {"XA", "XA-N", "XA-S"},
    "XA-N": {"XA-N"},
    "XA-S": {"XA-S"},
    "XB": {"XB", "XB-N"},
    "XB-N": {"XB-N"},
    "XC": {"XC"},
}

labels = st.builds(
    Label,
    tier=st.sampled_from(TIERS),
    markings=st.frozensets(st.sampled_from(MARKINGS)),
    jurisdictions=st.none() | st.frozensets(st.sampled_from(sorted(PLACES))),
    purposes=st.none() | st.frozensets(st.sampled_from(PURPOSES)),
)


@dataclass
class Plain:
    """What a label demands, as explicit sets and without `join`: the model that the lattice is held against."""

    rank: int
    markings: set[str]
    places: set[str]
    purposes: set[str]

    @classmethod
    def of(cls, *labels: Label) -> Plain:
        """What all of `labels` demand together."""
        places, purposes = set(PLACES), set(PURPOSES)
        for label in labels:
            if label.jurisdictions is not None:
                places &= {inner for place in label.jurisdictions for inner in PLACES[place]}
            if label.purposes is not None:
                purposes &= label.purposes
        return cls(
            max(label.tier.rank for label in labels),
            {marking for label in labels for marking in label.markings},
            places,
            purposes,
        )

    @classmethod
    def seen_in(cls, label: Label) -> Plain:
        """The same, read off by asking `label`."""
        places = {place for place in PLACES if label.allows_place(place)}
        purposes = set(PURPOSES) if label.purposes is None else set(label.purposes)
        return cls(label.tier.rank, set(label.markings), places, purposes)


@given(labels, labels)
def test_a_join_demands_what_both_parts_demand(left: Label, right: Label) -> None:
    """Tier, markings, places with their parts, purposes: exactly those, by the model."""
    assert Plain.seen_in(left.join(right)) == Plain.of(left, right)


@given(labels, labels, labels)
def test_a_join_depends_neither_on_order_nor_on_grouping(one: Label, two: Label, three: Label) -> None:
    """Commutative and associative, so that a label cannot be had cheaper by a detour."""
    assert one.join(two) == two.join(one)
    assert one.join(two).join(three) == one.join(two.join(three))


@given(labels)
def test_a_join_with_itself_or_with_the_lowest_changes_nothing(label: Label) -> None:
    """Idempotent, and a thing that asks for no care adds none."""
    assert label.join(label) == label
    assert label.join(LOWEST) == label


@given(labels, labels)
def test_covering_is_an_order_and_a_join_is_its_least_upper_bound(left: Label, right: Label) -> None:
    """What covers both covers their join, and two labels that cover each other are one."""
    joined = left.join(right)
    assert joined.covers(left)
    assert joined.covers(right)
    assert (left.covers(right) and right.covers(left)) == (left == right)
    assert left.covers(joined) == left.covers(right)


@given(labels, labels)
def test_equal_demands_are_equal_labels(left: Label, right: Label) -> None:
    """Whatever words they were made of; only "anywhere" is more than every place that we know."""
    for part in ("jurisdictions", "purposes"):
        if (getattr(left, part) is ANY) != (getattr(right, part) is ANY):
            return
    assert (Plain.seen_in(left) == Plain.seen_in(right)) == (left == right)


def test_a_part_beside_its_country_says_no_more() -> None:
    """So two labels that allow the same places have the same bytes in a receipt."""
    both = replace(LOWEST, jurisdictions=frozenset({"XA", "XA-N"}))
    assert both == replace(LOWEST, jurisdictions=frozenset({"XA"}))
    assert both.as_json()["jurisdictions"] == ["XA"]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Label], list[list[int]]]:
    """Labels of sources, and for each thing made the numbers of what it is made of: sources or things before it."""
    sources = draw(st.lists(labels, min_size=1, max_size=5))
    num_made = draw(st.integers(1, 8))
    made = [
        draw(st.lists(st.integers(0, len(sources) + number - 1), min_size=1, max_size=4)) for number in range(num_made)
    ]
    return sources, made


@given(graphs())
def test_whatever_is_made_carries_the_label_of_all_it_comes_from(graph: tuple[list[Label], list[list[int]]]) -> None:
    """Through any number of steps: no output is lower than a source of it, or allows what a source forbids."""
    sources, made = graph
    things = [(frozenset([number]), label) for number, label in enumerate(sources)]
    for inputs in made:
        origins = frozenset[int]().union(*(things[number][0] for number in inputs))
        things.append((origins, reduce(Label.join, (things[number][1] for number in inputs))))
    for numbers, label in things:
        assert Plain.seen_in(label) == Plain.of(*(sources[number] for number in numbers))
        assert all(label.covers(sources[number]) for number in numbers)


@pytest.mark.parametrize("label", [None, "HIGH", {"tier": "HIGH"}, TIERS[0]])
def test_a_value_without_a_label_cannot_be_made(label: Any) -> None:
    """Not by leaving the label out, by something that is no label, or by taking it away afterwards."""
    attempts: list[Callable[[], object]] = [
        lambda: Labelled("value", label),
        lambda: replace(Labelled("value", LOWEST), label=label),
        lambda: Labelled("value"),  # type: ignore[call-arg]
    ]
    for attempt in attempts:
        with pytest.raises(TypeError):
            attempt()


def test_labels_of_two_nations_do_not_join() -> None:
    """Neither ranks the other's tiers, so neither the higher nor the lower would be right."""
    other = Label(Tier("LOW", 0, "xy"))
    for attempt in (LOWEST.join, LOWEST.covers):
        with pytest.raises(Invalid) as caught:
            attempt(other)
        assert caught.value.code == "nations_differ"


def test_places_that_have_nothing_in_common_leave_none() -> None:
    """What may be processed only here joined with what may only there: nowhere, which is not the same as anywhere."""
    joined = replace(LOWEST, jurisdictions=frozenset({"XA"})).join(replace(LOWEST, jurisdictions=frozenset({"XB-N"})))
    assert joined.jurisdictions == frozenset()
    assert joined.is_impossible
    assert not LOWEST.is_impossible
    assert replace(LOWEST, purposes=frozenset()).is_impossible


def test_a_country_stands_for_its_parts_and_a_part_for_no_country() -> None:
    """By whole codes: a place whose code only begins alike is another place."""
    label = replace(LOWEST, jurisdictions=frozenset({"XA", "XB-N"}))
    allowed = ["XA", "XA-N", "XA-S", "XB-N"]
    assert [place for place in [*PLACES, "XAB", "XB-NX", "X", ""] if label.allows_place(place)] == allowed


@given(labels)
def test_receipts_tell_no_restriction_from_no_permission(label: Label) -> None:
    """Null stands for anywhere and an empty list for nowhere; lists are sorted, so equal labels have equal bytes."""
    written = label.as_json()
    for name in ("jurisdictions", "purposes"):
        value = getattr(label, name)
        assert written[name] == (None if value is ANY else sorted(value))
    assert written["markings"] == sorted(label.markings)
    assert written["tier"] == label.tier.name
