"""What SQLite and PostgreSQL spell differently, so that every statement is written once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class SqlDialect:
    """The SQL of one database. `parameter` is what `:name` becomes, as `re.sub` takes it."""

    number: str
    text: str  # compared by code point
    table_end: str
    begin_read: str  # one unchanging view for all reads of a transaction
    begin_write: str
    lock_schema: str  # so that two first starts at once make the tables once
    for_update: str
    checkpoint: str  # brings what was committed into the file that a copy is made of
    parameter: str

    def spell(self, statement: str) -> str:
        """The statement as this database wants it."""
        return _spell(statement, self)


@cache
def _spell(statement: str, dialect: SqlDialect) -> str:
    for word in ("number", "text", "table_end", "for_update"):
        statement = statement.replace("{" + word + "}", getattr(dialect, word))
    return re.sub(r":([a-z]\w*)", dialect.parameter, statement)
