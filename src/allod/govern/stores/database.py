"""Transactions over a few kept connections, the same for SQLite and PostgreSQL.

A connection that failed is closed, never used again; the next call makes a new one. So a database that went away and
came back is found again by itself, and no call waits longer than the database's own limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore, Lock
from typing import Any, Protocol

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.govern.stores.dialect import SqlDialect

MAX_CONNECTIONS = 8
WAIT_S = 2.0  # for a free connection
Row = tuple[Any, ...]


class Connection(Protocol):
    """What sqlite3 and psycopg have in common, in autocommit mode."""

    def cursor(self) -> Any: ...
    def close(self) -> None: ...


class Database(Protocol):
    """What an adapter brings. `errors` is all that its connections raise."""

    dialect: SqlDialect
    errors: tuple[type[Exception], ...]

    def connect(self) -> Connection:
        """A new connection. Raises one of `errors`, or Unavailable."""
        ...

    def is_usable(self, connection: Connection) -> bool:
        """Whether a connection that lay idle still leads to the database."""
        ...

    def explain(self, error: Exception) -> AllodError:
        """What one of `errors` means to the caller."""
        ...


class Transaction:
    """An open transaction. In a statement `:name` stands for a value; `{for_update}` and the like are spelt out."""

    def __init__(self, connection: Connection, dialect: SqlDialect) -> None:
        self._cursor = connection.cursor()
        self._dialect = dialect

    def execute(self, statement: str, /, **values: object) -> list[Row]:
        """The rows of one statement; none for a statement that returns none."""
        _check_storable(values)
        self._cursor.execute(self._dialect.spell(statement), values)
        return list(self._cursor.fetchall()) if self._cursor.description else []

    def execute_many(self, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
        """The statement once for each of `rows`."""
        for row in rows:
            _check_storable(row)
        self._cursor.executemany(self._dialect.spell(statement), rows)


class Transactions:
    """Lends each caller a connection of its own inside a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Statements that see one state of the database."""
        with self._transaction(self._database.dialect.begin_read) as transaction:
            yield transaction

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Statements that happen all or not at all; durable when the block has ended without an error."""
        with self._transaction(self._database.dialect.begin_write) as transaction:
            yield transaction

    def checkpoint(self) -> None:
        """Bring what was committed into the database's own file, as far as that delays nobody."""
        if self._database.dialect.checkpoint:
            with self._connect() as transaction:
                transaction.execute(self._database.dialect.checkpoint)

    def close(self) -> None:
        """Close what lies idle, and what is lent when it comes back."""
        with suppress(AllodError):  # it is closed already, or its file is gone
            self.checkpoint()
        with self._lock:
            self._closed = True
        self._drop_idle()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self._connect() as transaction:
            transaction.execute(begin)
            try:
                yield transaction
            except BaseException:
                with suppress(*self._database.errors):
                    transaction.execute("ROLLBACK")
                raise
            transaction.execute("COMMIT")

    @contextmanager
    def _connect(self) -> Iterator[Transaction]:
        if not self._free.acquire(timeout=WAIT_S):
            raise Unavailable("the tenants' database is too slow", code="tenants_unavailable", retry_after_s=1)
        try:
            with self._lend() as connection:
                yield Transaction(connection, self._database.dialect)
        except self._database.errors as error:
            raise self._database.explain(error) from error
        finally:
            self._free.release()

    @contextmanager
    def _lend(self) -> Iterator[Connection]:
        connection = self._take()
        try:
            yield connection
        except Invalid:  # the transaction was rolled back, the connection is sound
            self._give(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._give(connection)

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise Unavailable("the tenants' database is closed", code="tenants_unavailable")
            connection = self._idle.pop() if self._idle else None
        if connection is not None and self._database.is_usable(connection):
            return connection
        if connection is not None:  # what ended one has most likely ended all
            connection.close()
            self._drop_idle()
        return self._database.connect()

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _check_storable(values: Mapping[str, object]) -> None:
    """Raise Invalid for a text that PostgreSQL cannot hold, before the driver meets it."""
    for value in values.values():
        if isinstance(value, str) and ("\x00" in value or not _is_unicode(value)):
            raise Invalid("a text holds what is not a character", code="invalid")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
