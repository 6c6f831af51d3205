"""The escape suite: every escape unsealed and then sealed, judged by what the honeypot and the victim saw.

The unsealed round is the control. An escape that does not get out even then says nothing about the seal and is
reported as not applicable, with its reason; a suite in which nothing got out unsealed proves nothing and fails.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.core.errors import Unavailable
from allod.seal.escapes.every import EVERY
from allod.seal.profile import SEALED

BLOCKED, ESCAPED, NOT_APPLICABLE, NOT_RUN = "blocked", "ESCAPED", "not applicable", "did not run"
_TIME_LIMIT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One escape. `control` is `reached` or `does not apply: reason`; `detail` is what stopped it under the seal."""

    probe: str
    tries: str
    control: str
    sealed: str
    detail: str


@dataclass(frozen=True)
class SuiteReport:
    """The rows, and the three numbers that decide."""

    rows: tuple[Row, ...]

    @property
    def escaped(self) -> int:
        """How many got out of the seal."""
        return sum(row.sealed == ESCAPED for row in self.rows)

    @property
    def blocked(self) -> int:
        """How many got out unsealed, and did not get out sealed."""
        return sum(row.sealed == BLOCKED for row in self.rows)

    @property
    def not_run(self) -> int:
        """How many the sealed round could not even try: the suite is broken, not the seal proved."""
        return sum(row.sealed == NOT_RUN for row in self.rows)

    @property
    def holds(self) -> bool:
        """Nothing got out, and something would have."""
        return self.escaped == 0 and self.not_run == 0 and self.blocked > 0


def run_suite(
    progress: Callable[[str], None] | None = None,
    *,
    profile: str = SEALED.name,
    unsafe_omit: tuple[str, ...] = (),
) -> SuiteReport:
    """Run the suite against `profile` on this machine, as root or not; about 15 seconds, and nothing is left behind.

    `progress` hears the name of each attempt. `unsafe_omit` weakens the seal on purpose, so that the suite can be
    seen to fail. Raises Unavailable: `seal_incomplete` as `start` does, `lab_unavailable` where no lab can be made.
    """
    directory = tempfile.mkdtemp(prefix="allod-seal-")
    try:
        return _report(_messages((directory, profile, *unsafe_omit), progress or (lambda name: None)))
    finally:
        shutil.rmtree(directory)


def _messages(words: tuple[str, ...], progress: Callable[[str], None]) -> Iterable[dict[str, Any]]:
    command = [sys.executable, "-S", "-P", "-m", "allod.seal.lab", *words]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd="/", stdin=subprocess.DEVNULL) as lab:
        timer = threading.Timer(_TIME_LIMIT_S, lab.kill)
        timer.start()
        try:
            for line in lab.stdout or ():
                message = json.loads(line)
                progress(f"{message['phase']} {message.get('probe', '')}".strip())
                yield message
        finally:
            timer.cancel()
            lab.kill()


def _report(messages: Iterable[dict[str, Any]]) -> SuiteReport:
    phases: dict[str, dict[str, dict[str, Any]]] = {"control": {}, "sealed": {}}
    record: set[str] | None = None
    for message in messages:
        if message["phase"] == "error":
            raise Unavailable(message["message"], code=message["code"], hint=message["hint"])
        if message["phase"] == "record":
            record = set(message["marks"])
        else:
            phases[message["phase"]][message["probe"]] = message
    if record is None:
        raise Unavailable("the lab ended before the suite did", code="lab_unavailable")
    rows = [_row(name, phases["control"][name], phases["sealed"][name], record) for name in EVERY]
    return SuiteReport((*rows, *_strays(record)))


def _row(name: str, control: dict[str, Any], sealed: dict[str, Any], record: set[str]) -> Row:
    reached = control["mark"] in record
    if sealed["mark"] in record:
        verdict = ESCAPED
    elif not sealed["tried"]:
        verdict = NOT_RUN
    else:
        verdict = BLOCKED if reached else NOT_APPLICABLE
    return Row(
        probe=name,
        tries=EVERY[name].tries,
        control="reached" if reached else f"does not apply: {control['said']}",
        sealed=verdict,
        detail=sealed["said"],
    )


def _strays(record: set[str]) -> list[Row]:
    """Frames at the address that only sealed attempts knew, without any token: an escape nobody foresaw."""
    strays = sorted(mark for mark in record if mark.startswith("stray:"))
    if not strays:
        return []
    detail = f"{len(strays)} frames, the first {strays[0].removeprefix('stray:')}"
    return [Row(probe="stray", tries="any other frame", control="reached", sealed=ESCAPED, detail=detail)]
