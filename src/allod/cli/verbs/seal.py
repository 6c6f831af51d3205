"""`allod seal test`: every escape, unsealed as the control and then sealed, as a table; `--gpu` is gpu_trial.py's."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from allod.cli import gpu_trial
from allod.cli.json_text import json_text
from allod.seal.devices.grants import NO_DEVICES
from allod.seal.lab.suite import BLOCKED, ESCAPED, NOT_RUN, SuiteReport, run_suite
from allod.seal.profiles.profile import PROFILES, SEALED

_ATTEMPTS_TO_JUDGE_BY = 8  # before saying how long the rest takes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    testing = parts.add_parser("test", help="run the escape suite; exit status 1 if anything got out")
    testing.add_argument(
        "--profile", choices=[*PROFILES], default=SEALED.name, help="an engine's, or training's island"
    )
    testing.add_argument("--gpu", action="store_true", help="try this machine's GPUs under the seal instead")
    testing.add_argument(
        "--device", action="append", default=[], metavar="GPU", help="with --gpu: 0, or 0/gi7/ci0; all if none is named"
    )
    testing.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Run the suite; nothing but a suite in which the control got out and the seal held is a success."""
    if arguments.gpu:
        return gpu_trial.run(arguments.device, as_json=arguments.json)
    progress = _SuiteProgress()
    devices = gpu_trial.devices_at_hand() if PROFILES[arguments.profile].has_devices else NO_DEVICES
    report = run_suite(progress, profile=arguments.profile, devices=devices)
    progress.end()
    if arguments.json:
        rows, calls = ([asdict(row) for row in part] for part in (report.rows, report.calls))
        print(json_text({"holds": report.holds, "escaped": report.escaped, "rows": rows, "calls": calls}))
    else:
        _print(report)
    return 0 if report.holds else 1


class _SuiteProgress:
    """Each attempt and how long the rest takes, by the pace so far, on standard error."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._at = "\r\033[K" if sys.stderr.isatty() else ""

    def __call__(self, name: str, done: int, total: int) -> None:
        took_s = time.monotonic() - self._started
        to_go = f", about {took_s / done * (total - done):.0f} s to go" if done >= _ATTEMPTS_TO_JUDGE_BY else ""
        self._say(f"tried {done} of {total}: {name}{to_go}")

    def end(self) -> None:
        """Say how long it took."""
        self._say(f"took {time.monotonic() - self._started:.0f} s")
        sys.stderr.write("\n" if self._at else "")

    def _say(self, text: str) -> None:
        print(f"{self._at}{text}", end="" if self._at else "\n", file=sys.stderr, flush=True)


def _print(report: SuiteReport) -> None:
    table = Table("escape", "what it tries", "unsealed (control)", "sealed", "why")
    shown_calls = (row for row in report.calls if row.sealed in (ESCAPED, NOT_RUN))
    for row in (*report.rows, *shown_calls):
        style = "bold red" if row.sealed == ESCAPED else None
        table.add_row(row.probe, row.tries, row.control, row.sealed, row.detail, style=style)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    reached = sum(row.control == "reached" for row in report.rows)
    escaped = sum(row.sealed == ESCAPED for row in report.rows)
    print(f"unsealed, {reached} of {len(report.rows)} escapes got out; sealed, {escaped}")
    answered, refused = (sum(row.sealed == verdict for row in report.calls) for verdict in (ESCAPED, BLOCKED))
    others = len(report.calls) - answered - refused
    print(
        f"of {len(report.calls)} system calls that it must not make, the filter refused {refused} that are answered "
        f"otherwise unsealed, and {answered} got past it; {others} say nothing on this machine"
    )
    print("the seal holds" if report.holds else "THE SEAL DOES NOT HOLD, or the suite proved nothing")
