"""The escape suite: every escape unsealed and then sealed, judged by what honeypot, victim and accomplice saw.

The unsealed round is the control. An escape that does not get out even then says nothing about the seal and is
reported as not applicable, with its reason; a suite in which nothing got out unsealed proves nothing and fails.
Beside them every system call that the profile refuses, judged by its answer: it must be the filter's, and another than
the same call gets unsealed.
"""

from __future__ import annotations

import json
import platform
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
from allod.seal.devices.grants import NO_DEVICES, DeviceGrants
from allod.seal.escapes.calls import SystemCall, calls_of
from allod.seal.escapes.every import EVERY
from allod.seal.lab.lab import CALLS
from allod.seal.profiles.profile import SEALED

BLOCKED, ESCAPED, NOT_APPLICABLE, NOT_RUN = "blocked", "ESCAPED", "not applicable", "did not run"
_SILENCE_LIMIT_S = 60.0  # more than the lab's own limits let one attempt take; a slow machine may take long for all


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
    """The rows, and the three numbers that decide. `calls` are the system calls that were made (escapes/calls.py)."""

    rows: tuple[Row, ...]
    calls: tuple[Row, ...] = ()

    @property
    def escaped(self) -> int:
        """How many got out of the seal."""
        return sum(row.sealed == ESCAPED for row in (*self.rows, *self.calls))

    @property
    def blocked(self) -> int:
        """How many got out unsealed, and did not get out sealed."""
        return sum(row.sealed == BLOCKED for row in self.rows)

    @property
    def not_run(self) -> int:
        """How many the sealed round could not even try: the suite is broken, not the seal proved."""
        return sum(row.sealed == NOT_RUN for row in (*self.rows, *self.calls))

    @property
    def holds(self) -> bool:
        """Nothing got out, and something would have."""
        return self.escaped == 0 and self.not_run == 0 and self.blocked > 0


Progress = Callable[[str, int, int], None]  # an attempt that was made, how many were, and how many there will be


def run_suite(
    progress: Progress | None = None,
    *,
    profile: str = SEALED.name,
    devices: DeviceGrants = NO_DEVICES,
    unsafe_omit: tuple[str, ...] = (),
) -> SuiteReport:
    """Run the suite against `profile` on this machine, as root or not; nothing is left behind.

    `progress` hears of each attempt. `devices` are what the attempts are granted of the machine's. `unsafe_omit`
    weakens the seal on purpose, so that the suite can be seen to fail. Raises Unavailable: `seal_incomplete` as `start`
    does, `lab_unavailable` where no lab can be made.
    """
    directory = tempfile.mkdtemp(prefix="allod-seal-")
    try:
        nodes = json.dumps([[*map(str, devices.nodes)], devices.names_threads])
        messages = _messages((directory, profile, nodes, *unsafe_omit), progress or (lambda name, done, total: None))
        return _report(messages, calls_of(profile, platform.machine()))
    finally:
        shutil.rmtree(directory)


def _messages(arguments: tuple[str, ...], progress: Progress) -> Iterable[dict[str, Any]]:
    command = [sys.executable, "-S", "-P", "-m", "allod.seal.lab.lab", *arguments]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd="/", stdin=subprocess.DEVNULL) as lab:
        timer = _start_timer(lab)
        try:
            num_attempts, num_made = 0, 0
            for line in lab.stdout or ():
                timer.cancel()
                timer = _start_timer(lab)
                message = json.loads(line)
                num_attempts = message.get("attempts", num_attempts)
                if "probe" in message:
                    num_made += 1
                    progress(f"{message['phase']} {message['probe']}", num_made, num_attempts)
                yield message
        finally:
            timer.cancel()
            lab.kill()


def _start_timer(lab: subprocess.Popen[bytes]) -> threading.Timer:
    timer = threading.Timer(_SILENCE_LIMIT_S, lab.kill)
    timer.start()
    return timer


def _report(messages: Iterable[dict[str, Any]], calls: list[SystemCall]) -> SuiteReport:
    phases: dict[str, dict[str, dict[str, Any]]] = {"control": {}, "sealed": {}}
    record: set[str] | None = None
    for message in messages:
        if message["phase"] == "error":
            raise Unavailable(message["message"], code=message["code"], hint=message["hint"])
        if message["phase"] == "record":
            record = set(message["marks"])
        elif "probe" in message:
            phases[message["phase"]][message["probe"]] = message
    if record is None:
        hint = f"one attempt may take {_SILENCE_LIMIT_S:.0f} s"
        raise Unavailable("the lab ended before the suite did", code="lab_unavailable", hint=hint)
    rows = [_row(name, phases["control"][name], phases["sealed"][name], record) for name in EVERY]
    unsealed, sealed = (phases[phase][CALLS]["answers"] for phase in ("control", "sealed"))
    made = (_call(call, unsealed.get(call.name, NOT_RUN), sealed.get(call.name, NOT_RUN)) for call in calls)
    return SuiteReport((*rows, *_strays(record)), tuple(made))


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


def _call(call: SystemCall, unsealed: str, sealed: str) -> Row:
    tells = unsealed not in (call.refusal, NOT_RUN)
    if sealed == call.refusal:
        verdict = BLOCKED if tells else NOT_APPLICABLE
    else:
        verdict = NOT_RUN if sealed == NOT_RUN else ESCAPED
    return Row(
        probe=call.name,
        tries=f"system call {call.number}",
        control=f"answered {unsealed}" if tells else f"does not apply: {unsealed}",
        sealed=verdict,
        detail=sealed,
    )


def _strays(record: set[str]) -> list[Row]:
    """Frames at the address that only sealed attempts knew, without any token: an escape nobody foresaw."""
    strays = sorted(mark for mark in record if mark.startswith("stray:"))
    if not strays:
        return []
    detail = f"{len(strays)} frames, the first {strays[0].removeprefix('stray:')}"
    return [Row(probe="stray", tries="any other frame", control="reached", sealed=ESCAPED, detail=detail)]
