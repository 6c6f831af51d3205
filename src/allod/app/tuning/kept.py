"""What was measured, kept in ALLOD_HOME/tuning.jsonl: a line a measurement, found again by who measures the same.

A line is of one configuration in one round of one run, on one machine, with one build of the engine and one workload.
Ratios are taken within a run's round only: what was measured at another time was measured beside other work.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from allod.app.tuning.configuration import Configuration
from allod.app.tuning.figures import Figures
from allod.core.errors import Unavailable
from allod.core.files.whole import sync

FILE = "tuning.jsonl"


class RoundOfRun(NamedTuple):
    """A round of a run, which is known by when it began, in milliseconds."""

    run: int
    number: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What must be the same for two measurements to be of one thing: digests, and what the workload is."""

    machine: str
    engine: str
    workload: int


class Kept:
    """What was measured of a subject. `digests` are of the files that configurations name."""

    def __init__(self, file: TextIO, subject: Subject, digests: Mapping[Path, str], *, again: bool = False) -> None:
        self._file = file
        self._subject = subject
        self._digests = digests
        self.laps: dict[Configuration, dict[RoundOfRun, Figures]] = defaultdict(dict)
        if not again:
            file.seek(0)
            for line in file:
                self._take_in(line)

    def add(self, configuration: Configuration, lap: RoundOfRun, figures: Figures) -> None:
        """Keep one; it is on the disk on return."""
        self.laps[configuration][lap] = figures
        row = {
            **asdict(self._subject),
            "model": self._digests[configuration.file],
            "settings": _settings_of(configuration),
            "run": lap.run,
            "round": lap.number,
            "figures": asdict(figures),
        }
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def ratios(self, reference: Configuration) -> dict[Configuration, list[float]]:
        """Of each configuration, its score by the reference's in the same round, oldest first."""
        beside = {lap: figures.score for lap, figures in self.laps[reference].items() if figures.score > 0}
        return {
            configuration: [laps[lap].score / beside[lap] for lap in sorted(laps) if lap in beside]
            for configuration, laps in self.laps.items()
            if configuration != reference
        }

    def _take_in(self, line: str) -> None:
        """A line of the same subject; another, and one that a crash cut off, is passed over."""
        try:
            row = json.loads(line)
            if any(row[key] != value for key, value in asdict(self._subject).items()):
                return
            file = next((path for path, digest in self._digests.items() if digest == row["model"]), None)
            if file is None:
                return
            configuration = Configuration(file, **row["settings"])
            self.laps[configuration][RoundOfRun(int(row["run"]), int(row["round"]))] = _figures_of(row["figures"])
        except (ValueError, KeyError, TypeError):
            return


@contextmanager
def open_kept(home: Path) -> Iterator[TextIO]:
    """The file, made on first use, for one run at a time. Raises Unavailable (`tune_running`)."""
    path = home / FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable("another `allod tune` runs in this realm", code="tune_running") from None
        file.seek(0)
        text = file.read()
        if text and not text.endswith("\n"):
            file.write("\n")  # what a crash cut off stays apart from what follows
        sync(home)
        yield file


def _settings_of(configuration: Configuration) -> dict[str, Any]:
    return {key: value for key, value in asdict(configuration).items() if key != "file"}


def _figures_of(row: Mapping[str, Any]) -> Figures:
    known = {each.name for each in fields(Figures)}
    if set(row) != known:
        raise ValueError("figures of another shape")
    return Figures(**{**row, "answers": tuple(tuple(answer) for answer in row["answers"])})
