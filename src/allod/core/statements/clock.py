"""Clock statements: that the operator says this machine's clock is right, as a leaf of the artefacts log.

Receipts of one log whose times do not follow from those before it are explained by such a statement, or by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid
from allod.core.statements.receipt import STATEMENT_TYPE, check_statement
from allod.core.statements.shapes import AT, check_shape, is_count, is_id, is_text

CLOCK = "urn:allod:clock:v1"
_SHAPE = {"id": is_id, "at": AT, "log": is_text, "entries": is_count, "who": is_text}


@dataclass(frozen=True, slots=True)
class ClockAccepted:
    """At `at_ms`, by the clock that was accepted, `log` had this many entries under `root` (hex). `who` said so."""

    id: str
    at_ms: int
    log: str
    entries: int
    root: str
    who: str


def clock_statement(accepted: ClockAccepted) -> bytes:
    """The canonical statement. Raises Invalid for what `check_clock_statement` would refuse."""
    at = {"start_ms": accepted.at_ms, "end_ms": accepted.at_ms}
    data = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "predicateType": CLOCK,
            "subject": [{"name": "log", "digest": {"sha256": accepted.root}}],
            "predicate": {
                "id": accepted.id, "at": at, "log": accepted.log, "entries": accepted.entries, "who": accepted.who,
            },
        }
    )  # fmt: skip
    check_clock_statement(data)
    return data


def check_clock_statement(data: bytes) -> ClockAccepted:
    """What was accepted, if `data` is a well-formed statement of this type with exactly its fields. Raises Invalid."""
    statement = check_statement(data)
    if statement.kind != CLOCK:
        raise Invalid(f"not a clock statement: it is a {statement.kind}", code="bad_statement")
    held = dict(statement.predicate)
    check_shape(_SHAPE, held, "predicate")
    root = data.rpartition(b'"sha256":"')[2][:64].decode()
    return ClockAccepted(statement.id, statement.end_ms, held["log"], held["entries"], root, held["who"])
