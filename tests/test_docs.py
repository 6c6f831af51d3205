"""The documentation is held to the code: what it shows must be so."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.conftest import Gateway

from allod.app.gateway.engine import ECHO_MODEL
from allod.app.gateway.realm import ServedEngine, run_realm
from allod.app.home import Home, load_settings
from allod.core.requests import new_request_id
from allod.engine.adapters.echo import EchoEngine
from allod.prove.verify import STEPS
from allod.web.routes import application

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not {".venv", ".cache", "node_modules", ".pytest_cache"} & set(path.relative_to(REPOSITORY).parts)
)
DOCUMENTS = sorted(path for path in (REPOSITORY / "docs").glob("*.md") if path.name != "log.md")
SOURCE = REPOSITORY / "src" / "allod"
OURS = [
    path for folder in ("src", "tests", "docs", "benchmarks", "spec") for path in (REPOSITORY / folder).rglob("*.py")
]
OTHERS = {"convert_hf_to_gguf.py", "convert_lora_to_gguf.py"}  # llama.cpp's
PACKAGES = sorted(SOURCE.rglob("__init__.py"))


def docstrings(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def missing(text: str) -> list[str]:
    """The files of Python that a text names and that are not there. A name may begin with a folder."""
    named = set(re.findall(r"[\w./-]*\w\.py\b", text)) - OTHERS
    return sorted(name for name in named if not any(f"/{path.as_posix()}".endswith(f"/{name}") for path in OURS))


def test_every_file_that_a_docstring_names_is_there() -> None:
    """What has moved since would send a reader astray."""
    found = {path.relative_to(SOURCE): missing("\n".join(docstrings(path))) for path in SOURCE.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("page", [*DOCUMENTS, REPOSITORY / "README.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    """The pages of docs/; what was decided and measured names what there was."""
    assert missing(page.read_text()) == []


def test_every_path_of_the_architecture_is_there() -> None:
    """Folders and JavaScript too; a path is below the package or the repository."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:\w+/)+(?:[\w-]+\.\w+)?)`", page)
    assert len(paths) > 100
    roots = (SOURCE, REPOSITORY, *(path for path in SOURCE.iterdir() if path.is_dir()))
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []


def test_what_the_architecture_finds_in_a_file_is_there() -> None:
    """`name` in `file`, `name` of `file`, `file`: `name`."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    pairs = re.findall(r"`([A-Za-z_.]+)` (?:in|of) `(\S+\.py)`", page)
    pairs += [(name, path) for path, name in re.findall(r"`(\S+\.py)`: `([A-Za-z_.]+)`", page)]
    assert len(pairs) >= 4
    for name, path in pairs:
        assert re.search(rf"(?:def|class) {name.rpartition('.')[2]}\b", (SOURCE / path).read_text()), (
            f"{name} in {path}"
        )


def test_the_architecture_has_every_room() -> None:
    """With a sentence for each, and each of its own rooms."""
    rows = (REPOSITORY / "docs" / "architecture.md").read_text().partition("\n## Rooms\n")[2].partition("\n## ")[0]
    told = {row.split("`")[1].rstrip("/"): row for row in rows.splitlines() if row.startswith("| `")}
    rooms = {path.parent.name: path.parent for path in SOURCE.glob("*/__init__.py")}
    assert set(rooms) == set(told)
    inside = {(name, path.parent.name) for name, room in rooms.items() for path in room.glob("*/__init__.py")}
    assert [f"{name}/{each}" for name, each in sorted(inside) if f"`{each}/`" not in told[name]] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.parent.relative_to(SOURCE)))
def test_every_package_maps_its_files(package: Path) -> None:
    """`__init__` names every module and every package of its folder."""
    told = next(docstrings(package))
    inside = [path for path in package.parent.iterdir() if path.suffix == ".py" and not path.name.startswith("__")]
    names = [path.name for path in inside] + [f"{path.parent.name}/" for path in package.parent.glob("*/__init__.py")]
    assert [name for name in sorted(names) if not re.search(rf"(?<!\w){re.escape(name)}", told)] == []


def test_the_reference_is_what_the_code_says() -> None:
    """`make docs` would change nothing."""
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (REPOSITORY / "docs" / "reference.md").read_text() == generate.reference(), "run `make docs`"


async def test_every_route_has_a_sentence(tmp_path: Path) -> None:
    """In docs/api.md: the paths that a gateway answers, with their methods, and no others."""
    settings = await asyncio.to_thread(load_settings, home=tmp_path / "home")
    async with run_realm(settings, ServedEngine(EchoEngine(), (ECHO_MODEL,))) as realm:
        served = (await asyncio.to_thread(application, realm))._routes
    page = await asyncio.to_thread((REPOSITORY / "docs" / "api.md").read_text)
    rows = re.findall(r"^\| `(/.*)` \| ([A-Z, ]+) \| (\S.*) \|$", page, re.MULTILINE)
    told = {(method, path) for path, methods, _ in rows for method in methods.split(", ")}
    assert {(method, re.sub(r"{\w+}", "{}", path)) for method, path in told} == {
        (method, path.replace("{*}", "{}").replace(f"/{settings.origin}/", "/<origin>/")) for method, path in served
    }


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
