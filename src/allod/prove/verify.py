"""Verification of a bundle, offline and pure: bytes and trust in, a report out, or the step that failed.

    1 bundle       the bundle parses strictly
    2 log          the tree head is signed by a trusted log
    3 witnesses    the witnesses meet the policy
    4 inclusion    the statement is a leaf of that tree
    5 statement    it is well formed and of a known type
    6 opening      the opening matches the commitments, as far as it was given
    7 times        its times are inside the witnessed window

`VerificationError` is the only error that leaves `verify`. Nothing here reads a file, a clock or the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from allod.core.errors import Invalid, VerificationError
from allod.core.statements.receipt import ANSWER, REFUSAL, Statement, check_statement
from allod.prove.formats.merkle import leaf_hash, root_from_inclusion
from allod.prove.formats.notes import Note, VerifierKey, cosignature_time, is_signed, parse_note
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import Bundle, Opening, parse_bundle
from allod.prove.receipts.commitments import Role, commitment, nonce_of
from allod.prove.trust import Trust

STEPS = ("bundle", "log", "witnesses", "inclusion", "statement", "opening", "times")
NUM_NAMES = 4  # of logs, in an error
SKEW_MS = 60_000  # how far an honest operator's clock may be ahead of an honest witness's


@dataclass(frozen=True, slots=True)
class Step:
    """A step that passed, and what was found."""

    number: int
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """A bundle that verified.

    `level` is the rung of assurance that this evidence alone reaches: `logged` or `witnessed`. `opened` names the
    texts that were checked against their commitments. `witnessed_ms` is None where no witness vouches for a time.
    """

    level: str
    statement: Statement
    head: TreeHead
    index: int
    witnesses: tuple[str, ...]
    opened: tuple[str, ...]
    witnessed_ms: int | None
    steps: tuple[Step, ...]


@dataclass(slots=True)
class _Steps:
    steps: list[Step] = field(default_factory=list)

    def pass_step(self, detail: str) -> None:
        self.steps.append(Step(len(self.steps) + 1, STEPS[len(self.steps)], detail))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Turn whatever is Invalid inside into the failure of the present step."""
        number = len(self.steps) + 1
        try:
            yield
        except Invalid as error:
            raise VerificationError(error.message, step=number, name=STEPS[number - 1], hint=error.hint) from error


def verify(bundle: bytes, trust: Trust, now_ms: int | None = None) -> Report:
    """Check `bundle` against `trust`; with `now_ms`, also that nothing in it claims to be from the future.

    Raises VerificationError, which carries the number and the name of the step that failed.
    """
    progress = _Steps()
    with progress.step():  # 1 bundle
        parsed = parse_bundle(bundle)
        note = parse_note(parsed.proof.note)
        head = TreeHead.of(note)
        progress.pass_step(f"{len(bundle)} bytes")
    with progress.step():  # 2 log
        key = _log_that_signed(note, head, trust)
        progress.pass_step(f"tree head of size {head.size} signed by {key.name}")
    with progress.step():  # 3 witnesses
        times = _cosignatures(note, head, trust)
        progress.pass_step(_check_quorum(times, trust))
    with progress.step():  # 4 inclusion
        _check_inclusion(parsed, head)
        progress.pass_step(f"entry {parsed.proof.index} of {head.size}")
    with progress.step():  # 5 statement
        statement = check_statement(parsed.statement)
        progress.pass_step(f"{statement.kind} {statement.id}")
    with progress.step():  # 6 opening
        opened = _check_opening(parsed.opening, statement)
        progress.pass_step(_detail_of_opening(parsed.opening, opened))
    with progress.step():  # 7 times
        witnessed_ms = _quorum_time_ms(times, trust)
        progress.pass_step(_check_times(statement, witnessed_ms, now_ms))
    level = "logged" if trust.quorum is None else "witnessed"
    steps = tuple(progress.steps)
    return Report(level, statement, head, parsed.proof.index, tuple(times), opened, witnessed_ms, steps)


def _log_that_signed(note: Note, head: TreeHead, trust: Trust) -> VerifierKey:
    claimed = [key for key in trust.logs if key.name == head.origin and note.by(key)]
    if not claimed:
        trusted = " and ".join(sorted({key.name for key in trust.logs})[:NUM_NAMES]) or "no log"
        message = f"no trusted log signed this tree head of {head.origin}; the trust file is of {trusted}"
        raise Invalid(message, hint="is this the right trust file?")
    if not all(is_signed(note, key) for key in claimed):
        raise Invalid(f"the signature by {head.origin} is false")
    return claimed[0]


def _cosignatures(note: Note, head: TreeHead, trust: Trust) -> dict[str, int]:
    """Seconds since 1970 by witness; 0 where a witness says nothing of the time."""
    found = {}
    for name, key in trust.witnesses.items():
        stamp = cosignature_time(note, key, origin=head.origin, size=head.size, root=head.root)
        if stamp is not None:
            found[name] = stamp
    return found


def _check_quorum(times: dict[str, int], trust: Trust) -> str:
    if not trust.is_met_by(times.__contains__):
        raise Invalid(f"cosigned by {len(times)} of {len(trust.witnesses)} known witnesses: below the quorum")
    if trust.quorum is None:
        return "logged, not witnessed: the trust file requires no witness"
    return f"cosigned by {len(times)} of {len(trust.witnesses)} known witnesses: {', '.join(times)}"


def _check_inclusion(bundle: Bundle, head: TreeHead) -> None:
    leaf = leaf_hash(bundle.statement)
    if root_from_inclusion(leaf, bundle.proof.index, head.size, bundle.proof.path) != head.root:
        raise Invalid("the statement is not the entry that the proof speaks of")


def _check_opening(opening: Opening | None, statement: Statement) -> tuple[str, ...]:
    if opening is None:
        return ()
    if statement.kind not in (ANSWER, REFUSAL):
        raise Invalid("this type of statement has nothing to open")
    if nonce_of(opening.salt) != statement.predicate["nonce"]:
        raise Invalid("the salt is not this receipt's")
    texts: dict[Role, str | None] = {"request": opening.request, "answer": opening.answer}
    given = {role: text for role, text in texts.items() if text is not None}
    for role, text in given.items():
        part = statement.predicate[role]
        if part is None or commitment(role, opening.salt, text.encode()) != part["commitment"]:
            raise Invalid(f"the {role} is not the one that was committed to")
    return tuple(given)


def _detail_of_opening(opening: Opening | None, opened: tuple[str, ...]) -> str:
    if opening is None:
        return "no opening given: commitments not checked"
    return f"salt checked; texts checked: {', '.join(opened) or 'none given'}"


def _quorum_time_ms(times: dict[str, int], trust: Trust) -> int | None:
    """The earliest time at which the witnesses that had cosigned by then met the quorum."""
    if trust.quorum is None:
        return None
    for limit in sorted(set(times.values()) - {0}):
        if trust.is_met_by(lambda name, limit=limit: 0 < times.get(name, 0) <= limit):  # type: ignore[misc]
            return limit * 1000
    return None


def _check_times(statement: Statement, witnessed_ms: int | None, now_ms: int | None) -> str:
    for limit_ms, whose in ((witnessed_ms, "the witnesses cosigned"), (now_ms, "now")):
        if limit_ms is not None and statement.end_ms > limit_ms + SKEW_MS:
            raise Invalid(f"it says to have ended after {whose}")
    if witnessed_ms is None:
        return "no witnessed window: times are by the operator's clock alone"
    if now_ms is not None and witnessed_ms > now_ms + SKEW_MS:
        raise Invalid("the witnesses' time is in the future")
    return f"ended before the witnessed time, {witnessed_ms} ms since 1970"
