"""`allod verify`: a bundle, offline, in numbered steps. Loads core and prove alone, so that little is to be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allod.cli.json_text import json_text
from allod.cli.steps import print_failed, print_step, steps_before
from allod.core.errors import VerificationError
from allod.core.files.named import read_named_file
from allod.prove.trust import Trust
from allod.prove.verify import STEPS, Report, Step, verify
from allod.settings.environment import default_home

MAX_TRUST_BYTES = 1 << 20
MAX_BUNDLE_BYTES = 64 << 20  # the verifier has a limit of its own; this one keeps a wrong file out of memory
TRUST_HINT = "give the log's trust file with --trust"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the bundle (*.receipt.json)")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="whose signatures to believe (this realm's)")
    parser.add_argument(
        "--lineage", action="store_true", help="go on from the answer's model to the documents that it learnt from"
    )
    parser.add_argument("--json", action="store_true", help="the steps as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print each step, then `show_verified` or the step that failed."""
    home = default_home().absolute()
    trust_file = arguments.trust or home / "trust.policy"
    bundle = read_named_file(arguments.file, limit_bytes=MAX_BUNDLE_BYTES)
    trust_text = read_named_file(trust_file, limit_bytes=MAX_TRUST_BYTES, hint=None if arguments.trust else TRUST_HINT)
    trust = Trust.parse(trust_text.decode("utf-8", "replace"))
    output = _Output(as_json=arguments.json)
    try:
        report = verify(bundle, trust)
    except VerificationError as error:
        output.show_steps(steps_before(error, STEPS))
        return output.show_failed(error)
    output.show_steps(report.steps)
    if arguments.lineage:
        from allod.cli.verify_lineage import UNKNOWN, follow  # reads logs and models: loaded if asked for

        try:
            for followed in follow(report, trust, home):
                output.show_lineage(*followed)
        except VerificationError as error:
            return output.show_failed(error, "lineage unknown" if error.code == UNKNOWN else "")
    return output.show_verified(report)


@dataclass
class _Output:
    """What is said of the steps: as they come, or as one object at the end."""

    as_json: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)

    def show_steps(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.steps.append({"number": step.number, "name": step.name, "ok": True, "detail": step.detail})
            if not self.as_json:
                print_step(step)

    def show_lineage(self, steps: Iterable[Step], row: dict[str, Any]) -> None:
        self.show_steps(steps)
        self.lineage.append(row)
        if not self.as_json:
            print("\n".join(_lineage_lines(row)))

    def show_verified(self, report: Report) -> int:
        if self.as_json:
            print(json_text({"verified": True, "level": report.level, "steps": self.steps, **self._chain()}))
        else:
            print("verified")
        return 0

    def _chain(self) -> dict[str, Any]:
        return {"lineage": self.lineage} if self.lineage else {}

    def show_failed(self, error: VerificationError, reason: str = "") -> int:
        if self.as_json:
            failed = {"number": error.step, "name": error.name, "ok": False, "detail": error.message}
            print(json_text({"verified": False, "failed": failed, "steps": self.steps, **self._chain()}))
            return 1
        print_failed(error, reason)
        return 1


def _lineage_lines(row: Mapping[str, Any]) -> list[str]:
    """The chain, from what was served down to the sources."""
    stated = "{licence}, {jurisdiction}, {origin}".format_map
    lines = [f"  {row['name']} {row['digest']}"]
    lines += [f"  ← {stage['stage']:15} {stage['derivation']}" for stage in row["stages"]]
    if base := row["base"]:
        lines.append(f"  ← base {base['sha256']}: {stated(base)}")
    return lines + [f"  ← source {source['name']} {source['sha256']}: {stated(source)}" for source in row["sources"]]
