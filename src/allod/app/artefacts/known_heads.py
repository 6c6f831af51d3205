"""The tree heads that the artefacts log is known to have had, from the bundles that were kept of its entries.

Policies and releases share the log, so either of them notices that it was put back by what is kept of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from allod.core.digests import hex_of
from allod.core.errors import AllodError, Invalid
from allod.core.files.plain import read_plain_file
from allod.core.statements.policy import POLICY, check_policy_statement
from allod.core.statements.receipt import check_statement
from allod.core.statements.training import ARTEFACT, check_artefact_statement
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import MAX_BUNDLE_BYTES, parse_bundle
from allod.prove.trust import Trust
from allod.prove.verify import verify

FOLDERS = {"policies": POLICY, "releases": ARTEFACT}  # of ALLOD_HOME, and what the bundles in each are about

_ANOTHER = {POLICY: "another policy", ARTEFACT: "another release"}


def heads_of_bundles(home: Path, key: VerifierKey) -> Iterator[TreeHead]:
    """The tree head of every bundle of the realm in `home`. Raises Invalid (`bad_bundle`) at a false one."""
    for folder, kind in FOLDERS.items():
        yield from _heads_in(home / folder, kind, key)


def is_bundle_kept(home: Path) -> bool:
    """Whether a bundle was kept of any entry: then the realm has had the log."""
    return any(next((home / folder).glob("*.json"), None) for folder in FOLDERS)


def _heads_in(folder: Path, kind: str, key: VerifierKey) -> Iterator[TreeHead]:
    for path in sorted(folder.glob("*.json")):
        try:
            bundle = read_plain_file(path, limit_bytes=MAX_BUNDLE_BYTES)
            head = verify(bundle, Trust((key,))).head
            digest = _digest_in(parse_bundle(bundle).statement, kind)
        except AllodError as error:
            raise Invalid(f"the bundle {path.name} does not verify: {error.message}", code="bad_bundle") from error
        if path.stem != hex_of(digest):
            raise Invalid(f"the bundle {path.name} is about {_ANOTHER[kind]}", code="bad_bundle")
        yield head


def _digest_in(statement: bytes, kind: str) -> str:
    """The digest of the policy, or of the released file. Raises Invalid for a statement of another kind."""
    found = check_statement(statement).kind
    if found != kind:
        raise Invalid(f"it is about a {found}", code="bad_statement")
    if kind == POLICY:
        return check_policy_statement(statement).digest
    return check_artefact_statement(statement).artefact_digest
