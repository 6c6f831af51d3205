"""What examples/ shows is so: each is run as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY, environment
from tests.scenarios.pages import lay_out


@pytest.mark.slow
def test_the_journey_from_documents_to_a_verified_answer(tmp_path: Path) -> None:
    """Train, serve, ask, verify with a small recipe; one changed word verifies no more."""
    recipe = lay_out(tmp_path / "recipes")
    recipe.write_text(recipe.read_text().replace("context = 64", "context = 128"))
    ours = environment(tmp_path / "home")
    ours["PATH"] = f"{Path(sys.executable).parent}:{ours['PATH']}"
    done = subprocess.run(
        ["sh", REPOSITORY / "examples" / "laptop.sh", recipe],
        env=ours,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    journey = [
        "released mine",
        "sources",
        "seal  sealed",
        "7 times",
        "13 sources",
        "\nverified\n",
        "not verified: step 6",
    ]
    places = [done.stdout.find(word) for word in journey]
    assert places == sorted(places)
    assert -1 not in places
