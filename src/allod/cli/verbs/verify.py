"""`allod verify`: a bundle, offline, in numbered steps. Imports neither engine nor web."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allod.core.errors import Invalid, VerificationError
from allod.prove.releases.answer_lineage import UNKNOWN, Followed, Places, follow_answer
from allod.prove.trust import Trust
from allod.prove.verify import STEPS, Report, verify
from allod.settings.environment import default_home
from allod.settings.files import load_catalogue

MAX_TRUST_BYTES = 1 << 20
MAX_BUNDLE_BYTES = 64 << 20  # the verifier has a limit of its own; this one keeps a wrong file out of memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the bundle (*.receipt.json)")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="whose signatures to believe (this realm's)")
    parser.add_argument(
        "--lineage", action="store_true", help="go on from the answer's model to the documents that it learnt from"
    )
    parser.add_argument("--json", action="store_true", help="the steps as one JSON object")


def run(words: argparse.Namespace) -> int:
    """Print each step, then `verified` or the step that failed."""
    home = default_home().absolute()
    trust_file = words.trust or home / "trust.policy"
    bundle = read_bounded(words.file, MAX_BUNDLE_BYTES)
    trust = Trust.parse(read_bounded(trust_file, MAX_TRUST_BYTES).decode("utf-8", "replace"))
    told = _Told(as_json=words.json)
    try:
        report = verify(bundle, trust)
    except VerificationError as error:
        for number, name in enumerate(STEPS[: error.step - 1], 1):
            told.step(number, name, "passed")
        return told.failed(error)
    for step in report.steps:
        told.step(step.number, step.name, step.detail)
    if words.lineage:
        places = Places(home / "logs" / "artefacts", home / "store" / "models", home / "keys" / "models.pub")
        try:
            for followed in follow_answer(report, trust, places):
                told.followed(followed)
        except VerificationError as error:
            return told.failed(error, _imported(report, error))
    return told.verified(report)


@dataclass
class _Told:
    """What is told of the steps: as they come, or as one object at the end."""

    as_json: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)

    def step(self, number: int, name: str, detail: str) -> None:
        self.steps.append({"number": number, "name": name, "ok": True, "detail": detail})
        if not self.as_json:
            print(f"{number} {name}: {detail}")

    def followed(self, followed: Followed) -> None:
        for step in followed.steps:
            self.step(step.number, step.name, step.detail)
        row = _lineage_row(followed)
        self.lineage.append(row)
        if not self.as_json:
            print("\n".join(_lineage_lines(row)))

    def verified(self, report: Report) -> int:
        if self.as_json:
            print(json.dumps({"verified": True, "level": report.level, "steps": self.steps, **self._chain()}))
        else:
            print("verified")
        return 0

    def _chain(self) -> dict[str, Any]:
        return {"lineage": self.lineage} if self.lineage else {}

    def failed(self, error: VerificationError, imported: str = "") -> int:
        detail = imported or error.message
        if self.as_json:
            failed = {"number": error.step, "name": error.name, "ok": False, "detail": detail}
            print(json.dumps({"verified": False, "failed": failed, "steps": self.steps, **self._chain()}))
            return 1
        print(f"{error.step} {error.name}: FAILED: {detail}")
        reason = "lineage unknown" if error.code == UNKNOWN else f"step {error.step} ({error.name}) failed"
        print(f"not verified: {reason}")
        return 1


def _imported(report: Report, error: VerificationError) -> str:
    """What the catalogue says of the answer's model, where it was not made here; empty where it says nothing."""
    if error.code != UNKNOWN:
        return ""
    digest = report.statement.predicate["model"]["digest"]
    for entry in load_catalogue():
        if digest == f"sha256:{entry.sha256}" and entry.sha256 in error.message:
            return (
                f"{entry.name} is imported from {entry.publisher} ({entry.country}), {entry.licence}: "
                "its training is not known here"
            )
    return ""


def _lineage_row(followed: Followed) -> dict[str, Any]:
    chain, artefact = followed.release.chain, followed.release.artefact
    return {
        "name": artefact.name,
        "kind": artefact.kind,
        "digest": artefact.artefact_digest,
        "statement": artefact.id,
        "root": chain.root,
        "base": None if chain.base is None else dict(chain.base),
        "stages": [{"stage": one.name, "derivation": one.statement.derivation} for one in reversed(chain.stages)],
        "sources": [dict(source) for source in chain.sources],
    }


def _lineage_lines(row: Mapping[str, Any]) -> list[str]:
    """The chain, from what was served down to the sources."""
    lines = [f"  {row['name']} {row['digest']}"]
    lines += [f"  ← {one['stage']:15} {one['derivation']}" for one in row["stages"]]
    if row["base"]:
        base = row["base"]
        lines.append(f"  ← base {base['sha256']}: {base['licence']}, {base['jurisdiction']}, {base['origin']}")
    lines += [
        f"  ← source {one['name']} {one['sha256']}: {one['licence']}, {one['jurisdiction']}, {one['origin']}"
        for one in row["sources"]
    ]
    return lines


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """A file that somebody named. Raises Invalid (`unreadable`, `too_large`)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        hint = "give the log's trust file with --trust" if path.name == "trust.policy" else None
        raise Invalid(f"{path}: {error.strerror}", code="unreadable", hint=hint) from error
    if len(data) > limit_bytes:
        raise Invalid(f"{path} is longer than {limit_bytes} bytes", code="too_large")
    return data
