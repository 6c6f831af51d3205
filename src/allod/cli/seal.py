"""`allod seal test`: every escape, unsealed as the control and then sealed, as a table."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from allod.seal.profile import PROFILES, SEALED
from allod.seal.suite import ESCAPED, SuiteReport, run_suite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    testing = parts.add_parser("test", help="run the escape suite; exit status 1 if anything got out")
    testing.add_argument(
        "--profile", choices=[*PROFILES], default=SEALED.name, help="an engine's, or training's island"
    )
    testing.add_argument("--json", action="store_true")


def run(words: argparse.Namespace) -> int:
    """Run the suite; nothing but a suite in which the control got out and the seal held is a success."""
    report = run_suite(lambda name: print(f"trying {name}", file=sys.stderr, flush=True), profile=words.profile)
    if words.json:
        print(
            json.dumps({"holds": report.holds, "escaped": report.escaped, "rows": [asdict(row) for row in report.rows]})
        )
    else:
        _print(report)
    return 0 if report.holds else 1


def _print(report: SuiteReport) -> None:
    table = Table("escape", "what it tries", "unsealed (control)", "sealed", "why")
    for row in report.rows:
        style = "bold red" if row.sealed == ESCAPED else None
        table.add_row(row.probe, row.tries, row.control, row.sealed, row.detail, style=style)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    reached = sum(row.control == "reached" for row in report.rows)
    print(f"unsealed, {reached} of {len(report.rows)} reached the honeypot; sealed, {report.escaped} got out")
    print("the seal holds" if report.holds else "THE SEAL DOES NOT HOLD, or the suite proved nothing")
