"""Get a source's package by name: from the operator's folder, else from what was fetched before, else by its registry.

`debian:NAME` is downloaded by apt, `pypi:NAME==VERSION` by pip, from where these are configured to look. Nothing is
installed or run, and whoever asks checks the content's digest before anything is believed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allod.core.errors import Invalid, Unavailable
from allod.core.shown_text import make_plain

PACKAGE_TIMEOUT_S = 1800

_PACKAGE = re.compile(
    r"debian:(?P<debian>[a-z0-9][a-z0-9+.-]{1,63})"
    r"|pypi:(?P<pypi>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+]{1,32})"
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package by its registry (`debian`, `pypi`), name and, where one is said, version."""

    registry: str
    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.registry}:{self.name}" + (f"=={self.version}" if self.version else "")

    def files_in(self, folder: Path) -> list[Path]:
        """The archives in `folder` that are called as this package's are, the last by name first."""
        if not folder.is_dir():
            return []
        if self.registry == "debian":  # name_version_architecture.deb
            start, end = f"{self.name}_", ".deb"
        else:  # PEP 427, with the name as PEP 503 has it
            start, end = f"{re.sub(r'[-_.]+', '_', self.name).lower()}-{self.version.lower()}-", ".whl"
        found = (path for path in folder.iterdir() if path.name.lower().startswith(start) and path.name.endswith(end))
        return sorted(found, reverse=True)

    @property
    def archive_name(self) -> str:
        """What its file is called, with a star for what is not known."""
        return f"{self.name}_*.deb" if self.registry == "debian" else f"{self.name}-{self.version}-*.whl"


def read_package(text: str) -> Package:
    """The package that a recipe names. Raises Invalid (`package_name`)."""
    if match := _PACKAGE.fullmatch(text):
        if match["debian"]:
            return Package("debian", match["debian"])
        return Package("pypi", match["pypi"], match["version"])
    raise Invalid(
        f"{text!r} names no package",
        code="package_name",
        param="package",
        hint="write debian:NAME or pypi:NAME==VERSION",
    )


def download(package: Package, folder: Path) -> Path:
    """Fetch the package's archive into the empty `folder`. Raises Unavailable (`package_unavailable`) and OSError."""
    command: Sequence[str]
    if package.registry == "debian":
        command = ("apt-get", "--quiet", "download", package.name)
    else:
        command = (
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--no-cache-dir", "--dest", ".", f"{package.name}=={package.version}",
        )  # fmt: skip
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PACKAGE_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise _unavailable(package, f"{command[0]} is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise _unavailable(package, f"it did not arrive in {PACKAGE_TIMEOUT_S} s") from error
    archives = package.files_in(folder)
    if result.returncode != 0 or len(archives) != 1:
        complaints = [line for line in result.stderr.splitlines() if line.startswith(("E:", "ERROR:"))]
        raise _unavailable(
            package, make_plain(complaints[-1], limit=500) if complaints else f"{command[0]} left no archive"
        )
    return archives[0]


def _unavailable(package: Package, why: str) -> Unavailable:
    update = "run apt-get update, or " if package.registry == "debian" else ""
    return Unavailable(
        f"{package} could not be had: {why}",
        code="package_unavailable",
        hint=f"{update}put {package.archive_name} into the folder for packages that were brought by hand",
    )
