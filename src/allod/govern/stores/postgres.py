"""Tenants in PostgreSQL 15 or newer: the store that several gateways share.

Every wait is bounded twice: by the server's own limits, and here, for a server that no longer does anything. A server
that was away is found again by the next call. libpq's own environment variables and files apply.
"""

from __future__ import annotations

from collections.abc import Generator
from ipaddress import ip_address
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.govern.stores.database import Connection
from allod.govern.stores.dialect import SqlDialect
from allod.govern.stores.sql import SqlStore

CONNECT_S = 2  # libpq's least
STATEMENT_S = 5
LOCK_S = 2.0

POSTGRES = SqlDialect(
    number="BIGINT",
    text='TEXT COLLATE "C"',
    table_end="",
    begin_read="BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    begin_write="BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
    lock_schema="SELECT pg_advisory_xact_lock(7382915603881)",  # any number that only Allod takes
    for_update="FOR UPDATE",
    checkpoint="",  # the server sees to it
    parameter=r"%(\1)s",
)
_Result = TypeVar("_Result")


def postgres_store(conninfo: str) -> SqlStore:
    """The store in the database that `conninfo` names (libpq's form), its tables made on first use.

    Raises Unavailable (`tenants_unavailable`), and Invalid (`tenants_conninfo`) for one that cannot be read, or that
    would leave the machine without a verified server (`sslmode=verify-full` is then the default).
    """
    return SqlStore(PostgresDatabase(conninfo))


class _Bounded(psycopg.Connection[tuple[Any, ...]]):
    """Gives up on an answer after a while: the server's timeouts need a server that runs."""

    answer_s = STATEMENT_S + 1.0

    def wait(self, gen: Generator[Any, Any, _Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        return super().wait(gen, interval=interval, timeout=self.answer_s if timeout is None else timeout)


class PostgresDatabase:
    """A server that may come and go."""

    dialect = POSTGRES
    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, conninfo: str) -> None:
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
        except psycopg.Error as error:
            raise _bad_conninfo("it cannot be read") from error  # not the error's text: it may hold a password
        self._conninfo = make_conninfo(**_with_tls(given))

    def connect(self) -> _Bounded:
        """See `Database.connect`."""
        connection = _Bounded.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=CONNECT_S,
            client_encoding="utf8",
            application_name="allod",
        )
        try:
            for name, value in (
                ("statement_timeout", f"{STATEMENT_S}s"),
                ("lock_timeout", f"{round(LOCK_S * 1000)}ms"),
                ("idle_in_transaction_session_timeout", f"{STATEMENT_S}s"),
                ("synchronous_commit", "on"),
            ):
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        except BaseException:
            connection.close()
            raise
        return connection

    def is_usable(self, connection: Connection) -> bool:
        """See `Database.is_usable`."""
        try:
            connection.cursor().execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def explain(self, error: Exception) -> AllodError:
        """See `Database.explain`."""
        return Unavailable(
            f"the tenants' database does not answer: {str(error).strip() or type(error).__name__}",
            code="tenants_unavailable",
            retry_after_s=1,
        )


def _with_tls(given: dict[str, str]) -> dict[str, str]:
    """The options, with a verified server wherever they lead off this machine. Raises Invalid for less."""
    everything = {
        option.keyword.decode(): option.val.decode() for option in Conninfo.get_defaults() if option.val is not None
    } | given
    hosts = everything.get("host", "").split(",") + everything.get("hostaddr", "").split(",")
    if all(_is_here(host) for host in hosts):
        return given
    if given.setdefault("sslmode", "verify-full") != "verify-full":
        raise _bad_conninfo("a database on another machine needs sslmode=verify-full")
    return given


def _is_here(host: str) -> bool:
    """Whether it is a Unix socket (libpq's default where none is named) or loopback."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _bad_conninfo(why: str) -> Invalid:
    return Invalid(
        f"the database's conninfo: {why}",
        code="tenants_conninfo",
        hint="for example host=db.example dbname=allod user=allod sslmode=verify-full",
    )
