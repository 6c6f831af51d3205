"""The strict reading of a nation profile: a value as TOML gives it in, a Nation or a clear refusal out.

A profile decides what is secret, so nothing in it is guessed, dropped or taken for something else: an unknown key, a
word twice, a place that no standard knows or a pattern that could run for long is Invalid (`nation_malformed`), with
the place in the file where it stands. `nations/gb.toml` shows every key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from allod.core.errors import Invalid
from allod.core.labels import ANY, Tier
from allod.core.nations.identifier_patterns import fault_of
from allod.core.nations.nation import CHECK_RULES, DIGITS_ONLY, Identifier, Marking, Nation
from allod.core.places import PLACE, fault_of_place
from allod.core.tables import Complaint, Table

MAX_WORDS = 64  # of one kind; as many as a list in a receipt holds

# Tiers and markings travel in HTTP headers, markings with commas between them: letters of any script, and no comma.
_WORD = re.compile(r"\w(?:[\w ./&'-]{0,62}\w)?")
_PURPOSE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_CODE = re.compile(r"[a-z]{2}")


def read_nation(data: Mapping[str, Any], *, where: str) -> Nation:
    """The profile in `data`, the content of a TOML file that complaints call `where`.

    Raises Invalid (`nation_malformed`).
    """
    top = Table(data, f"{where}: profile", _error_of, MAX_WORDS)
    top.check_keys(
        {"code", "name", "source", "tiers"},
        {"tier_places", "aliases", "markings", "places", "purposes", "identifiers"},
    )
    code = top.text("code", _CODE)
    tiers = _words(top, "tiers", _WORD)
    if not tiers:
        raise top.refusal("tiers", "tiers: there must be one at least")
    places = frozenset(_words(top, "places", PLACE))
    if faults := [fault for place in sorted(places) if (fault := fault_of_place(place))]:
        raise top.refusal("places", f"places: {faults[0]}")
    markings = {name: _read_marking(name, row, places) for name, row in _tables_by_name(top, "markings")}
    purposes = top.table("purposes").check_names(_PURPOSE)
    return Nation(
        code=code,
        name=top.text("name"),
        source=top.text("source"),
        tiers=tuple(Tier(name, rank, code) for rank, name in enumerate(tiers)),
        tier_places=_tier_places(top.table("tier_places"), tiers, places),
        aliases={name: _alias(name, row, tiers, markings) for name, row in _tables_by_name(top, "aliases")},
        markings=markings,
        places=places,
        purposes={name: purposes.text(name) for name in purposes.values},
        identifiers=_identifiers(top, markings),
    )


def _tier_places(table: Table, tiers: Collection[str], places: Collection[str]) -> dict[str, frozenset[str]]:
    for name in table.values:
        _check_word(table, name, tiers, "tier")
    return {name: _some(table, name, places) for name in table.values}


def _some(table: Table, key: str, places: Collection[str]) -> frozenset[str]:
    """A restriction to places, which must leave one: what may be nowhere is a mistake, not a profile."""
    words = _words(table, key, PLACE)
    if not words:
        raise table.refusal(key, f"{key}: no place is left")
    for place in words:
        _check_word(table, place, places, "place")
    return frozenset(words)


def _read_marking(name: str, row: Table, places: Collection[str]) -> Marking:
    row.check_keys({"meaning"}, {"jurisdictions"})
    only = _some(row, "jurisdictions", places) if "jurisdictions" in row.values else ANY
    return Marking(name, row.text("meaning"), only)


def _alias(name: str, row: Table, tiers: Collection[str], markings: Collection[str]) -> tuple[str, frozenset[str]]:
    row.check_keys({"tier", "markings"})
    if name in tiers:
        raise row.refusal("", "is the name of a tier")
    named = _words(row, "markings", _WORD)
    for marking in named:
        _check_word(row, marking, markings, "marking")
    return _check_word(row, row.text("tier"), tiers, "tier"), frozenset(named)


def _identifiers(top: Table, markings: Collection[str]) -> tuple[Identifier, ...]:
    found: dict[str, Identifier] = {}
    for row in top.rows("identifiers"):
        row.check_keys({"name", "pattern", "check", "marking"})
        name, pattern = row.text("name"), row.text("pattern")
        if name in found:
            raise row.refusal("name", f"name: {name!r} stands twice")
        if fault := fault_of(pattern):
            raise row.refusal("pattern", f"pattern: {fault}")
        check = _check_word(row, row.text("check"), CHECK_RULES, "check rule")
        if check in DIGITS_ONLY and re.search("[A-Z]", pattern):
            raise row.refusal("pattern", f"pattern: the check rule {check} knows no letters")
        found[name] = Identifier(name, pattern, check, _check_word(row, row.text("marking"), markings, "marking"))
    return tuple(found.values())


def _words(table: Table, key: str, form: re.Pattern[str]) -> tuple[str, ...]:
    words = table.words(key, form)
    for index, word in enumerate(words):
        if word in words[:index]:
            raise table.refusal(key, f"{key}: {word!r} stands twice")
    return words


def _check_word(table: Table, word: str, known: Collection[str], what: str) -> str:
    if word not in known:
        raise table.refusal("", f"unknown {what} {word!r}; known: {', '.join(sorted(known)) or 'none'}")
    return word


def _tables_by_name(top: Table, key: str) -> list[tuple[str, Table]]:
    """Tables by their names, which are words of labels."""
    outer = top.table(key).check_names(_WORD)
    return [(name, outer.inner(name, row)) for name, row in outer.values.items()]


def _error_of(complaint: Complaint) -> Invalid:
    return Invalid(complaint.message, code="nation_malformed", param=complaint.key_path, hint=complaint.hint)
