"""What makes the reference leaves nothing out: whatever can be set, and every code that an error may have."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

from allod.settings import Settings, load


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", Path(__file__).parents[1] / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_everything_that_can_be_set_is_there(generate: ModuleType, tmp_path: Path) -> None:
    """Every field of every section that the settings have, prices and tenants too."""
    page, settings = generate.reference(), load(home=tmp_path)
    sections = {one.name: getattr(settings, one.name) for one in fields(Settings)}
    names = [
        f"{section}.{one.name}" for section, value in sections.items() if is_dataclass(value) for one in fields(value)
    ]
    assert {"prices.currency", "tenants.database"} <= set(names)
    assert [name for name in names if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(
    ("expression", "codes"),
    [
        ('"one"', ["one"]),
        ('"one" if other else "two"', ["one", "two"]),
        ('"one" if a else "two" if b else "three"', ["one", "two", "three"]),
        ('given or "one"', ["one"]),
        ('f"{what}_exists"', ["<what>_exists"]),
        ('error["code"]', []),
        ("error.code", []),
    ],
)
def test_a_code_is_found_however_it_is_chosen(generate: ModuleType, expression: str, codes: list[str]) -> None:
    """By a condition, by what is left over, or in part; a code that is passed on is said where it is made."""
    assert list(generate.texts(ast.parse(expression, mode="eval").body)) == codes


def test_a_code_that_a_condition_chooses_is_on_the_page(generate: ModuleType) -> None:
    """Both of them, with their kind."""
    page = generate.reference()
    assert "| `budget_exhausted` | Unavailable |" in page
    assert "| `rate_limited` | Unavailable |" in page
