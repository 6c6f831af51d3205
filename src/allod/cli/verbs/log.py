"""`allod log`: the transparency log's key, its head, and its health."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from allod.app.artefacts.known_heads import heads_of_bundles
from allod.app.artefacts.log import ArtefactsLog
from allod.app.gateway.open_store import open_store
from allod.app.home import Home, load_settings
from allod.cli.json_text import json_text
from allod.cli.officer import account_here
from allod.cli.running import is_clock_believed, the_log_to_itself
from allod.core.errors import Invalid
from allod.core.files.named import read_named_file
from allod.core.statements.clock import ClockAccepted, clock_statement
from allod.core.statements.receipt import check_statement
from allod.core.times import moment_text, now_ms
from allod.prove.compare import Comparison, compare, read_note
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.signing_key import load_signing_key
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import MAX_BUNDLE_BYTES
from allod.prove.tlog.fsck import NO_HISTORY, Finding, FsckReport, KnownHistory, fsck, rebuild
from allod.settings.tree import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    parts.add_parser("key", help="print the log's C2SP verifier key")
    parts.add_parser("head", help="print the last signed tree head")
    accepting = parts.add_parser("accept-clock", help="say, in the artefacts log, that this machine's clock is right")
    accepting.add_argument("--json", action="store_true")
    comparing = parts.add_parser("compare", help="is the log still the one that a kept tree head speaks of, or how not")
    comparing.add_argument("file", metavar="HEAD_FILE", help="what `allod log head` printed, or a receipt's bundle")
    comparing.add_argument("--json", action="store_true")
    check = parts.add_parser("fsck", help="replay the whole log and check every sum, hash and signature")
    check.add_argument("--rebuild", action="store_true", help="make derived files again (no gateway may run)")
    check.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """One of the parts."""
    home = Home(load_settings().home)
    if not home.trust.exists():
        raise Invalid("this realm has no log yet", code="no_log", hint="`allod up` makes one")
    if arguments.part == "key":
        print(load_signing_key(home.log_key).verifier_key)
        return 0
    if arguments.part == "head":
        checkpoint = home.receipts / "checkpoint"
        if not checkpoint.exists():
            raise Invalid("the log has no tree head yet", code="no_log", hint="it has one after the first answer")
        sys.stdout.write(checkpoint.read_text())
        return 0
    if arguments.part == "compare":
        return _compare(home, arguments)
    if arguments.part == "accept-clock":
        return _accept_clock(home, arguments)
    return _fsck(home, arguments)


def _compare(home: Home, arguments: argparse.Namespace) -> int:
    """0 if the log, the one that the head names, holds all that was kept; 1 if not. Raises Invalid for another's."""
    note, origin = _read_kept(arguments.file)
    logs = {home.log_key: home.receipts, home.artefacts_key: home.artefacts}
    keys = {load_signing_key(path).verifier: directory for path, directory in logs.items() if path.exists()}
    for key, directory in keys.items():
        if key.name == origin:
            found = compare(directory, key, note)
            break
    else:
        ours = " and ".join(key.name for key in keys)
        raise Invalid(f"the tree head is of {origin}, and this realm's logs are {ours}", code="log_origin")
    if arguments.json:
        print(json_text(_comparison_json(found)))
    else:
        print(f"{origin}: {found.said}")
    return 0 if found.is_consistent else 1


def _read_kept(file: str) -> tuple[str, str]:
    """The signed tree head in the file, and its log's name. Raises Invalid."""
    data = read_named_file(Path(file), limit_bytes=MAX_BUNDLE_BYTES)
    try:
        note = read_note(data)
        return note, TreeHead.of_signed(note).origin
    except Invalid as error:
        hint = "give it what `allod log head` printed, or a receipt's bundle"
        raise error.restate(f"{file} holds no tree head: {error.message}", hint=hint) from error


def _comparison_json(found: Comparison) -> dict[str, Any]:
    def head_json(head: TreeHead | None) -> dict[str, Any] | None:
        return None if head is None else {"size": head.size, "root": head.root.hex()}

    return {
        "origin": found.kept.origin,
        "is_consistent": found.is_consistent,
        "verdict": found.verdict,
        "said": found.said,
        "kept": head_json(found.kept),
        "head": head_json(found.head),
        "proof": [node.hex() for node in found.proof],
    }


def _accept_clock(home: Home, arguments: argparse.Namespace) -> int:
    """Receipts are dated by this clock from now on, and the artefacts log says since when, and who said so.

    Where nothing doubts it there is nothing to say, and nothing is written.
    """
    settings = load_settings()
    try:
        head = TreeHead.of_signed((home.receipts / "checkpoint").read_text())
    except FileNotFoundError as error:
        raise Invalid("the log has no tree head yet", code="no_log") from error
    if is_clock_believed(settings):
        print(json_text(None) if arguments.json else "the clock is believed already: nothing was written")
        return 0
    who = account_here()
    accepted = ClockAccepted(
        f"clock_{secrets.token_hex(16)}", now_ms(), settings.origin, head.size, head.root.hex(), who
    )
    ArtefactsLog(settings).append([clock_statement(accepted)])
    print(json_text(asdict(accepted)) if arguments.json else f"accepted at {moment_text(accepted.at_ms)}, by {who}")
    return 0


def _fsck(home: Home, arguments: argparse.Namespace) -> int:
    """Both logs of the realm: 0 if each is whole and every entry can be read, 1 if not."""
    settings = load_settings()
    reports = {}
    for name, directory, key_file in (
        ("receipts", home.receipts, home.log_key),
        ("artefacts", home.artefacts, home.artefacts_key),
    ):
        if name == "artefacts" and not ArtefactsLog(settings).has_history:
            continue
        key = load_signing_key(key_file)
        history = _find_history(settings, name, key.verifier)
        with the_log_to_itself():
            reports[name] = (
                rebuild(directory, key, check_statement, history=history)
                if arguments.rebuild
                else fsck(directory, key.verifier, check_statement, history=history)
            )
    is_sound = all(report.is_sound for report in reports.values())
    if arguments.json:
        print(
            json_text(
                {
                    **_report_json(reports["receipts"]),
                    "logs": {name: _report_json(one) for name, one in reports.items()},
                }
            )
        )
    else:
        for name, report in reports.items():
            _print(name, report, was_asked=arguments.rebuild)
        print(_verdict(reports.values()))
    return 0 if is_sound else 1


def _find_history(settings: Settings, name: str, key: VerifierKey) -> KnownHistory:
    """Of the artefacts log the heads in the bundles that policies and releases are believed by; of the receipts what
    was charged. Raises Unavailable where the ledger cannot be asked."""
    if name == "artefacts":
        try:
            return KnownHistory(heads=tuple(heads_of_bundles(settings.home, key)))
        except Invalid as error:
            return KnownHistory(wrong=(Finding("what is kept of it", error.message),))
    if not settings.tenants.database and not Home(settings.home).tenants.exists():
        return NO_HISTORY
    with closing(open_store(settings)) as store:
        position = store.position(settings.origin)
    return KnownHistory(charged=position.num_entries if position else 0)


def _report_json(report: FsckReport) -> dict[str, Any]:
    return {
        **asdict(report),
        "head": report.head.size,
        "is_sound": report.is_sound,
        "is_damaged": report.is_damaged,
        "num_unreadable": sum(finding.is_entry for finding in report.findings),
    }


def _print(name: str, report: FsckReport, *, was_asked: bool) -> None:
    for finding in report.findings:
        print(f"{name}: {finding.where}: {finding.problem}")
    for finding in report.mended:
        print(f"{name}: {finding.where}: {finding.problem}: {'cut off' if finding.is_tail else 'made again'}")
    if report.is_rebuilt:
        print(f"{name}: made again: the index, the tiles and the checkpoint file")
    elif was_asked:
        print(f"{name}: nothing was made again, and nothing changed: the segment is damaged")
    print(f"{name}: {report.head.size} entries, {report.num_heads} tree heads, {report.num_bytes} bytes")


def _verdict(reports: Collection[FsckReport]) -> str:
    if any(report.is_damaged for report in reports):
        return "NOT clean: no gateway starts with this"
    if all(report.is_sound for report in reports):
        return "clean"
    if any(finding.is_entry for report in reports for finding in report.findings):
        return "NOT clean: the log is whole, and holds entries that nobody can read; a gateway steps over them"
    return "NOT clean: what is derived can be made again with --rebuild"
