"""What makes the reference leaves nothing out: whatever can be set, and every code that an error may have."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

from allod.settings.external import ExternalOptions
from allod.settings.tree import Settings, load


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", Path(__file__).parents[1] / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(generate: ModuleType) -> str:
    text: str = generate.reference()
    return text


def test_everything_that_can_be_set_is_there(page: str, tmp_path: Path) -> None:
    """Every field of every section that the settings have, prices and tenants too."""
    settings = load(home=tmp_path)
    sections = {one.name: getattr(settings, one.name) for one in fields(Settings)}
    names = [
        f"{section}.{one.name}" for section, value in sections.items() if is_dataclass(value) for one in fields(value)
    ]
    names += [f"external.NAME.{one.name}" for one in fields(ExternalOptions)]
    assert {"prices.currency", "tenants.database"} <= set(names)
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_every_setting_has_a_sentence(page: str) -> None:
    """The comment beside its field."""
    rows = re.findall(r"^\| `([\w.]+)` \| \w+ \| `.*?` \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 30
    assert [name for name, sentence in rows if not sentence] == []


def test_every_error_code_has_a_sentence(generate: ModuleType) -> None:
    """In docs/error_codes.toml, which names no code that there is not."""
    trees = [ast.parse(file.read_text()) for file in generate.SOURCE.rglob("*.py")]
    said = generate.sentences()
    assert set(said) == set(generate.codes_in(trees))
    assert [code for code, sentence in said.items() if not re.fullmatch(r"[A-Z].+\.", sentence)] == []


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


def test_a_code_that_a_condition_chooses_is_on_the_page(page: str) -> None:
    """Both of them, with their kind."""
    assert "| `budget_exhausted` | Unavailable |" in page
    assert "| `rate_limited` | Unavailable |" in page


@pytest.mark.parametrize(
    "source",
    [
        'raise Invalid("x", code="one")',
        'def f(*, code): raise Invalid("x", code=code)\nf(code="one")',
        'def f(message, code): return Invalid(message, code=code)\nf("x", "one")',
        'async def f(*, code="one"): raise Invalid("x", code=code)',
        'def f():\n    code = "one" if a else b\n    raise Invalid("x", code=code)',
        'class Invalid(AllodError):\n    code = "one"',
    ],
)
def test_a_code_is_found_wherever_it_is_said(generate: ModuleType, source: str) -> None:
    """Where the error is made, or where somebody gives it to whoever makes the error."""
    assert generate.codes_in([ast.parse(source)]) == {"one": {"Invalid"}}


def test_a_code_that_goes_on_under_another_kind_has_both(generate: ModuleType) -> None:
    """What is caught and raised again: a file of ours that is unsafe is no fault of who asks."""
    read = 'def read(): raise Invalid("x", code="one")\n'
    again = "def again(code): return Unavailable('x', code=code)\n"
    for raised in ("Unavailable('x', code=error.code)", "again(error.code)"):
        source = (
            f"{read}{again}def f():\n    try:\n        read()\n    except Invalid as error:\n        raise {raised}"
        )
        assert generate.codes_in([ast.parse(source)]) == {"one": {"Invalid", "Unavailable"}}


def test_what_is_no_error_has_no_code_on_the_page(generate: ModuleType) -> None:
    """A nation has one, too."""
    assert generate.codes_in([ast.parse('Nation(code="GB")')]) == {}


def test_every_code_has_a_kind(generate: ModuleType) -> None:
    """A client must know whether asking again can help; both are said where it depends."""
    codes = generate.codes_in([ast.parse(file.read_text()) for file in generate.SOURCE.rglob("*.py")])
    assert [code for code, kinds in codes.items() if not code or not kinds] == []
    assert codes["schema_not_kept"] == codes["tool_call_invalid"] == {"Invalid", "Unavailable"}


def test_every_code_that_the_tests_meet_is_on_the_page(generate: ModuleType) -> None:
    """Whatever a test compares an error's code with, wherever it was made."""
    page = generate.reference()
    met = {
        value
        for file in Path(__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith((".code", "['code']"))
        for value in generate.texts(node.comparators[0])
        if len(value) > 2
    }
    assert len(met) > 100
    assert [code for code in sorted(met) if f"| `{code}` |" not in page] == []
