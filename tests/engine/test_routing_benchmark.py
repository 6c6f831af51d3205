"""The benchmark of routing runs, and what it says of a model does not depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "routing.py"


def rows(text: str, way: str) -> list[list[str]]:
    """The figures of each table's row for that way."""
    return [line.split()[len(way.split()) :] for line in text.splitlines() if line.startswith(f"  {way:30} ")]


def test_the_quick_benchmark_keeps_the_aims() -> None:
    """Conversations find 95 % of what one shared cache would, and twice as soon; shared rules leave no hot spot."""
    done = subprocess.run([sys.executable, BENCHMARK, "--quick"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (_, share, _, _, p90, _, _), (*_, balance) = rows(done.stdout, "Allod")
    (*_, least_p90, _, _), _ = rows(done.stdout, "fewest requests")
    assert float(share) >= 0.95
    assert float(least_p90) >= 2 * float(p90)
    assert float(balance) <= 1.25
