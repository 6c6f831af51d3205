"""The strict reading of a nation profile: a value as TOML gives it in, a Nation or a clear refusal out.

A profile decides what is secret, so nothing in it is guessed, dropped or taken for something else: an unknown key, a
word twice, a place that no standard knows or a pattern that could run for long is Invalid (`nation_malformed`), with
the place in the file where it stands. `nations/gb.toml` shows every key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from allod.core.errors import Invalid
from allod.core.labels import ANY, Tier
from allod.core.nations.identifier_patterns import fault_of
from allod.core.nations.nation import CHECK_RULES, DIGITS_ONLY, Identifier, Marking, Nation
from allod.core.nations.places import PLACE, fault_of_place

MAX_WORDS = 64  # of one kind; as many as a list in a receipt holds

# Tiers and markings travel in HTTP headers, markings with commas between them: letters of any script, and no comma.
_WORD = re.compile(r"\w(?:[\w ./&'-]{0,62}\w)?")
_PURPOSE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_CODE = re.compile(r"[a-z]{2}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")


def read_nation(data: Mapping[str, Any], *, where: str) -> Nation:
    """The profile in `data`, the content of a TOML file that complaints call `where`.

    Raises Invalid (`nation_malformed`).
    """
    top = _Table(data, where, "profile")
    top.check_keys(
        {"code", "name", "source", "tiers"},
        optional={"tier_places", "aliases", "markings", "places", "purposes", "identifiers"},
    )
    code = top.text("code", _CODE)
    tiers = top.words("tiers", _WORD)
    if not tiers:
        raise top.refuse("tiers: there must be one at least")
    places = frozenset(top.words("places", PLACE))
    if faults := [fault for place in sorted(places) if (fault := fault_of_place(place))]:
        raise top.refuse(f"places: {faults[0]}")
    markings = {name: _marking(row, places) for name, row in top.tables("markings").items()}
    purposes = top.table("purposes").check_names(_PURPOSE)
    return Nation(
        code=code,
        name=top.text("name"),
        source=top.text("source"),
        tiers=tuple(Tier(name, rank, code) for rank, name in enumerate(tiers)),
        tier_places=_tier_places(top.table("tier_places"), tiers, places),
        aliases={name: _alias(row, tiers, markings) for name, row in top.tables("aliases").items()},
        markings=markings,
        places=places,
        purposes={name: purposes.text(name) for name in purposes.values},
        identifiers=_identifiers(top, markings),
    )


def _tier_places(table: _Table, tiers: Collection[str], places: Collection[str]) -> dict[str, frozenset[str]]:
    for name in table.values:
        table.check_known(name, tiers, "tier")
    return {name: _some(table, name, places) for name in table.values}


def _some(table: _Table, key: str, places: Collection[str]) -> frozenset[str]:
    """A restriction to places, which must leave one: what may be nowhere is a mistake, not a profile."""
    words = table.words(key, PLACE)
    if not words:
        raise table.refuse(f"{key}: no place is left")
    for place in words:
        table.check_known(place, places, "place")
    return frozenset(words)


def _marking(row: _Table, places: Collection[str]) -> Marking:
    row.check_keys({"meaning"}, optional={"jurisdictions"})
    only = _some(row, "jurisdictions", places) if "jurisdictions" in row.values else ANY
    return Marking(row.name, row.text("meaning"), only)


def _alias(row: _Table, tiers: Collection[str], markings: Collection[str]) -> tuple[str, frozenset[str]]:
    row.check_keys({"tier", "markings"})
    if row.name in tiers:
        raise row.refuse("is the name of a tier")
    named = row.words("markings", _WORD)
    for marking in named:
        row.check_known(marking, markings, "marking")
    return row.check_known(row.text("tier"), tiers, "tier"), frozenset(named)


def _identifiers(top: _Table, markings: Collection[str]) -> tuple[Identifier, ...]:
    found: dict[str, Identifier] = {}
    for row in top.rows("identifiers"):
        row.check_keys({"name", "pattern", "check", "marking"})
        name, pattern = row.text("name"), row.text("pattern")
        if name in found:
            raise row.refuse(f"name: {name!r} stands twice")
        if fault := fault_of(pattern):
            raise row.refuse(f"pattern: {fault}")
        check = row.check_known(row.text("check"), CHECK_RULES, "check rule")
        if check in DIGITS_ONLY and re.search("[A-Z]", pattern):
            raise row.refuse(f"pattern: the check rule {check} knows no letters")
        found[name] = Identifier(name, pattern, check, row.check_known(row.text("marking"), markings, "marking"))
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the profile and where it stands, so that each complaint can say so."""

    values: Mapping[str, Any]
    where: str
    path: str

    @property
    def name(self) -> str:
        return self.path.split(".", 1)[1]

    def refuse(self, problem: str) -> Invalid:
        return Invalid(f"{self.where}: {self.path}: {problem}", code="nation_malformed", param=self.path)

    def check_keys(self, required: set[str], *, optional: Collection[str] = ()) -> None:
        known = required.union(optional)
        if unknown := sorted(str(key) for key in self.values if key not in known):
            raise self.refuse(f"unknown key {unknown[0]!r}; known here: {', '.join(sorted(known))}")
        if missing := sorted(required.difference(self.values)):
            raise self.refuse(f"{missing[0]} is missing")

    def check_names(self, form: re.Pattern[str]) -> _Table:
        if len(self.values) > MAX_WORDS:
            raise self.refuse(f"more than {MAX_WORDS}")
        for name in self.values:
            self._check_form(name, name, form)
        return self

    def check_known(self, word: str, known: Collection[str], what: str) -> str:
        if word not in known:
            raise self.refuse(f"unknown {what} {word!r}; known: {', '.join(sorted(known)) or 'none'}")
        return word

    def text(self, key: str, form: re.Pattern[str] = _TEXT) -> str:
        return self._check_form(key, self.values[key], form)

    def words(self, key: str, form: re.Pattern[str]) -> tuple[str, ...]:
        words = self.values.get(key, [])
        if not isinstance(words, list):
            raise self.refuse(f"{key} must be a list")
        if len(words) > MAX_WORDS:
            raise self.refuse(f"{key}: more than {MAX_WORDS}")
        for place, word in enumerate(words):
            if self._check_form(key, word, form) in words[:place]:
                raise self.refuse(f"{key}: {word!r} stands twice")
        return tuple(words)

    def table(self, key: str) -> _Table:
        return self._inner(key, self.values.get(key, {}))

    def tables(self, key: str) -> dict[str, _Table]:
        """Tables by their names, which are words of labels."""
        outer = self.table(key).check_names(_WORD)
        return {name: outer._inner(name, row) for name, row in outer.values.items()}

    def rows(self, key: str) -> list[_Table]:
        rows = self.values.get(key, [])
        if not isinstance(rows, list) or len(rows) > MAX_WORDS:
            raise self.refuse(f"{key} must be a list of at most {MAX_WORDS} tables")
        return [self._inner(f"{key}[{number}]", row) for number, row in enumerate(rows)]

    def _inner(self, key: str, value: Any) -> _Table:
        if not isinstance(value, Mapping):
            raise self.refuse(f"{key} must be a table")
        return _Table(value, self.where, key if self.path == "profile" else f"{self.path}.{key}")

    def _check_form(self, key: str, word: Any, form: re.Pattern[str]) -> str:
        if not isinstance(word, str) or form.fullmatch(word) is None:
            raise self.refuse(f"{key}: {word!r} is not text of the form {form.pattern}")
        return word
