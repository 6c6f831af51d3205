"""`allod verify`: a bundle, offline, in numbered steps. Imports neither engine nor web."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from allod.core.errors import Invalid, VerificationError
from allod.prove.trust import Trust
from allod.prove.verify import STEPS, verify
from allod.settings import default_home

HELP = "check a receipt's bundle, offline"
MAX_TRUST_BYTES = 1 << 20
MAX_BUNDLE_BYTES = 64 << 20  # the verifier has a limit of its own; this one keeps a wrong file out of memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the bundle (*.receipt.json)")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="whose signatures to believe (this realm's)")
    parser.add_argument("--json", action="store_true", help="the steps as one JSON object")


def run(words: argparse.Namespace) -> int:
    """Print each step, then `verified` or the step that failed."""
    trust_file = words.trust or default_home() / "trust.policy"
    bundle = _read(words.file, MAX_BUNDLE_BYTES)
    trust = Trust.parse(_read(trust_file, MAX_TRUST_BYTES).decode("utf-8", "replace"))
    try:
        report = verify(bundle, trust)
    except VerificationError as error:
        if words.json:
            failed = {"number": error.step, "name": error.name, "ok": False, "detail": error.message}
            print(json.dumps({"verified": False, "failed": failed}))
        else:
            for number, name in enumerate(STEPS[: error.step - 1], 1):
                print(f"{number} {name}: passed")
            print(f"{error.step} {error.name}: FAILED: {error.message}")
            print(f"not verified: step {error.step} ({error.name}) failed")
        return 1
    steps = [{"number": step.number, "name": step.name, "ok": True, "detail": step.detail} for step in report.steps]
    if words.json:
        print(json.dumps({"verified": True, "level": report.level, "steps": steps}))
        return 0
    for step in steps:
        print(f"{step['number']} {step['name']}: {step['detail']}")
    print("verified")
    return 0


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        hint = "give the log's trust file with --trust" if path.name == "trust.policy" else None
        raise Invalid(f"{path}: {error.strerror}", code="unreadable", hint=hint) from error
    if len(data) > limit_bytes:
        raise Invalid(f"{path} is longer than {limit_bytes} bytes", code="too_large")
    return data
