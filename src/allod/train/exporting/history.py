"""What an exported file says of where it came from."""

from __future__ import annotations

from pathlib import Path

from allod.core.statements.training import MANIFEST, check_training_statement

DERIVATION, RUN, BASE = "allod.derivation", "allod.run", "allod.base"


def history_keys(stage: Path, run: str) -> dict[str, str]:
    """Texts for the header of a file made from the finished `stage`: its derivation, which is the digest of the whole
    history; the run's name; and the digest of the base model, where the stage had one. None of them depends on time or
    machine. A folder without a manifest has the run's name alone. Raises Invalid for a manifest that is none."""
    manifest = stage / MANIFEST
    if not manifest.exists():
        return {RUN: run}
    statement = check_training_statement(manifest.read_bytes())
    bases = [str(given["sha256"]) for given in statement.inputs if given["name"] == "base" and "sha256" in given]
    return {DERIVATION: statement.derivation, RUN: run, **({BASE: bases[0]} if bases else {})}
