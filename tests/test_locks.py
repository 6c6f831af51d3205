"""The lists of pinned packages can be installed: nothing is missing from them, nothing in them contradicts another."""

from __future__ import annotations

import json
import re
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
REQUIREMENTS = REPOSITORY / "requirements"
UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "ProxyError", "No matching index")


def resolved(lock: Path, place: Path) -> dict[str, dict[str, Any]]:
    """The metadata of each package that pip would install of a list, by name. Nothing is downloaded but metadata."""
    venv.create(place, with_pip=True)
    words = ["install", "--dry-run", "--no-deps", "--require-hashes", "--quiet", "--report", "-", "--retries", "1"]
    python: list[str | Path] = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    command = [*python, *words, "--requirement", lock]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if any(word in done.stderr for word in UNREACHABLE):
        pytest.skip("no package registry can be reached from here")
    assert done.returncode == 0, done.stderr
    return {
        canonicalize_name(entry["metadata"]["name"]): entry["metadata"] for entry in json.loads(done.stdout)["install"]
    }


def unmet(asked: Iterator[Requirement], packages: dict[str, dict[str, Any]]) -> list[str]:
    """What is asked for, directly or by a package of the list with the extras that were asked of it, and not there."""
    waiting, seen, found = list(asked), set[tuple[str, str]](), []
    while waiting:
        wanted = waiting.pop()
        package = packages.get(canonicalize_name(wanted.name))
        if package is None or not wanted.specifier.contains(package["version"], prereleases=True):
            found.append(f"{wanted} (there is {package['version'] if package else 'none'})")
            continue
        for extra in ({"", *wanted.extras}) - {extra for name, extra in seen if name == package["name"]}:
            seen.add((package["name"], extra))
            needed = map(Requirement, package.get("requires_dist", ()))
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found


@pytest.mark.services
def test_the_peers_of_the_benchmarks_can_be_installed(tmp_path: Path) -> None:
    """`make bench` on a new machine: pip takes the list, and it holds all that its packages need."""
    packages = resolved(REQUIREMENTS / "peers.txt", tmp_path / "venv")
    asked = map(Requirement, (REQUIREMENTS / "peers.in").read_text().split())
    assert unmet(asked, packages) == []


@pytest.mark.parametrize(
    "file", ["Makefile", "tests/lock.sh", "tests/torch.sh", "benchmarks/peers.py", "docs/govern.md"]
)
def test_every_list_that_is_named_is_there(file: str) -> None:
    """What installs, pins or tells of packages names files of requirements/."""
    named = set(re.findall(r"requirements/[\w.]+", (REPOSITORY / file).read_text()))
    assert named != set()
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


def test_every_list_pins_by_digest() -> None:
    """Each package of each list has at least one."""
    for lock in REQUIREMENTS.glob("*.txt"):
        for package in re.split(r"\n(?=\S)", lock.read_text().strip()):
            assert "--hash=sha256:" in package, f"{lock.name}: {package}"


def test_a_package_that_is_missing_would_be_found() -> None:
    """By way of an extra, too; the interpreter decides which markers hold."""
    packages = {
        "one": {"name": "one", "version": "1.0", "requires_dist": ["two[fast]>=2", "nowhere; python_version<'3'"]},
        "two": {"name": "two", "version": "2.1", "requires_dist": ["three; extra=='fast'", "four; extra=='slow'"]},
    }
    assert unmet(iter([Requirement("one>=1")]), packages) == ['three; extra == "fast" (there is none)']
    assert unmet(iter([Requirement("two<2")]), packages) == ["two<2 (there is 2.1)"]
