"""A nation is data: what is true of the United Kingdom is true of an invented one, and no code knows either."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from allod.core.errors import Invalid
from allod.core.nations.identifier_patterns import fault_of
from allod.core.nations.nation import Nation
from allod.core.nations.profile import read_nation
from allod.govern.identifiers import find_identifiers, markings_in

PACKAGE = Path(__file__).parents[2] / "src" / "allod"
FILES = {"gb": PACKAGE / "nations" / "gb.toml", "xz": Path(__file__).with_name("xz.toml")}


def nation_of(code: str) -> Nation:
    return read_nation(tomllib.loads(FILES[code].read_text()), where=FILES[code].name)


@pytest.fixture(params=FILES)
def nation(request: pytest.FixtureRequest) -> Nation:
    return nation_of(request.param)


def test_the_united_kingdom_as_its_policy_has_it() -> None:
    """Three tiers, and OFFICIAL-SENSITIVE is a marking on the first; the policy's six descriptors are there."""
    gb = nation_of("gb")
    assert [tier.name for tier in gb.tiers] == ["OFFICIAL", "SECRET", "TOP SECRET"]
    assert gb.label("OFFICIAL-SENSITIVE") == gb.label("OFFICIAL", markings=["SENSITIVE"])
    descriptors = "PERSONAL DATA, HR/MANAGEMENT, LEGAL, LEGAL PROFESSIONAL PRIVILEGE, MARKET SENSITIVE, COMMERCIAL"
    assert set(descriptors.split(", ")) <= set(gb.markings)
    assert "2024" in gb.source


def test_caveats_of_the_united_kingdom_leave_the_places_that_they_name() -> None:
    """Two caveats together leave what both allow, and a part of the United Kingdom is in it."""
    gb = nation_of("gb")
    both = gb.label("SECRET", markings=["FIVE EYES ONLY", "UK/US EYES ONLY"])
    assert [place for place in sorted(gb.places) if both.allows_place(place)] == [
        *("GB", "GB-ENG", "GB-NIR", "GB-SCT", "GB-WLS", "US")
    ]
    assert gb.label("SECRET", markings=["UK EYES ONLY"]).join(both).jurisdictions == frozenset({"GB"})
    assert gb.label("SECRET", markings=["UK EYES ONLY"], jurisdictions=["FR"]).is_impossible


def test_the_invented_nation_keeps_its_own_rules() -> None:
    """Five tiers in their order, tiers that only some places may hold, an alias with two markings, an identifier."""
    xz = nation_of("xz")
    assert [tier.rank for tier in xz.tiers] == [0, 1, 2, 3, 4]
    assert xz.label("SEALED").jurisdictions == frozenset({"XZ"})
    assert xz.label("SEALED").join(xz.label("BURIED")) == xz.label("BURIED")
    assert xz.label("GUARDED FOR FRIENDS").markings == {"FRIENDS", "COUNTED COPIES"}
    assert not xz.label("GUARDED FOR FRIENDS").allows_place("XX")
    assert xz.label("BURIED", jurisdictions=["XZ-S"]).is_impossible
    found = [number for number in range(100) if find_identifiers(f"of xz{number:02}-bad-1234.", xz)]
    assert len(found) == 1
    assert markings_in(f"of xz{found[0]:02}-bad-1234.", xz) == {"ABOUT A PERSON"}


def test_words_of_one_nation_are_unknown_to_the_other() -> None:
    """SECRET in Examplia, or BURIED in the United Kingdom, is a word that nobody knows."""
    gb, xz = nation_of("gb"), nation_of("xz")
    for here, there in ((gb, xz), (xz, gb)):
        for tier in [*(tier.name for tier in there.tiers), *there.aliases]:
            with pytest.raises(Invalid, match="unknown tier"):
                here.label(tier)
        for marking in there.markings:
            with pytest.raises(Invalid, match="unknown marking"):
                here.label(markings=[marking])
    with pytest.raises(Invalid) as caught:
        gb.lowest.join(xz.lowest)
    assert caught.value.code == "nations_differ"


def test_every_word_of_a_profile_can_be_used(nation: Nation) -> None:
    """Each tier, alias, marking, place and purpose makes a label, and that label's own words make it again."""
    tiers = [*(tier.name for tier in nation.tiers), *nation.aliases]
    made = [nation.label(tier) for tier in tiers] + [nation.label(markings=[name]) for name in nation.markings]
    made += [nation.label(jurisdictions=[place], purposes=nation.purposes) for place in nation.places]
    for label in made:
        words = label.as_json()
        again = nation.label(**words)  # type: ignore[arg-type]
        assert again == label
        assert label.covers(nation.lowest)


def test_every_pattern_is_one_that_cannot_run_for_long(nation: Nation) -> None:
    """The shipped profile and the invented one keep to the rules that the reader sets for others."""
    assert nation.identifiers
    assert [fault_of(one.pattern) for one in nation.identifiers] == [None] * len(nation.identifiers)


def texts_in_code(module: Path) -> list[str]:
    """Every string of a module but its docstrings."""
    tree = ast.parse(module.read_text())
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def words_of(nation: Nation) -> re.Pattern[str]:
    names = [*(tier.name for tier in nation.tiers), *nation.aliases, *nation.markings]
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")


@pytest.mark.parametrize("room", ["core", "govern"])
def test_no_code_names_a_tier_or_marking(room: str) -> None:
    """What a nation calls its secrets stands in its profile and nowhere in these rooms."""
    words = words_of(nation_of("gb"))
    named = [
        f"{module.relative_to(PACKAGE)}: {text}"
        for module in sorted((PACKAGE / room).rglob("*.py"))
        for text in texts_in_code(module)
        if words.search(text)
    ]
    assert named == []


def test_a_planted_tier_would_be_found(tmp_path: Path) -> None:
    """The search above sees a tier in a condition and in a formatted string, and leaves docstrings alone."""
    module = tmp_path / "sin.py"
    module.write_text('"""Of SECRET."""\nif tier == "SECRET":\n    say(f"TOP SECRET {tier}")\n')
    words = words_of(nation_of("gb"))
    assert [text for text in texts_in_code(module) if words.search(text)] == ["SECRET", "TOP SECRET "]
