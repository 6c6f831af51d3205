"""Claims decided from the receipts' log: one pass over it, and the receipts that break the claim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid, VerificationError
from allod.core.statements import KNOWN_TYPES, check_statement
from allod.govern.claims import Claim
from allod.prove.notes import VerifierKey
from allod.prove.reading import LogRead, bundles_of, read_log

MAX_SHOWN = 1000  # breaking receipts; more are counted


@dataclass(frozen=True, slots=True)
class Breach:
    """A receipt that breaks the claim, by the number of its entry."""

    entry: int
    receipt_id: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the log says of a claim. `breaches` are the first `MAX_SHOWN` of `num_breaking`; `read` is the log."""

    claim: Claim
    read: LogRead
    num_concerned: int
    num_breaking: int
    breaches: tuple[Breach, ...]

    @property
    def holds(self) -> bool:
        """Whether no entry of the log breaks the claim."""
        return self.num_breaking == 0


def judge_log(claim: Claim, directory: Path, key: VerifierKey) -> Judgement:
    """Read the whole log in `directory` and judge each entry. Takes no lock; a gateway may go on writing.

    Raises Invalid (`no_log`) where there is none, and VerificationError: (`log`) unless what was read is the log that
    `key` signed, (`statement`) for an entry that nobody could judge. A claim is not said to hold past either.
    """
    num_concerned, num_breaking, breaches = 0, 0, list[Breach]()

    def see(number: int, entry: bytes) -> None:
        nonlocal num_concerned, num_breaking
        try:
            verdict = _judged(claim, entry)
        except Invalid as error:
            raise VerificationError(f"entry {number}: {error.message}", step=2, name="statement") from error
        num_concerned += verdict != "not concerned"
        if verdict == "breaks":
            num_breaking += 1
            if len(breaches) < MAX_SHOWN:
                breaches.append(Breach(number, check_statement(entry).id))

    try:
        read = read_log(directory, key, see)
    except Invalid as error:
        if error.code == "no_log":
            raise
        raise VerificationError(error.message, step=1, name="log", hint=error.hint) from error
    return Judgement(claim, read, num_concerned, num_breaking, tuple(breaches))


def bundles_of_breaches(judgement: Judgement, directory: Path, key: VerifierKey) -> Iterator[tuple[Breach, bytes]]:
    """The bundle of each breach, in the tree that was judged. Raises Invalid if the log has changed since."""
    bundles = bundles_of(directory, key, judgement.read, [breach.entry for breach in judgement.breaches])
    return zip(judgement.breaches, bundles, strict=True)


def _judged(claim: Claim, entry: bytes) -> str:
    """Canonical bytes can be read in one way only; the claim itself checks what it reads, and `verify` all the rest."""
    try:
        value = json.loads(entry)
        kind, predicate = value["predicateType"], value["predicate"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Invalid("it is no statement", code="bad_statement") from error
    if canonical_json(value) != entry or kind not in KNOWN_TYPES:
        raise Invalid("it is not canonical, or of no known type", code="bad_statement")
    return claim.judge(predicate, kind)
