"""Tenants in one SQLite file: the store of a realm with one gateway.

Write-ahead log, synchronised fully: a change is durable when its call returns. Other processes, such as the command
line, may use the file at the same time; who waits for them longer than `BUSY_S` gets Unavailable.

The newest changes lie in the file next to it that ends in `-wal`, not yet in the file itself. So a backup is made with
`sqlite3 tenants.sqlite ".backup copy"`, at any time, or by copying all three files while nothing uses them; the file
alone has what was there at the start, or at the latest checkpoint since.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.files.whole import sync
from allod.govern.stores.database import Connection
from allod.govern.stores.dialect import SqlDialect
from allod.govern.stores.sql import SqlStore

# Requests wait for leases that long, so it is short: while another holds the file, each is told so before the next
# waits. It is still far longer than any change or batch of receipts takes (milliseconds, and a slow disk's sync), and
# a change that is refused has changed nothing and can be sent again.
BUSY_S = 0.5

SQLITE = SqlDialect(
    number="INTEGER",
    text="TEXT",
    table_end=" STRICT, WITHOUT ROWID",  # strict: a sum that overflows is an error, not a rounded number
    begin_read="BEGIN",
    begin_write="BEGIN IMMEDIATE",
    lock_schema="",
    for_update="",  # whoever writes holds the whole file
    checkpoint="PRAGMA wal_checkpoint(PASSIVE)",  # waits for nobody, and nobody for it
    parameter=r":\1",
)


def sqlite_store(path: Path) -> SqlStore:
    """The store in this file, made on first use, mode 0600.

    Raises Unavailable (`tenants_corrupt`, `tenants_unavailable`), and Invalid (`tenants_permissions`) when others than
    its owner can touch it: who can write it can let themselves in.
    """
    return SqlStore(SqliteDatabase(path))


class SqliteDatabase:
    """The file that was there at the start. If it is removed or replaced, nothing answers from what is left of it."""

    dialect = SQLITE
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _make(path)
            state = path.stat()
        except OSError as error:
            raise _unavailable(f"cannot be opened: {error.strerror}") from error
        if state.st_mode & 0o077 or state.st_uid != os.geteuid():
            raise Invalid(
                f"{path} must be a file that only its owner can touch",
                code="tenants_permissions",
                hint=f"chmod 600 {path}",
            )
        self._identity = state.st_dev, state.st_ino
        self._check_whole()

    def connect(self) -> sqlite3.Connection:
        """See `Database.connect`. Its connections go from thread to thread, one at a time."""
        if not self._is_there():
            raise _unavailable(
                "was removed or replaced while in use", hint="put the file back and restart, or restart to use another"
            )
        connection = sqlite3.connect(
            f"file:{quote(os.fspath(self._path))}?mode=rw",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def is_usable(self, connection: Connection) -> bool:
        """See `Database.is_usable`. SQLite itself would go on with a file that has no name any more."""
        return self._is_there()

    def explain(self, error: Exception) -> AllodError:
        """See `Database.explain`."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says in which place
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return _corrupt(str(error))
        if code == sqlite3.SQLITE_BUSY:
            return _unavailable("is locked by another process")
        return _unavailable(f"does not answer: {error}")

    def _is_there(self) -> bool:
        try:
            state = self._path.stat()
        except OSError:
            return False
        return (state.st_dev, state.st_ino) == self._identity

    def _check_whole(self) -> None:
        try:
            connection = self.connect()
            try:
                [(finding,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self.explain(error) from error
        if finding != "ok":
            raise _corrupt(finding)


def _make(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    os.close(handle)
    sync(path.parent)


def _unavailable(what: str, hint: str | None = None) -> Unavailable:
    return Unavailable(f"the tenants' database {what}", code="tenants_unavailable", hint=hint, retry_after_s=1)


def _corrupt(finding: str) -> Unavailable:
    return Unavailable(
        f"the tenants' database is damaged: {finding}",
        code="tenants_corrupt",
        hint="restore the file from a backup; usage is then rebuilt from the log",
    )
