"""TOML files as values: a nation's and a site's profile, the catalogue, a recipe. The only file that reads TOML."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allod.core.errors import Invalid
from allod.model.catalogue import CatalogueEntry

if TYPE_CHECKING:  # what reads a profile or a recipe is loaded by who asks for one: a start need not wait for it
    from allod.core.nations.nation import Nation
    from allod.fleet.site import Site
    from allod.train.recipe import Recipe

_SHIPPED = Path(__file__).parents[1]


def load_nation(code: str, *, home: Path | None = None) -> Nation:
    """The profile of a nation: `nations/<code>.toml` of `home` if it is there, else Allod's own. Raises Invalid."""
    from allod.core.nations.profile import read_nation

    shipped = _SHIPPED / "nations"
    own = home / "nations" / f"{code}.toml" if home is not None else None
    file = own if own is not None and own.exists() else shipped / f"{code}.toml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
        raise Invalid(
            f"there is no profile of the nation {code!r}",
            code="nation_unknown",
            param="realm.nation",
            hint=f"there is: {known}; another is a file nations/{code}.toml in ALLOD_HOME",
        )
    nation = read_nation(read_toml(file), where=str(file))
    if nation.code != code:
        raise Invalid(f"{file} is the profile of {nation.code!r}", code="nation_misnamed", param="realm.nation")
    return nation


@cache
def load_catalogue() -> tuple[CatalogueEntry, ...]:
    """The models that Allod knows how to get, in the catalogue's order. Read once: it does not change."""
    rows = read_toml(_SHIPPED / "models.toml")["model"]
    return tuple(
        CatalogueEntry(**{**row, "packages": tuple(row["packages"]), "members": tuple(row["members"])}) for row in rows
    )


def load_site(name: str, *, home: Path | None = None) -> Site:
    """The profile of a site: `sites/<name>.toml` of `home` if it is there, else Allod's own. Raises Invalid."""
    from allod.fleet.site_profile import read_site

    shipped = _SHIPPED / "sites"
    own = home / "sites" / f"{name}.toml" if home is not None else None
    file = own if own is not None and own.exists() else shipped / f"{name}.toml"
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) is None or not file.exists():
        known = ", ".join(sorted(path.stem for path in shipped.glob("*.toml")))
        raise Invalid(
            f"there is no profile of a site {name!r}",
            code="site_unknown",
            hint=f"there is: {known}; another is a file sites/{name}.toml in ALLOD_HOME",
        )
    return read_site(read_toml(file), where=str(file))


def load_recipe(file: Path) -> Recipe:
    """The recipe in a TOML file. Raises Invalid with the key that is wrong."""
    from allod.train.recipe_reading import read_recipe

    recipe = read_recipe(read_toml(file), where=file.name)
    if recipe.clean.identifiers or recipe.evaluate.questions_sha256:
        raise Invalid(
            f"{file.name}: identifiers and questions_sha256 are written in when a run begins, not by hand",
            code="recipe_unknown",
        )
    return recipe


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises Invalid (`settings_malformed`, `settings_unreadable`)."""
    try:
        return parse_toml(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise _no_toml(str(file), error) from error
    except OSError as error:
        raise Invalid(f"{file}: {error.strerror}", code="settings_unreadable") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """What a TOML text says. Raises Invalid (`settings_malformed`)."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _no_toml(where, error) from error


def _no_toml(where: str, error: Exception) -> Invalid:
    return Invalid(f"{where} is no TOML: {error}", code="settings_malformed")
