"""`allod policy prove`: a claim, decided from the receipts' log."""

from __future__ import annotations

import argparse
from typing import Any

from allod.app.administration.claims import Judgement, bundles_of_breaches, judge_log
from allod.app.home import Home, nation_of
from allod.cli.json_text import json_text
from allod.core.errors import Invalid
from allod.govern.policy.claims import parse_claim
from allod.prove.formats.encodings import to_base64
from allod.prove.formats.signing_key import load_signing_key
from allod.settings.tree import Settings

NUM_LISTED = 20  # breaking receipts
LIMITS = """\
This speaks of what that log held at that tree head: not of what was never logged, nor of another site's log, nor of
what became of an answer afterwards. Times and places are those that the operator's own gateway wrote down."""


def prove_claim(arguments: argparse.Namespace, settings: Settings) -> int:
    """0 if it holds, 1 if it does not, or if entries that nobody can read leave that open."""
    home = Home(settings.home)
    claim = parse_claim(arguments.claim, nation_of(settings))
    if not home.log_key.exists():
        raise Invalid("this realm has no log yet", code="no_log", hint="`allod up` makes one")
    key = load_signing_key(home.log_key).verifier
    judged = judge_log(claim, home.receipts, key)
    if arguments.receipts is not None:
        arguments.receipts.mkdir(parents=True, exist_ok=True)
        for breach, bundle in bundles_of_breaches(judged, home.receipts, key):
            (arguments.receipts / f"{breach.receipt_id}.receipt.json").write_bytes(bundle)
    print(json_text(_judgement_json(judged)) if arguments.json else _judgement_text(judged))
    return 0 if judged.holds else 1


def _judgement_json(judged: Judgement) -> dict[str, Any]:
    head = judged.read.head
    return {
        "claim": judged.claim.text,
        "holds": judged.holds,
        "log": {"origin": head.origin, "size": head.size, "root": to_base64(head.root)},
        "concerned": judged.num_concerned,
        "breaking": judged.num_breaking,
        "unreadable": judged.num_unreadable,
        "unreadable_entries": list(judged.unreadable),
        "receipts": [{"entry": breach.entry, "id": breach.receipt_id} for breach in judged.breaches],
        "limits": LIMITS,
    }


def _judgement_text(judged: Judgement) -> str:
    head = judged.read.head
    lines = [f"entry {breach.entry}: {breach.receipt_id}" for breach in judged.breaches[:NUM_LISTED]]
    if judged.num_breaking > len(lines):
        lines.append(f"and {judged.num_breaking - len(lines)} more")
    if judged.num_unreadable:
        first = ", ".join(str(number) for number in judged.unreadable[:NUM_LISTED])
        lines.append(f"{judged.num_unreadable} entries cannot be judged, being no valid statements: {first}")
    verdict = "NOT decided" if judged.is_undecided else "holds" if judged.holds else "does NOT hold"
    return "\n".join(
        [
            f"{verdict}: {judged.claim.text}",
            f"log {head.origin}: tree head of size {head.size}, root {to_base64(head.root)}",
            f"{judged.num_concerned} of its {head.size} entries are concerned, {judged.num_breaking} break the claim",
            *lines,
            LIMITS,
        ]
    )
