"""`allod log`: the transparency log's key, its head, and its health."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from allod.app.home import Home, load_settings
from allod.cli.tenant import the_log_to_itself
from allod.core.errors import Invalid
from allod.prove.fsck import fsck, rebuild
from allod.prove.keys import load_signing_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    parts.add_parser("key", help="print the log's C2SP verifier key")
    parts.add_parser("head", help="print the last signed tree head")
    check = parts.add_parser("fsck", help="replay the whole log and check every sum, hash and signature")
    check.add_argument("--rebuild", action="store_true", help="make derived files again (no gateway may run)")
    check.add_argument("--json", action="store_true")


def run(words: argparse.Namespace) -> int:
    """One of the parts."""
    home = Home(load_settings().home)
    if not home.trust.exists():
        raise Invalid("this realm has no log yet", code="no_log", hint="`allod up` makes one")
    if words.part == "key":
        print(load_signing_key(home.log_key).verifier_key)
        return 0
    if words.part == "head":
        checkpoint = home.receipts / "checkpoint"
        if not checkpoint.exists():
            raise Invalid("the log has no tree head yet", code="no_log", hint="it has one after the first answer")
        sys.stdout.write(checkpoint.read_text())
        return 0
    key = load_signing_key(home.log_key)
    with the_log_to_itself():
        report = rebuild(home.receipts, key) if words.rebuild else fsck(home.receipts, key.verifier)
    if words.json:
        print(json.dumps({**asdict(report), "head": report.head.size, "is_sound": report.is_sound}))
        return 0 if report.is_sound else 1
    for finding in report.findings:
        print(f"{finding.where}: {finding.problem}")
    print(f"{report.head.size} entries, {report.num_heads} tree heads, {report.num_bytes} bytes")
    print("clean" if report.is_sound else "NOT clean")
    return 0 if report.is_sound else 1
