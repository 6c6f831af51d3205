"""The documentation is held to the code: what it shows must be so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from allod.prove.verify import STEPS

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not {".venv", ".cache", "node_modules", ".pytest_cache"} & set(path.relative_to(REPOSITORY).parts)
)


def test_the_reference_is_what_the_code_says() -> None:
    """`make docs` would change nothing."""
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (REPOSITORY / "docs" / "reference.md").read_text() == generate.reference(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_transcript_has_the_steps_of_the_verifier() -> None:
    """The README's transcript shows the steps that `allod verify` prints, in order."""
    shown = re.findall(r"^(\d) (\w+): ", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert [(int(number), name) for number, name in shown] == list(enumerate(STEPS, 1))
