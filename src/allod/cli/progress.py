"""Progress of long work: a bar on a terminal, a line a step otherwise. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from allod.model.store import Progress as Report

LINE_EVERY_S = 5.0


@contextmanager
def show_progress(*, are_bytes: bool = True) -> Iterator[Report]:
    """A callable that takes (what, how much is done, how much there is) as often as one likes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines()
        return
    amount: ProgressColumn = DownloadColumn() if are_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield report


def _plain_lines() -> Report:
    last_what, last_at = "", 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal last_what, last_at
        now = time.monotonic()
        doing = what.partition(",")[0]  # what follows a comma is a figure that changes
        is_new = doing != last_what
        if not is_new and now - last_at < LINE_EVERY_S:
            return
        last_what, last_at = doing, now
        share = f" {100 * done // total} %" if total and not is_new else ""
        print(f"{what}{share}", file=sys.stderr, flush=True)

    return report
