"""What the tests reached, by room: reads the coverage.json that `make coverage` leaves, and prints a table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

LOW_PERCENT = 80
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def percent(counts: Counter[str]) -> float:
    """Of statements and branches together, as coverage counts; of a file without either, all."""
    total = counts["num_statements"] + counts["num_branches"]
    return 100 * (counts["covered_lines"] + counts["covered_branches"]) / total if total else 100.0


def main() -> None:
    files: dict[str, Any] = json.loads(Path("coverage.json").read_text())["files"]
    rooms: dict[str, Counter[str]] = {}
    low: list[tuple[float, str]] = []
    for path, file in files.items():
        name = path.partition("allod/")[2]
        counts = Counter({count: int(file["summary"][count]) for count in COUNTS})
        for room in (name.split("/")[0] if "/" in name else "(top)", "all"):
            rooms.setdefault(room, Counter()).update(counts)
        if percent(counts) < LOW_PERCENT:
            low.append((percent(counts), name))
    print(f"{'room':10} {'statements':>10} {'missed':>7} {'branches':>9} {'missed':>7} {'reached':>8}")
    for room, counts in sorted(rooms.items(), key=lambda item: (item[0] == "all", item[0])):
        statements, lines, branches, taken = (counts[count] for count in COUNTS)
        missed = f"{statements:10} {statements - lines:7} {branches:9} {branches - taken:7}"
        print(f"{room:10} {missed} {percent(counts):7.1f}%")
    print(f"\nbelow {LOW_PERCENT} %:")
    for share, name in sorted(low):
        print(f"{share:7.1f}%  {name}")


if __name__ == "__main__":
    main()
