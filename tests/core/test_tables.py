"""Tables are read strictly: each sin is one complaint that says its kind and its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.core.tables import Complaint, Table


@dataclass(frozen=True)
class Inner:
    number: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=lambda: Inner(7))
    rows: tuple[Inner, ...] = ()


@dataclass(frozen=True)
class Named:
    number: int = 0
    colour: str = ""
    inner: Mapping[str, Inner] = field(default_factory=dict)


def table(values: dict[str, Any], complaints: list[Complaint]) -> Table:
    def error_of(complaint: Complaint) -> Invalid:
        complaints.append(complaint)
        return Invalid(complaint.message)

    return Table(values, "x.toml", error_of, limit=2)


def test_a_table_is_read_as_a_dataclass() -> None:
    """Tables inside are dataclasses, lists are tuples, and what is not said has its default."""
    values = {"name": "a", "rows": [{"number": 1, "words": ["b", "c"]}]}
    assert table(values, []).read(Outer) == Outer("a", Inner(7), (Inner(1, ("b", "c")),))


def test_what_a_named_table_leaves_out_is_as_around_it() -> None:
    """And what it says is its own; without any, there are none."""
    values = {"number": 3, "colour": "red", "inner": {"a.b": {"number": 4}, "c": {"words": ["d"]}}}
    assert table(values, []).read(Named) == Named(3, "red", {"a.b": Inner(4), "c": Inner(3, ("d",))})
    assert table({}, []).read(Named) == Named()


@pytest.mark.parametrize(
    ("values", "fault", "place"),
    [
        ({"inner": 1}, "wrong", "inner"),
        ({"number": 1, "inner": {"a": 1}}, "wrong", "inner.a"),
        ({"inner": {"a": {}}}, "missing", "inner.a.number"),
        ({"number": 1, "inner": {"a": {"number": "1"}}}, "wrong", "inner.a.number"),
        ({"number": 1, "inner": {"a": {"colour": "red"}}}, "unknown", "inner.a.colour"),
    ],
)
def test_what_a_named_table_may_not_say_names_it(values: dict[str, Any], fault: str, place: str) -> None:
    """By its place, as any other; what stands around it is not of it unless it has such a word."""
    complaints: list[Complaint] = []
    with pytest.raises(Invalid):
        table(values, complaints).read(Named)
    assert [(complaint.fault, complaint.key_path) for complaint in complaints] == [(fault, place)]


@pytest.mark.parametrize(
    ("values", "fault", "place"),
    [
        ({}, "missing", "name"),
        ({"name": 1}, "wrong", "name"),
        ({"name": "a", "nmae": "a"}, "unknown", "nmae"),
        ({"name": "a", "inner": []}, "wrong", "inner"),
        ({"name": "a", "inner": {}}, "missing", "inner.number"),
        ({"name": "a", "inner": {"number": True}}, "wrong", "inner.number"),
        ({"name": "a", "inner": {"number": 1.0}}, "wrong", "inner.number"),
        ({"name": "a", "inner": {"number": 1, "words": "bc"}}, "wrong", "inner.words"),
        ({"name": "a", "inner": {"number": 1, "words": ["b", 2]}}, "wrong", "inner.words[1]"),
        ({"name": "a", "inner": {"number": 1, "words": ["b"] * 3}}, "wrong", "inner.words"),
        ({"name": "a", "rows": [{"number": 1}, {"number": 1, "colour": ""}]}, "unknown", "rows[1].colour"),
    ],
)
def test_what_a_table_may_not_say_is_one_complaint(values: dict[str, Any], fault: str, place: str) -> None:
    """Nothing is converted: text is no list, true is no number, and a misspelt key is not dropped."""
    complaints: list[Complaint] = []
    with pytest.raises(Invalid, match=r"^x\.toml: "):
        table(values, complaints).read(Outer)
    assert [(complaint.fault, complaint.key_path) for complaint in complaints] == [(fault, place)]
