"""Progress of long work: a bar on a terminal, a line a step otherwise. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from allod.model.store import Progress as Report

LINE_EVERY_S = 5.0


@contextmanager
def shown() -> Iterator[Report]:
    """A callable that takes (what, bytes done, bytes in all) as often as one likes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
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
        is_new = what != last_what
        if not is_new and now - last_at < LINE_EVERY_S:
            return
        last_what, last_at = what, now
        share = f" {100 * done // total} %" if total and not is_new else ""
        print(f"{what}{share}", file=sys.stderr, flush=True)

    return report
