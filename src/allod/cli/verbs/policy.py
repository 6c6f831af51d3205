"""`allod policy`: who may ask what; what is in force, what was, and what the log shows of it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from allod.app.artefacts.policies import MAX_POLICY_BYTES, Policies, open_policies
from allod.app.home import load_settings, nation_of
from allod.cli.json_text import json_text
from allod.cli.officer import account_here
from allod.cli.running import time_of_record_ms
from allod.cli.verbs.policy_explain import add_explain_arguments, explain_request
from allod.cli.verbs.policy_prove import prove_claim
from allod.core.digests import digest_of_hex, hex_of
from allod.core.errors import Invalid
from allod.core.files.named import read_named_text
from allod.core.times import moment_text, span_ms
from allod.govern.policy.check import check_policy
from allod.govern.policy.claims import GRAMMAR
from allod.prove.policy_history import LoggedVersion
from allod.settings.tree import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    check = parts.add_parser("check", help="what a policy permits, forbids and leaves open")
    check.add_argument("file", type=Path, metavar="FILE")
    add_explain_arguments(parts.add_parser("explain", help="what would be decided for a request, and by which rules"))
    setting = parts.add_parser("set", help="bring a policy into force")
    setting.add_argument("file", type=Path, metavar="FILE")
    setting.add_argument("--note", metavar="TEXT", help="why, for the log")
    setting.add_argument("--even-so", action="store_true", help="although the check warns; errors refuse it always")
    show = parts.add_parser("show", help="the text of the policy in force, or of another one")
    show.add_argument("which", nargs="?", metavar="DIGEST|VERSION")
    history = parts.add_parser("history", help="which policy was in force when, each with its log entry")
    history.add_argument("--at", metavar="TIME", help="only what was in force then: a UTC day, or a moment with a zone")
    prove = parts.add_parser(
        "prove",
        help="decide a claim from the receipts' log",
        description=f"Decide a claim from the receipts' log:\n\n{GRAMMAR}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prove.add_argument("claim", metavar="CLAIM")
    prove.add_argument("--receipts", type=Path, metavar="DIR", help="write the bundles of the receipts that break it")
    for part in parts.choices.values():
        part.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """One of the parts."""
    settings = load_settings()
    parts = {
        "check": _check,
        "explain": explain_request,
        "set": _set,
        "show": _show,
        "history": _history,
        "prove": prove_claim,
    }
    return parts[arguments.part](arguments, settings)


def _check(arguments: argparse.Namespace, settings: Settings) -> int:
    try:
        report = check_policy(read_named_text(arguments.file, limit_bytes=MAX_POLICY_BYTES), nation_of(settings))
    except Invalid as error:
        if not error.code.startswith("policy_"):
            raise
        return _show_unreadable(error, as_json=arguments.json)
    if arguments.json:
        print(json_text({**asdict(report), "is_sound": report.is_sound}))
        return 0 if report.is_sound else 1
    print(f"{report.digest}\n{report.num_asked} requests asked, {report.num_permitted} permitted")
    for rule, num_forbidden in report.forbidden_by.items():
        print(f"{num_forbidden:7} forbidden by {rule}")
    print(f"{report.num_uncovered:7} forbidden because no rule covers them")
    for example in report.uncovered:
        print(f"        such as {example}")
    for finding in report.findings:
        print(f"{finding.severity}: {finding.message}")
        if finding.example is not None:
            print(f"        such as {finding.example}")
    even_so = ", but `policy set` needs --even-so" if report.findings else ""
    print(f"sound{even_so}" if report.is_sound else "NOT sound")
    return 0 if report.is_sound else 1


def _show_unreadable(error: Invalid, *, as_json: bool) -> int:
    """What is no policy at all is an error of the policy, not of whoever asks for its check."""
    finding = {"severity": "error", "code": error.code, "message": error.message}
    print(json_text({"findings": [finding], "is_sound": False}) if as_json else f"error: {error.message}\nNOT sound")
    return 1


def _set(arguments: argparse.Namespace, settings: Settings) -> int:
    policies = open_policies(settings)
    text = read_named_text(arguments.file, limit_bytes=MAX_POLICY_BYTES)
    time_ms = time_of_record_ms(settings)
    logged = policies.set(text, who=account_here(), note=arguments.note, even_so=arguments.even_so, now_ms=time_ms)
    if arguments.json:
        print(json_text(None if logged is None else _row(logged)))
    else:
        print("in force already" if logged is None else f"in force: {_line(logged)}")
    return 0


def _show(arguments: argparse.Namespace, settings: Settings) -> int:
    policies = open_policies(settings)
    logged = _choose(policies, arguments.which)
    stored = policies.find_stored(logged.version.digest)
    if arguments.json:
        print(json_text({**_row(logged), "text": stored.text, "words": stored.schema}))
    else:
        sys.stdout.write(stored.text)
    return 0


def _history(arguments: argparse.Namespace, settings: Settings) -> int:
    history = open_policies(settings).history()
    found = history.versions_during(*span_ms(arguments.at)) if arguments.at else list(history.versions)
    if arguments.json:
        print(json_text([_row(logged) for logged in found]))
    else:
        for logged in found:
            print(_line(logged))
        if not found:
            print("no policy was in force then")
        print(f"log {history.read.head.origin}: tree head of size {history.read.head.size}")
    return 0 if found else 1


def _choose(policies: Policies, which: str | None) -> LoggedVersion:
    versions = policies.history().versions
    if which is None:
        found = list(versions[-1:])
    elif which.isascii() and which.isdigit() and len(which) < 10:
        found = [logged for logged in versions if logged.version.version == int(which)]
    else:
        digest = digest_of_hex(hex_of(which))
        found = [logged for logged in versions if logged.version.digest == digest][-1:]
    if not found:
        raise Invalid(f"{which or 'no policy'} was never in force", code="no_such_policy", hint="allod policy history")
    return found[0]


def _row(logged: LoggedVersion) -> dict[str, Any]:
    return {"entry": logged.entry, **asdict(logged.version), "at": moment_text(logged.version.at_ms)}


def _line(logged: LoggedVersion) -> str:
    version = logged.version
    said = [f"version {version.version}, entry {logged.entry}, since {moment_text(version.at_ms)}", version.digest]
    return "  ".join([*said, version.who, *([version.note] if version.note else [])])
