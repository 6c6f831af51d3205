"""Places: what looks like a country's code and is none is refused wherever one is read, with the code that is meant."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.core.nations.profile import read_nation
from allod.core.places import RESERVED, fault_of_place
from allod.fleet.site_profile import read_site
from allod.govern.policy.claims import parse_claim
from allod.govern.tenancy.keys import default_label
from allod.govern.tenancy.tenants import local_tenant
from allod.settings.files import load_nation
from allod.settings.tree import load
from allod.train.recipe_reading import read_recipe

NATION = load_nation("gb")
SOURCE = {"name": "a", "kind": "text", "licence": "MIT", "origin": "o", "date": "2026", "path": "a"}


def shipped(file: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("allod") / file).read_text())


READERS: dict[str, Callable[[str], object]] = {
    "settings": lambda place: load({"realm.jurisdiction": place}, home=Path("/nowhere")),
    "a nation's profile": lambda place: read_nation(
        {**shipped("nations/gb.toml"), "places": [*shipped("nations/gb.toml")["places"], place]}, where="x"
    ),
    "a site's profile": lambda place: read_site(
        {**shipped("sites/isambard-ai.toml"), "jurisdiction": place}, where="x"
    ),
    "a recipe": lambda place: read_recipe(
        {"name": "r", "minutes": 1, "source": [{**SOURCE, "jurisdiction": place}]}, where="x"
    ),
    "a tenant": lambda place: default_label(replace(local_tenant(0), jurisdictions=frozenset({place})), NATION),
    "a claim": lambda place: parse_claim(f"no SECRET request reached a site outside {place}", NATION),
}


@pytest.mark.parametrize("reader", READERS)
def test_uk_is_refused_and_gb_is_said(reader: str) -> None:
    """A site in UK would be outside every rule and every label that speaks of GB."""
    with pytest.raises(Invalid) as refused:
        READERS[reader]("UK")
    assert "say GB" in refused.value.message


@pytest.mark.parametrize("code", sorted(RESERVED))
def test_no_reserved_code_is_a_country(code: str) -> None:
    """Nor a part of one is: the part is said in the code that is meant."""
    assert "reserved" in (fault_of_place(code) or "")
    if RESERVED[code]:
        assert f"say {RESERVED[code]}-X1" in (fault_of_place(f"{code}-X1") or "")


@pytest.mark.parametrize("code", ["GB", "GB-SCT", "US", "ZZ", "FR-75C"])
def test_codes_of_iso_3166_are_places(code: str) -> None:
    """ZZ is for what nobody has said: it is left to users, and stands for no country."""
    assert fault_of_place(code) is None


@pytest.mark.parametrize("code", ["", "gb", "uk", "GBR", "GB-", "GB-ABCD", "G\u0042\u200b", None, 3])
def test_anything_else_is_none(code: object) -> None:
    """Small letters too: two spellings of one place would be two places."""
    assert fault_of_place(code)
