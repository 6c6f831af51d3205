"""Claims decided from the receipts' log: one pass over it, and the receipts that break the claim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid, VerificationError
from allod.core.statements.receipt import KNOWN_TYPES, check_statement
from allod.govern.policy.claims import Claim
from allod.prove.formats.notes import VerifierKey
from allod.prove.receipts.from_log import bundles_of
from allod.prove.tlog.reader import LogRead, read_log

MAX_SHOWN = 1000  # breaking receipts; more are counted


@dataclass(frozen=True, slots=True)
class Breach:
    """A receipt that breaks the claim, by the number of its entry."""

    entry: int
    receipt_id: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the log says of a claim. `breaches` are the first `MAX_SHOWN` of `num_breaking`, `unreadable` the numbers of
    the first `MAX_SHOWN` entries that nobody can judge, of `num_unreadable`; `read` is the log."""

    claim: Claim
    read: LogRead
    num_concerned: int
    num_breaking: int
    breaches: tuple[Breach, ...]
    num_unreadable: int = 0
    unreadable: tuple[int, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every entry of the log can be judged, and none breaks the claim."""
        return self.num_breaking == 0 and self.num_unreadable == 0

    @property
    def is_undecided(self) -> bool:
        """Whether no entry breaks the claim that can be judged, and there are others."""
        return self.num_breaking == 0 and self.num_unreadable > 0


def judge_log(claim: Claim, directory: Path, key: VerifierKey) -> Judgement:
    """Read the whole log in `directory` and judge each entry. Takes no lock; a gateway may go on writing.

    An entry that is no valid statement is counted and named: it may be the one that breaks the claim, so the claim is
    not said to hold past it. Raises Invalid (`no_log`) where there is none, and VerificationError (`log`) unless what
    was read is the log that `key` signed.
    """
    num_concerned, num_breaking, num_unreadable = 0, 0, 0
    breaches, unreadable = list[Breach](), list[int]()

    def see(number: int, entry: bytes) -> None:
        nonlocal num_concerned, num_breaking, num_unreadable
        try:
            verdict = _judge_entry(claim, entry)
            breach = Breach(number, check_statement(entry).id) if verdict == "breaks" else None
        except Invalid:
            num_unreadable += 1
            if len(unreadable) < MAX_SHOWN:
                unreadable.append(number)
            return
        num_concerned += verdict != "not concerned"
        if breach is not None:
            num_breaking += 1
            if len(breaches) < MAX_SHOWN:
                breaches.append(breach)

    try:
        read = read_log(directory, key, see)
    except Invalid as error:
        if error.code == "no_log":
            raise
        raise VerificationError(error.message, step=1, name="log", hint=error.hint) from error
    return Judgement(claim, read, num_concerned, num_breaking, tuple(breaches), num_unreadable, tuple(unreadable))


def bundles_of_breaches(judgement: Judgement, directory: Path, key: VerifierKey) -> Iterator[tuple[Breach, bytes]]:
    """The bundle of each breach, in the tree that was judged. Raises Invalid if the log has changed since."""
    bundles = bundles_of(directory, key, judgement.read, [breach.entry for breach in judgement.breaches])
    return zip(judgement.breaches, bundles, strict=True)


def _judge_entry(claim: Claim, entry: bytes) -> str:
    """Canonical bytes can be read in one way only; the claim itself checks what it reads, and `verify` all the rest."""
    try:
        value = json.loads(entry)
        kind, predicate = value["predicateType"], value["predicate"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Invalid("it is no statement", code="bad_statement") from error
    if canonical_json(value) != entry or kind not in KNOWN_TYPES:
        raise Invalid("it is not canonical, or of no known type", code="bad_statement")
    return claim.judge(predicate, kind)
