"""What judges a schema must read it as the engine does: the library here is the one inside the engine's wheel."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

PINS = {"llguidance": "1.0.1", "xllamacpp": "2026.10.11549"}  # seen together: decision 0012
_CRATE = re.compile(rb"/((?:derivre|referencing|regex-syntax)-\d+\.\d+\.\d+)/src/")


def crates(package: str) -> set[bytes]:
    """What the package's shared library was built from, as far as the places of its sources are still in it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    (library,) = Path(spec.origin).parent.glob("*.so")
    return set(_CRATE.findall(library.read_bytes()))


def test_the_grammar_here_is_built_from_what_the_engines_is() -> None:
    """The same versions of the expressions, the derivatives and the references that LLGuidance consists of."""
    found = crates("llguidance")
    assert found == crates("xllamacpp")
    assert len(found) == 3


@pytest.mark.parametrize("package", PINS)
def test_neither_moves_alone(package: str) -> None:
    """Close versions are built from the same parts (1.0 to 1.3 are): who moves one looks at both, and says so here."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"{package}=={PINS[package]}" in project["dependencies"]
    assert re.search(
        rf"^{package}=={re.escape(PINS[package])}\b", (REPOSITORY / "requirements" / "main.txt").read_text(), re.M
    )
    assert PINS[package] in (REPOSITORY / "docs" / "decisions" / "0012-schemas.md").read_text()
