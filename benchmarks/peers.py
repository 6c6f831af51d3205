"""The software that the benchmarks compare with: pinned, checked, in a virtual environment that git ignores."""

from __future__ import annotations

import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parent / "requirements" / "peers.txt"


def bin_directory() -> Path:
    """Where the peers' programs are. Takes minutes and about 1 GB the first time, nothing afterwards.

    Anew when `peers.txt` changes. To pin anew: `uv pip compile --universal --generate-hashes --no-header
    --no-annotate --no-emit-index-url requirements/peers.in -o requirements/peers.txt`. The list is complete, and pip
    need not look for more: with hashes it refuses extras of packages that are pinned without them.
    """
    digest = sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    place = HERE.parent / ".cache" / f"peers-{digest}"
    programs = place / "bin"
    if not (place / ".ready").exists():
        print(f"installing the peers, checked against {REQUIREMENTS.name} (once; about 1 GB)", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        install = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "--require-hashes", "--requirement", str(REQUIREMENTS)], check=True)
        (place / ".ready").touch()
    return programs
