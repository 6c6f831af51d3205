"""The documentation is held to the code: what it shows must be so."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.conftest import Gateway

from allod.app.home import Home
from allod.core.requests import new_request_id
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


def test_the_transcripts_receipt_has_an_id_of_todays_form() -> None:
    """As long as one that is made, and beginning with a time since Allod has been there."""
    shown = re.findall(r"urn:allod:answer:v1 (\w+)", (REPOSITORY / "README.md").read_text())
    assert [len(one) for one in shown] == [len(new_request_id(0))]
    assert datetime.fromtimestamp(int(shown[0][:12], 16) / 1000, UTC).year in range(2026, 2100)


def test_whatever_a_realm_has_is_in_the_table_of_its_directory(gateway: Gateway) -> None:
    """What a gateway has made, and what has a name of its own in the code."""
    named = [path.relative_to(gateway.home) for path in vars(Home(gateway.home)).values() if path != gateway.home]
    found = {path.name for path in gateway.home.iterdir()} | {path.parts[0] for path in named}
    ours = {name for name in found if not re.fullmatch(r"tenants\.sqlite-(shm|wal)|gateway\.out", name)}
    rows = (REPOSITORY / "docs" / "start.md").read_text().partition("| file | what |")[2].partition("\n\n")[0]
    told = {
        name.split("/")[0] for row in rows.splitlines() for name in re.findall(r"`([^`]+)`", row.partition(" | ")[0])
    }
    assert ours - told == set()
