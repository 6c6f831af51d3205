"""`allod seal test --gpu`: the first command on a new machine with GPUs. A row a grant, CUDA, torch and NCCL."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from allod.cli.json_text import json_text
from allod.fleet.preflight.gpu import cuda_of_torch, try_torch
from allod.seal.devices.grants import ALL, NO_DEVICES, DeviceGrants, grants_of
from allod.seal.devices.obstacles import Obstacle, obstacles_of
from allod.seal.devices.survey import survey_devices
from allod.seal.lab.device_trial import TrialReport, TrialRow, try_devices


def devices_at_hand() -> DeviceGrants:
    """All the GPUs of this machine, for the escape suite; none where none can be used."""
    survey = survey_devices()
    return NO_DEVICES if obstacles_of(survey) else grants_of(survey, (ALL,))


def run(devices: list[str], *, as_json: bool) -> int:
    """Look, try, and print what came of it; 0 only where CUDA started under a seal that is whole."""
    report = _report(tuple(devices) or (ALL,))
    if as_json:
        rows, obstacles = [asdict(row) for row in report.rows], [obstacle._asdict() for obstacle in report.obstacles]
        print(json_text({"holds": report.holds, "seal": report.seal, "rows": rows, "obstacles": obstacles}))
    else:
        _print(report)
    return 0 if report.holds else 1


def _report(wanted: tuple[str, ...]) -> TrialReport:
    survey, cuda = survey_devices(), cuda_of_torch()
    if obstacles := obstacles_of(survey, cuda=cuda):
        return TrialReport(seal="none", rows=(), obstacles=obstacles)
    grants = grants_of(survey, wanted, cuda=cuda)
    report = try_devices(grants, driver=survey.driver)
    if report.holds and cuda:
        report = replace(report, rows=(*report.rows, *try_torch(grants)))
    return report


def _print(report: TrialReport) -> None:
    if report.rows:
        table = Table("grant", "tried", "answer", "what was said")
        for row in report.rows:
            table.add_row(row.grant, row.tried, _answer(row), row.said, style=None if row.is_reached else "bold red")
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    for obstacle in report.obstacles:
        print(_words(obstacle))
    print(f"CUDA runs under the seal ({report.seal})" if report.holds else "NO GPU CAN BE USED under the seal")


def _answer(row: TrialRow) -> str:
    return row.error or "done"


def _words(obstacle: Obstacle) -> str:
    return f"{obstacle.name}: {obstacle.said}\n  hint: {obstacle.hint}"
